package runtime

import (
	"path/filepath"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
)

// dockerContainer is the part of dockerd's config.v2.json that tells what a container is.
type dockerContainer struct {
	ID     string
	Name   string // begins with /
	Image  string // of dockerd's own store the config digest, of containerd's the index
	Driver string
	Config struct {
		Image string // as the user named it
	}
	// ImageManifest is there only if the image is in containerd's store.
	ImageManifest *struct {
		Digest string `json:"digest"`
	}
}

const dockerConfig = "config.v2.json"

// describeDocker finds dockerd's file on the container.
func describeDocker(s *survey, c *Container) {
	c.Namespace = dockerNamespace
	for _, dir := range dockerDirs(s, c) {
		var d dockerContainer
		if readJSON(filepath.Join(dir, dockerConfig), &d) != nil || d.ID != c.ID {
			continue
		}
		c.Name = strings.TrimPrefix(d.Name, "/")
		c.Image = d.base(filepath.Dir(filepath.Dir(dir)))
		return
	}
}

// dockerDirs are the directories in which dockerd may keep the container's files: the
// one that hosts and resolv.conf are mounted from, wherever dockerd's data is, then the
// usual one.
func dockerDirs(s *survey, c *Container) []string {
	dirs := []string{}
	if c.Spec != nil {
		for _, m := range c.Spec.Mounts {
			if dir := filepath.Dir(m.Source); filepath.Base(dir) == c.ID && filepath.IsAbs(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return append(dirs, s.host.path(filepath.Join("/var/lib/docker/containers", c.ID)))
}

// base is the image of the container, with the layers that dockerd's directory data tells.
func (d dockerContainer) base(data string) *archive.Base {
	b := &archive.Base{}
	id := strings.TrimPrefix(d.Image, "sha256:")
	// Docker allows an image to be named by the beginning of its ID.
	if name := strings.TrimPrefix(d.Config.Image, "sha256:"); !strings.HasPrefix(id, name) {
		b.Image = dockerName(d.Config.Image)
	}
	if d.ImageManifest != nil {
		b.Manifest = d.ImageManifest.Digest
		return b
	}
	b.ImageID = d.Image
	if id != "" && d.Driver != "" && !strings.ContainsAny(d.Driver+id, "/.") {
		b.DiffIDs = diffIDs(filepath.Join(data, "image", d.Driver, "imagedb", "content", "sha256", id))
	}
	return b
}

// dockerName writes out what Docker leaves away of an image's name.
func dockerName(name string) string {
	host, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		name = "docker.io/" + name
	}
	if !strings.ContainsAny(name[strings.LastIndexByte(name, '/'):], ":@") {
		name += ":latest"
	}
	return name
}

// idleDocker looks among dockerd's containers.
func idleDocker(s *survey, name string) string {
	for _, path := range glob(s.host.path("/var/lib/docker/containers"), "*/"+dockerConfig) {
		var d dockerContainer
		if readJSON(path, &d) == nil && (d.ID == name || d.Name == "/"+name) {
			return d.ID
		}
	}
	return ""
}
