package interop

import (
	"os"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// A container of containerd's client goes on under runc, crun and without any runtime, and in the client as well
// from what ckarchive makes of it; and so does a container of runc in the client.
func TestCtr(t *testing.T) {
	if os.Getenv(fullRun) == "" {
		t.Skip("only `make interop` builds containerd's client")
	}
	for version, containerd := range map[string]func(testing.TB, string) *env.CRI{"built": env.NewContainerd, "debian": env.NewOldContainerd} {
		t.Run(version, func(t *testing.T) { testCtr(t, containerd) })
	}
}

func testCtr(t *testing.T, containerd func(testing.TB, string) *env.CRI) {
	const checkpoint = "localhost/interop/ctr:1"
	t.Run("theirs", func(t *testing.T) {
		env.Leaks(t, mark())
		h, cri := newHost(t), containerd(t, mark())
		cri.Image(t, h.base, baseImage)
		c := cri.CtrRun(t, h.id("shop"), baseImage, workload())
		c.WaitTick(t, 3)
		torture(t, c.Path("/"))
		want, file := snapshot(t, c.Path("/")), h.path("theirs.tar")
		cri.Ctr(t, "containers", "checkpoint", "--rw", "--image", "--task", c.ID, checkpoint)
		cri.Ctr(t, "images", "export", "--skip-manifest-json", file, checkpoint)
		cri.CtrRemove(t, c.ID)
		alone := cri.CtrRestore(t, h.id("alone"), checkpoint)
		alone.Verify(t)
		kept := snapshot(t, alone.Path("/"))
		cri.CtrRemove(t, alone.ID)

		name := h.readByAll("containerd", file, "--container-id", c.ID, "--container-name", "shop")
		for by, src := range map[string]string{"runc": file, "crun": name, env.Direct: name} {
			wantKept(t, snapshot(t, h.restoreHere(t, by, src).Path("/")), kept, want)
		}
		h.ok("convert", "--to", "ctr", name, h.path("again.tar"))
		again := h.inCtr(cri, h.path("again.tar"), "again")
		wantKept(t, snapshot(t, again.Path("/")), kept, want)
		tellLost(t, "containerd's client", want, column{"its own", kept})
	})
	t.Run("ours", func(t *testing.T) {
		for network, own := range map[string]bool{"own network": true, "the host's network": false} {
			t.Run(network, func(t *testing.T) {
				env.Leaks(t, mark())
				h, cri := newHost(t), containerd(t, mark())
				known := []string{"--base-image", baseImage, "--base-id", cri.Image(t, h.base, baseImage)}
				c := h.start("plain", env.BundleOptions{Args: workload(), HostNetwork: !own})
				torture(t, c.Path("/"))
				want := snapshot(t, c.Path("/"))
				h.ok("export", "--base", h.base, "--name", "moved", c.ID, h.path("ours.tar.zst"))
				h.ok(append([]string{"convert", "--to", "ctr", h.path("ours.tar.zst"), h.path("ctr.tar")}, known...)...)
				wantSame(t, snapshot(t, h.inCtr(cri, h.path("ctr.tar"), "moved").Path("/")), want)
			})
		}
	})
}

// inCtr lets containerd's client restore a layout that `convert --to ctr` made.
func (h *host) inCtr(cri *env.CRI, layout, name string) *env.Container {
	h.t.Helper()
	repository := "localhost/interop/" + name
	cri.Ctr(h.t, "images", "import", "--all-platforms", "--base-name", repository, layout)
	r := cri.CtrRestore(h.t, h.id(name), repository+":latest")
	if tick := r.Verify(h.t).Tick; tick < 3 {
		h.t.Errorf("it began anew: tick %d", tick)
	}
	return r
}
