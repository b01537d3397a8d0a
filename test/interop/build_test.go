package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// builder makes images of archives with checkpointctl, which asks buildah for it.
type builder struct {
	h       *host
	storage string // its configuration
	made    int
}

func newBuilder(t *testing.T, h *host) *builder {
	t.Helper()
	env.Require(t, "checkpointctl", "buildah", "skopeo")
	b := &builder{h: h, storage: h.path("storage.conf")}
	// Without mounts.
	writeFile(t, b.storage, fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", h.path("graph"), h.path("graph-run")))
	return b
}

// run runs a program on the storage.
func (b *builder) run(t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), env.Program(t, program), args...)
	cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+b.storage, "PATH="+filepath.Dir(env.Program(t, "buildah"))+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
}

// build makes an image of an archive and brings it to a place that skopeo knows.
func (b *builder) build(t *testing.T, file string, dests ...string) {
	t.Helper()
	b.made++
	name := fmt.Sprintf("localhost/interop/built:%d", b.made)
	b.run(t, "checkpointctl", "build", file, name)
	for _, dest := range dests {
		b.run(t, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", "containers-storage:"+name, dest)
	}
}

// runcEngine is runc, of which ckarchive makes the archive.
func runcEngine(h *host) *engine {
	return &engine{
		name: "runc",
		run: func(*testing.T) *env.Container {
			return h.start("plain", env.BundleOptions{Args: workload(), HostNetwork: true})
		},
		dump: func(_ *testing.T, c *env.Container, file string) {
			h.ok("export", "--base", h.base, "--name", "moved", c.ID, file)
		},
	}
}

// The images that checkpointctl builds of the archives of all engines hold what these do, in a layout and in a registry, and
// are restored; of ours the digests are still right. containerd restores what is built of an archive that is for it.
func TestCheckpointctlBuild(t *testing.T) {
	if os.Getenv(fullRun) == "" {
		t.Skip("only `make interop` installs buildah")
	}
	env.Leaks(t, mark())
	h, server := newHost(t), env.Registry(t, env.RegistryOptions{})
	b := newBuilder(t, h)
	containerd := env.NewContainerd(t, mark()+"-containerd")
	for _, from := range []*engine{
		runcEngine(h),
		podmanEngine(t, h),
		criEngine(t, h, containerd),
		criEngine(t, h, env.NewCRIO(t, mark()+"-crio")),
	} {
		t.Run(from.name, func(t *testing.T) {
			file := h.path(from.name + ".tar")
			c := from.run(t)
			torture(t, c.Path("/"))
			from.dump(t, c, file)
			layout, remote := "oci:"+h.path("layout")+":"+from.name, server.Host+"/interop/built:"+from.name
			b.build(t, file, layout, "docker://"+remote)

			want := map[string]string{}
			t.Run("the file", func(t *testing.T) {
				want = snapshot(t, h.restoreHere(t, "runc", file, "--allow", "host:network").Path("/"))
			})
			digests := "no digests"
			if from.name == "runc" {
				digests = "every digest is right"
			}
			for by, src := range map[string]string{"runc": layout, "crun": remote} {
				t.Run("the image by "+by, func(t *testing.T) {
					if said := h.ok("verify", "--plain-http", src); !strings.Contains(said, digests) {
						t.Errorf("verify %s says %q, want %q in it", src, said, digests)
					}
					if said := h.ok("diff", "--plain-http", "--exit-code", file, src); said != "" {
						t.Errorf("diff finds that building changed it: %s", said)
					}
					r := h.restoreHere(t, by, src, "--plain-http", "--allow", "host:network")
					wantSame(t, snapshot(t, r.Path("/")), want)
				})
			}
		})
	}
	t.Run("by containerd", func(t *testing.T) {
		h.ok("convert", "--to", "containerd", "--base-image", baseImage, "--base-id", containerd.Image(t, h.base, baseImage), h.path("runc.tar"), h.path("for-containerd.tar"))
		b.build(t, h.path("for-containerd.tar"), "oci-archive:"+h.path("built.tar")+":v1")
		containerd.Load(t, h.path("built.tar"), checkpointImage)
		pod := containerd.Pod(t)
		r := pod.Start(t, "moved", checkpointImage, workload())
		if tick := r.Verify(t).Tick; tick < 3 {
			t.Errorf("it began anew: tick %d", tick)
		}
		pod.Remove(t, r)
	})
}
