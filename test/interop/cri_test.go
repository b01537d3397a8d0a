package interop

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// mark is in the names of what a test makes on the machine.
func mark() string { return "iop" + strconv.Itoa(os.Getpid()) }

// engines are those of the Container Runtime Interface, which `make interop` builds.
func engines() map[string]func(testing.TB, string) *env.CRI {
	if os.Getenv(fullRun) == "" {
		return nil
	}
	return map[string]func(testing.TB, string) *env.CRI{"containerd": env.NewContainerd, "cri-o": env.NewCRIO}
}

const checkpointImage = "localhost/interop/checkpoint:v1"

// A container of runc goes on as one of a pod, from a file and from an image, with the same memory and
// files.
func TestOursInCRI(t *testing.T) {
	for name, engine := range engines() {
		t.Run(name, func(t *testing.T) {
			env.Leaks(t, mark())
			h, cri := newHost(t), engine(t, mark())
			id := cri.Image(t, h.base, baseImage)
			known := []string{"--base-image", baseImage, "--base-id", id}
			c := h.start("plain", env.BundleOptions{Args: workload(), HostNetwork: true})
			torture(t, c.Path("/"))
			want := snapshot(t, c.Path("/"))
			file := h.path("checkpoint.tar.zst")
			h.ok("export", "--base", h.base, "--name", "moved", c.ID, file)

			h.ok(append([]string{"convert", "--to", name, file, h.path("engine.tar")}, known...)...)
			h.ok(append([]string{"convert", "--to", "image", file, "oci:" + h.path("layout") + ":v1"}, known...)...)
			h.ok("push", "oci:"+h.path("layout")+":v1", "oci-archive:"+h.path("image.tar")+":v1")
			cri.Load(t, h.path("image.tar"), checkpointImage)
			if name == "containerd" {
				cri.Ctr(t, "images", "tag", baseImage, id) // the name that CRI-O wants in config.dump
			}
			pod := cri.Pod(t)
			for _, image := range []string{h.path("engine.tar"), checkpointImage} {
				r := pod.Start(t, "moved", image, workload())
				if tick := r.Verify(t).Tick; tick < 3 {
					t.Errorf("%s: it began anew: tick %d", image, tick)
				}
				wantSame(t, snapshot(t, r.Path("/")), want)
				pod.Remove(t, r)
			}
		})
	}
}

// What CRI engines write of their containers goes on under runc, crun and without any runtime, without
// the pod that they were in.
func TestCRIInOurs(t *testing.T) {
	for name, engine := range engines() {
		t.Run(name, func(t *testing.T) {
			env.Leaks(t, mark())
			h, cri := newHost(t), engine(t, mark())
			cri.Image(t, h.base, baseImage)
			pod := cri.Pod(t)
			c := pod.Start(t, "shop", baseImage, workload())
			c.WaitTick(t, 3)
			torture(t, c.Path("/"))
			want := snapshot(t, c.Path("/"))
			file := h.path("theirs.tar")
			pod.Checkpoint(t, c, file)
			pod.Remove(t, c)
			again := pod.Start(t, "shop", file, workload())
			again.Verify(t)
			alone := snapshot(t, again.Path("/"))
			pod.Remove(t, again)
			imported := h.readByAll(name, file)
			for by, src := range map[string]string{"runc": file, "crun": imported, env.Direct: imported} {
				r := h.restoreHere(t, by, src, "--allow", "host:network")
				for _, ns := range []string{"ipc", "uts", "mnt", "pid"} {
					if sameNamespace(t, r.PID, ns) {
						t.Errorf("%s: its %s namespace is the host's", by, ns)
					}
				}
				wantKept(t, snapshot(t, r.Path("/")), alone, want)
			}
			tellLost(t, name, want, column{name + "'s own", alone})
		})
	}
}

// sameNamespace tells whether a process has a namespace of the test's own.
func sameNamespace(t *testing.T, pid int, name string) bool {
	t.Helper()
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	must(t, err)
	ours, err := os.Readlink("/proc/self/ns/" + name)
	must(t, err)
	return theirs == ours
}

// restoreHere restores a checkpoint through a runtime or directly, and it has to go on.
func (h *host) restoreHere(t *testing.T, by, file string, flags ...string) *env.Container {
	t.Helper()
	id, host, runtime := h.id("here-"+by), *h, by
	args := []string{"--json", "restore", "--detach", "--base", h.base, "--id", id}
	switch by {
	case env.Direct:
		args = append(args, "--engine", by)
	case "crun": // it refuses a machine with cgroups of both versions
		view := env.CgroupViews(t)[0]
		args = append(args, "--runtime", env.RequireCrun(t))
		host.ckarchive, runtime = env.ByCgroups(t, view, h.ckarchive), env.ByCgroups(t, view, env.RequireCrun(t))
	default:
		args = append(args, "--runtime", env.Program(t, by))
	}
	var said struct{ PID int }
	decode(t, host.ok(append(append(args, flags...), file)...), &said)
	r := env.Adopt(t, env.Container{ID: id, PID: said.PID, Runtime: runtime, Root: h.path("runc"), Log: h.path("log")})
	if tick := r.Verify(t).Tick; tick < 3 {
		t.Errorf("%s: it began anew: tick %d", by, tick)
	}
	return r
}
