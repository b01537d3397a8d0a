package interop

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

const baseImage = "localhost/interop/base:1"

// inPodman finds the first process of a container of Podman.
func inPodman(t *testing.T, p *env.Podman, name string) *env.Container {
	t.Helper()
	pid, err := strconv.Atoi(p.Run(t, "inspect", "--format", "{{.State.Pid}}", name))
	must(t, err)
	c := env.Watch(t, env.Container{ID: name, PID: pid, Log: filepath.Join(t.TempDir(), "output")})
	return c
}

// Archives of a plain container of runc, and of the container that Podman made of it, restore in
// Podman, as a file and as an image, with the same memory and files.
func TestOursInPodman(t *testing.T) {
	env.Leaks(t, "iop"+strconv.Itoa(os.Getpid()))
	h, p := newHost(t), env.NewPodman(t)
	id := p.Image(t, h.base, baseImage)
	c := h.start("plain", env.BundleOptions{Args: workload(), HostNetwork: true})
	torture(t, c.Path("/"))
	want := snapshot(t, c.Path("/"))
	before := h.path("plain.tar.zst")
	h.ok("export", "--base", h.base, "--name", "plain", c.ID, before)
	file := h.path("podman.tar")
	h.ok("convert", "--to", "podman", "--base-image", baseImage, "--base-id", id, before, file)

	p.Run(t, "container", "restore", "--import", file)
	r := inPodman(t, p, "plain")
	tick := r.Verify(t).Tick
	wantSame(t, snapshot(t, r.Path("/")), want)
	if tick < 3 {
		t.Errorf("it began anew: tick %d", tick)
	}
}
