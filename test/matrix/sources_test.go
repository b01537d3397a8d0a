package matrix

import (
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/test/env"
)

// source is a row: who runs the container, and who dumps it.
type source struct {
	name    string
	quick   bool // a part of `make test`
	needs   []string
	start   func(h *host) *env.Container
	export  func(h *host) []string
	sandbox bool     // the images are those of runsc
	maps    []string // bind mounts that the engine makes
	allow   []string // what the restore has to grant
}

// destination is a column: who restores.
type destination struct {
	name  string
	needs []string
	flags func(h *host) []string
}

func destinations() []destination {
	all := []destination{
		{env.Direct, nil, func(*host) []string { return []string{"--engine", "direct"} }},
		byRuntime("runc"), byRuntime("crun"), byRuntime("runsc"),
	}
	if os.Getenv(full) != "" {
		all = append(all, byRuntime("youki"))
	}
	return all
}

func byRuntime(name string) destination {
	return destination{name, []string{name}, func(h *host) []string {
		return []string{"--runtime", env.Program(h.t, name), "--runtime-root", h.path("runtime")}
	}}
}

func sources() []source {
	rows := []source{}
	for _, runtime := range []string{"runc", "crun", "youki"} {
		for _, engine := range []string{"direct", "runtime"} {
			name := runtime + " checkpoint"
			if engine == "direct" {
				name = "direct of " + runtime
			}
			opts, allow := env.BundleOptions{}, []string(nil)
			if runtime == "youki" {
				// youki makes them writable whatever the spec says.
				opts.Edit, allow = writableCgroups, []string{"--allow", "paths:unmasked"}
			}
			rows = append(rows, source{
				name: name, allow: allow, quick: runtime != "youki", needs: []string{runtime},
				start: func(h *host) *env.Container {
					return env.Run(h.t, runtime, h.path("runtime"), h.token, h.bundle(opts))
				},
				export: func(h *host) []string { return append(byRuntime(runtime).flags(h), "--engine", engine) },
			})
		}
	}
	return append(rows, ofRunsc(), ofPodman(), ofContainerd())
}

func writableCgroups(spec *specs.Spec) {
	for i, m := range spec.Mounts {
		if m.Type == "cgroup" {
			spec.Mounts[i].Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		}
	}
}

// ofRunsc is a container of gVisor. Its files are seen on the host in the volume only.
func ofRunsc() source {
	return source{
		name: "runsc checkpoint", quick: true, needs: []string{"runsc"}, sandbox: true,
		start: func(h *host) *env.Container {
			c := env.Run(h.t, "runsc", h.path("runtime"), h.token, h.bundle(env.BundleOptions{
				NoCgroupMount: true, Args: workload("--status", "/vol/status"),
			}))
			c.Shared = h.path("volume")
			return c
		},
		export: func(h *host) []string { return append(byRuntime("runsc").flags(h), "--engine", "runtime") },
	}
}

// impossible gives the reason why a destination cannot restore the row's
// container, for the table, and the words in which ckarchive says so. Both are
// empty where it can.
func (s source) impossible(d destination) (reason, says string) {
	switch {
	case s.sandbox && d.name != "runsc":
		return "no: images of gVisor's kernel", "runsc"
	case s.sandbox && withoutControllers():
		return "no: runsc needs cgroup controllers, which are in version 1 here", "mandatory cgroup controller"
	case s.sandbox:
		return "", ""
	case d.name == "runsc":
		return "no: images of CRIU", "runsc: runtime cannot restore images of CRIU"
	case d.name == "youki":
		return "no: youki has no restore", "youki: runtime cannot restore images of CRIU"
	}
	return "", ""
}

// withoutControllers tells that cgroups are of version 2 and their controllers are not, as on
// a hybrid machine.
func withoutControllers() bool {
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && !slices.Contains(strings.Fields(string(controllers)), "cpu")
}
