package interop

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// engine is one that makes checkpoints of its containers and restores those of others.
type engine struct {
	name    string
	baseID  string   // of the base image in its store
	facts   []string // flags with what its checkpoints do not say
	run     func(t *testing.T) *env.Container
	dump    func(t *testing.T, c *env.Container, file string) // the container is removed
	restore func(t *testing.T, file string) *env.Container
	remove  func(t *testing.T, c *env.Container)
}

func criEngine(t *testing.T, h *host, cri *env.CRI) *engine {
	e := &engine{name: cri.Engine, baseID: cri.Image(t, h.base, baseImage)}
	pod := cri.Pod(t)
	e.run = func(t *testing.T) *env.Container { return pod.Start(t, "shop", baseImage, workload()) }
	e.restore = func(t *testing.T, file string) *env.Container { return pod.Start(t, "shop", file, workload()) }
	e.remove = func(t *testing.T, c *env.Container) { pod.Remove(t, c) }
	e.dump = func(t *testing.T, c *env.Container, file string) {
		pod.Checkpoint(t, c, file)
		pod.Remove(t, c)
	}
	return e
}

// ctrEngine is containerd's client, in place of the CRI.
func ctrEngine(t *testing.T, h *host, cri *env.CRI) *engine {
	const checkpoint = "localhost/interop/ctr:1"
	var own string // the file with that in it
	restored := 0
	e := &engine{name: "ctr", baseID: cri.Image(t, h.base, baseImage)}
	e.run = func(t *testing.T) *env.Container {
		return cri.CtrRun(t, h.id("shop"), baseImage, workload(), "--net-host")
	}
	e.restore = func(t *testing.T, file string) *env.Container {
		restored++
		id := fmt.Sprintf("again%d", restored)
		if file == own {
			return cri.CtrRestore(t, h.id(id), checkpoint)
		}
		return h.inCtr(cri, file, id)
	}
	e.remove = func(t *testing.T, c *env.Container) { cri.CtrRemove(t, c.ID) }
	e.dump = func(t *testing.T, c *env.Container, file string) {
		cri.Ctr(t, "containers", "checkpoint", "--rw", "--image", "--task", c.ID, checkpoint)
		cri.Ctr(t, "images", "export", "--skip-manifest-json", file, checkpoint)
		own = file
		e.remove(t, c)
	}
	e.facts = []string{"--container-id", h.id("shop"), "--container-name", "shop"}
	return e
}

func podmanEngine(t *testing.T, h *host) *engine {
	p := env.NewPodman(t)
	e := &engine{name: "podman", baseID: p.Image(t, h.base, baseImage)}
	e.run = func(t *testing.T) *env.Container { return startPodman(t, p, "shop") }
	e.restore = func(t *testing.T, file string) *env.Container {
		p.Run(t, "container", "restore", "--import", file, "--name", "shop")
		return inPodman(t, p, "shop")
	}
	e.remove = func(t *testing.T, _ *env.Container) { p.Run(t, "rm", "--force", "--time", "0", "shop") }
	e.dump = func(t *testing.T, c *env.Container, file string) {
		p.Run(t, "container", "checkpoint", "--export", file, "shop")
		e.remove(t, c)
	}
	return e
}

// What one engine writes of its container another one restores, after convert: Podman, CRI-O, containerd and its client
// in every combination, with everything that the archive has.
func TestAmongEngines(t *testing.T) {
	if os.Getenv(fullRun) == "" {
		t.Skip("only `make interop` builds the engines")
	}
	env.Leaks(t, mark())
	h := newHost(t)
	containerd := env.NewContainerd(t, mark()+"-containerd")
	all := []*engine{
		podmanEngine(t, h),
		criEngine(t, h, containerd),
		criEngine(t, h, env.NewCRIO(t, mark()+"-crio")),
		ctrEngine(t, h, containerd),
	}
	for _, from := range all {
		file := h.path(from.name + ".tar")
		c := from.run(t)
		c.WaitTick(t, 3)
		torture(t, c.Path("/"))
		writeFile(t, c.Path("/dev/shm/shared"), "shared")
		want := snapshot(t, c.Path("/"))
		from.dump(t, c, file)
		alone := from.restore(t, file)
		kept := snapshot(t, alone.Path("/"))
		from.remove(t, alone)
		if from.name == "podman" { // the others are in TestCRIInOurs
			t.Run("podman to crun", func(t *testing.T) {
				r := h.restoreHere(t, "crun", file, "--allow", "host:network")
				wantKept(t, snapshot(t, r.Path("/")), kept, want)
			})
		}
		for _, to := range slices.DeleteFunc(slices.Clone(all), func(e *engine) bool { return e == from }) {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				converted := h.path(from.name + "-" + to.name + ".tar")
				h.ok(append(append([]string{"convert", "--to", to.name, "--base-image", baseImage, "--base-id", to.baseID}, from.facts...), file, converted)...)
				r := to.restore(t, converted)
				defer to.remove(t, r)
				if tick := r.Verify(t).Tick; tick < 3 {
					t.Errorf("it began anew: tick %d", tick)
				}
				wantKept(t, snapshot(t, r.Path("/")), kept, want)
				if from.name == "podman" && to.name == "ctr" { // of which the one has it in its archive, and the other none of its own
					wantFile(t, r.Path("/dev/shm/shared"), "shared")
				}
			})
		}
	}
}
