package runtime

import (
	"path/filepath"
	"slices"
	"strings"
)

// The engines that manage containers of the runtimes.
const (
	Podman     = "podman"
	Docker     = "docker"
	Containerd = "containerd"
	CRIO       = "cri-o"
)

// engine is what one engine does differently from the others.
type engine struct {
	name string
	// roots are patterns below / of the state directories that it gives to runtimes, besides the
	// runtimes' own defaults.
	roots []string
	// made tells the engine's containers by the place of their bundle: annotations
	// travel with archives and say who made the first generation only.
	made func(c *Container) bool
	// describe fills Name, Pod, Namespace and Image from files.
	describe func(s *survey, c *Container)
	// idle gives the ID of the container that the engine keeps under name or ID, running or not.
	idle func(s *survey, name string) string
	// after is the hint of [Container.AfterStop].
	after func(c *Container) string
}

// engines is the table of all engines.
func engines() []engine {
	return []engine{
		{
			name: Podman, made: madeByPodman,
			describe: describePodman, idle: idlePodman, after: afterPodman,
		},
		{
			name: Docker, made: madeByDocker,
			// The pattern covers the runtimes that an administrator added, and
			// namespaces of a containerd that is not Docker's own.
			roots:    []string{"run/docker/runtime-*/*"},
			describe: describeDocker, idle: idleDocker, after: afterDocker,
		},
		{
			name: Containerd, made: madeByContainerd,
			// A crun that runs in place of runc uses runc's directory.
			roots:    []string{"run/containerd/runc/*", "run/containerd/runsc/*"},
			describe: describeContainerd, after: afterContainerd,
		},
		{
			name: CRIO, made: madeByCRIO,
			describe: describeCRIO, after: afterCRIO,
		},
	}
}

// userRoots are patterns of state directories below a user's runtime directory: those of
// the runtimes and of rootless Podman, and of rootless Docker.
func userRoots() []string {
	roots := []string{"docker/runtime-*/*"}
	for _, k := range kinds() {
		roots = append(roots, k.name)
	}
	return roots
}

// managed fills in which engine manages the container, and what it calls it.
func (s *survey) managed(c *Container) {
	i := slices.IndexFunc(engines(), func(e engine) bool { return e.made(c) })
	if i < 0 {
		return
	}
	e := engines()[i]
	c.Engine = e.name
	e.describe(s, c)
}

// taskNamespace is containerd's namespace of the container, if its bundle is one of containerd's
// tasks: …/io.containerd.runtime.v2.task/NAMESPACE/ID.
func taskNamespace(c *Container) string {
	namespace, id := filepath.Split(c.Bundle)
	namespace = filepath.Clean(namespace)
	if id != c.ID || !strings.HasPrefix(filepath.Base(filepath.Dir(namespace)), "io.containerd.runtime.v") {
		return ""
	}
	return filepath.Base(namespace)
}

// dockerNamespace is the namespace of containerd in which Docker keeps its containers.
const dockerNamespace = "moby"

func madeByDocker(c *Container) bool { return taskNamespace(c) == dockerNamespace }

func madeByContainerd(c *Container) bool {
	namespace := taskNamespace(c)
	return namespace != "" && namespace != dockerNamespace
}

// storage gives the directory of containers/storage in which the container's bundle lies:
// STORAGE/overlay-containers/ID/userdata.
func storage(c *Container) string {
	dir, ok := strings.CutSuffix(c.Bundle, "/"+c.ID+"/userdata")
	if !ok || !strings.HasSuffix(dir, "-containers") {
		return ""
	}
	return filepath.Dir(dir)
}

func madeByPodman(c *Container) bool {
	return storage(c) != "" && c.annotation(managerKey) != managerCRIO
}

func madeByCRIO(c *Container) bool {
	return storage(c) != "" && c.annotation(managerKey) == managerCRIO
}

// annotation is the value of a key of the container's config.json, or empty.
func (c *Container) annotation(key string) string {
	if c.Spec == nil {
		return ""
	}
	return c.Spec.Annotations[key]
}
