package interop

import (
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
