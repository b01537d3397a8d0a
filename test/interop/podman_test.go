package interop

import (
	"encoding/json"
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

// start runs the workload under Podman, and waits until it counts.
func startPodman(t *testing.T, p *env.Podman, name string, flags ...string) *env.Container {
	t.Helper()
	args := append([]string{"run", "--detach", "--name", name, "--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, flags...)
	p.Run(t, append(append(args, baseImage), workload()...)...)
	c := inPodman(t, p, name)
	c.WaitTick(t, 3)
	return c
}

// What Podman exports restores through runc and without any runtime, on a host that has no
// Podman: with its files, its volume, its shared memory, and stand-ins for what Podman had made.
func TestPodmanInOurs(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			env.Leaks(t, "iop"+strconv.Itoa(os.Getpid()))
			h, p := newHost(t), env.NewPodman(t)
			p.Image(t, h.base, baseImage)
			c := startPodman(t, p, "shop", "--volume", "goods:/mnt")
			writeFile(t, c.Path("/mnt/in the volume"), "goods")
			writeFile(t, c.Path("/dev/shm/shared"), "shared")
			writeFile(t, c.Path("/tmp/new file"), "new")
			file := h.path("podman.tar.zst")
			p.Run(t, "container", "checkpoint", "--export", file, "shop")
			p.Run(t, "rm", "--force", "--time", "0", "shop")

			id := h.id("shop")
			var said struct {
				PID int
			}
			decode(t, h.ok("--json", "restore", "--detach", "--engine", engine, "--base", h.base, "--id", id, file), &said)
			runtime := "runc"
			if engine == "direct" {
				runtime = env.Direct
			}
			r := env.Adopt(t, env.Container{ID: id, PID: said.PID, Runtime: runtime, Root: h.path("runc"), Log: h.path("log")})
			if tick := r.Verify(t).Tick; tick < 3 {
				t.Errorf("it began anew: tick %d", tick)
			}
			for name, want := range map[string]string{"/mnt/in the volume": "goods", "/dev/shm/shared": "shared", "/tmp/new file": "new", "/run/.containerenv": ""} {
				if got, err := os.ReadFile(r.Path(name)); err != nil || string(got) != want {
					t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
				}
			}
		})
	}
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	must(t, json.Unmarshal([]byte(text), v))
}
