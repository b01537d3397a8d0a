package interop

import (
	"os"
	"slices"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// engine is one that makes checkpoints of its containers and restores those of others.
type engine struct {
	name    string
	baseID  string // of the base image in its store
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

// What one engine writes of its container another one restores, after convert: Podman, CRI-O and containerd in
// every combination, with everything that the archive has.
func TestAmongEngines(t *testing.T) {
	if os.Getenv(fullRun) == "" {
		t.Skip("only `make interop` builds the engines")
	}
	env.Leaks(t, mark())
	h := newHost(t)
	all := []*engine{
		podmanEngine(t, h),
		criEngine(t, h, env.NewContainerd(t, mark()+"-containerd")),
		criEngine(t, h, env.NewCRIO(t, mark()+"-crio")),
	}
	for _, from := range all {
		file := h.path(from.name + ".tar")
		c := from.run(t)
		c.WaitTick(t, 3)
		torture(t, c.Path("/"))
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
				h.ok("convert", "--to", to.name, "--base-image", baseImage, "--base-id", to.baseID, file, converted)
				r := to.restore(t, converted)
				defer to.remove(t, r)
				if tick := r.Verify(t).Tick; tick < 3 {
					t.Errorf("it began anew: tick %d", tick)
				}
				wantKept(t, snapshot(t, r.Path("/")), kept, want)
			})
		}
	}
}
