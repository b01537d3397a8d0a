package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// podman is an engine with storage of its own.
type podman struct {
	h     *host
	graph string
	argv  []string
}

// newPodman makes a Podman that runs containers with runc in the host's state directory.
func newPodman(h *host) *podman {
	h.t.Helper()
	// Podman allows 50 characters for the name of its run root.
	run, err := os.MkdirTemp("", "podman")
	must(h.t, err)
	graph := h.path("graph")
	h.t.Cleanup(func() {
		// Podman mounts the directory of its layers on itself.
		for _, dir := range []string{filepath.Join(graph, "overlay"), graph} {
			err := unix.Unmount(dir, unix.MNT_DETACH)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				h.t.Errorf("unmount %s: %v", dir, err)
			}
		}
		must(h.t, os.RemoveAll(run))
	})
	return &podman{h: h, graph: graph, argv: []string{
		env.Program(h.t, "podman"), "--root", graph, "--runroot", filepath.Join(run, "root"), "--tmpdir", filepath.Join(run, "tmp"),
		"--runtime", "runc", "--runtime-flag", "root=" + h.runtime, "--cgroup-manager", "cgroupfs", "--events-backend", "file",
	}}
}

// run runs podman and gives what it prints.
func (p *podman) run(args ...string) string {
	p.h.t.Helper()
	cmd := exec.Command(p.argv[0], append(p.argv[1:len(p.argv):len(p.argv)], args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+p.h.tmp, "HOME="+p.h.dir)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		p.h.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	return strings.TrimSpace(string(out))
}

// image makes an image of two layers: the pristine root file system, and one that changes,
// replaces and deletes.
func (p *podman) image(name string) {
	p.h.t.Helper()
	base := p.h.copyBase(p.h.path("image"))
	tortureBase(p.h.t, base)
	tar := p.h.path("image.tar")
	command(p.h.t, "tar", "--xattrs", "-C", base, "-cf", tar, ".")
	p.run("import", tar, "localhost/low:1")
	must(p.h.t, os.WriteFile(p.h.path("Containerfile"), []byte("FROM localhost/low:1\nCMD [\"/bin/workload\"]\n"), 0o600))
	made := p.run("create", "--network", "none", "localhost/low:1", "/bin/true")
	merged := p.run("mount", made)
	torture(p.h.t, merged)
	p.run("commit", "--quiet", made, name)
	p.run("umount", made)
	p.run("rm", made)
}

// start runs the workload in a container of the image.
func (p *podman) start(name, image string) *container {
	p.h.t.Helper()
	log := p.h.path(name + ".log")
	args := []string{
		"run", "--detach", "--name", p.h.id(name), "--network", "none", "--log-driver", "k8s-file", "--log-opt", "path=" + log,
		// Podman's own limits need more capabilities than a container that runs this test may have.
		"--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1024:1024", image,
	}
	id := p.run(append(args, counts().Args...)...)
	p.h.t.Cleanup(func() { p.run("rm", "--force", "--time", "0", "--ignore", id) })
	return &container{t: p.h.t, h: p.h, id: id, log: log, rootfs: p.run("inspect", "--format", "{{.GraphDriver.Data.MergedDir}}", id)}
}

// The base image is found by what the archive says of it, and is taken from where it is.
func TestBaseImage(t *testing.T) {
	h := newHost(t, "podman", "conmon", "docker-registry")
	p := newPodman(h)
	const name = "localhost/base:2"
	p.image(name)
	c := p.start("c", name)
	await(t, "ticks of Podman's container", func() bool { return len(podmanTicks(t, c.log)) > 3 })
	writeFile(t, filepath.Join(c.rootfs, "etc/new"), "written by the container\n")
	must(t, os.Remove(filepath.Join(c.rootfs, "t/kept/file")))
	want := snapshot(t, c.rootfs)
	path := h.path("c.tar")
	h.ok("export", c.id, path)
	before := podmanTicks(t, c.log)
	base := h.inspect(path).Metadata.Base
	if base == nil || len(base.DiffIDs) != 2 {
		t.Fatalf("the archive names the base %+v, want an image of two layers", base)
	}
	var flags []string
	for _, dest := range []string{"/etc/hosts", "/etc/hostname", "/run/.containerenv"} {
		source := h.path("mapped" + strings.ReplaceAll(dest, "/", "-"))
		writeFile(t, source, "")
		flags = append(flags, "--map-mount", dest+"="+source)
	}
	shm := h.path("shm")
	must(t, os.Mkdir(shm, 0o777))
	flags = append(flags, "--map-mount", "/dev/shm="+shm)

	// Without its storage nothing is found, and another image is none.
	h.restoreRefused("no", append(flags, path), 5, name, "--base")
	server := env.Registry(t, env.RegistryOptions{})
	remote := server.Host + "/base:2"
	p.run("push", "--tls-verify=false", name, "docker://"+remote)
	p.run("push", name, "oci:"+h.path("layout")+":base")
	p.run("push", "localhost/low:1", "oci:"+h.path("other")+":base")
	h.restoreRefused("no", append(flags, "--base", "oci:"+h.path("other")+":base", path), 5, "not the one of the container")

	h.extra = append(h.extra, "CKARCHIVE_STORAGE="+p.graph)
	if o := h.ok(append(append([]string{"restore", "--dry-run", "--id", h.id("dry")}, flags...), path)...); !strings.Contains(o.stdout, "containers-storage:"+name) {
		t.Errorf("--dry-run does not name the base image: %s", o)
	}
	for way, more := range map[string][]string{
		"found":    nil,
		"storage":  {"--base", "containers-storage:" + name},
		"layout":   {"--base", "oci:" + h.path("layout") + ":base"},
		"registry": {"--base", remote, "--plain-http"},
	} {
		for _, engine := range bothEngines() {
			t.Run(way+" "+engine, func(t *testing.T) {
				on := *h
				on.t = t
				r := on.restore(way+engine, path, append(append(more[:len(more):len(more)], flags...), "--engine", engine)...)
				r.awaitTicks(3)
				if got, want := r.ticks()[0], before[len(before)-1]+1; got != want {
					t.Errorf("it goes on with tick %d, want %d", got, want)
				}
				r.wellBehaved()
				got := snapshot(t, r.rootfs)
				const mounted = "/run/.containerenv" // who makes a mount point chooses its mode
				delete(got, mounted)
				delete(want, mounted)
				wantSameTree(t, got, want)
			})
		}
	}
}

// podmanTicks reads a log of Podman's: each line has a time and a stream before it.
func podmanTicks(t *testing.T, log string) []int {
	t.Helper()
	b, err := os.ReadFile(log)
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	var plain strings.Builder
	for line := range strings.Lines(string(b)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			plain.WriteString(fields[3])
		}
	}
	path := filepath.Join(t.TempDir(), "log")
	writeFile(t, path, plain.String())
	return ticksIn(t, path)
}
