package runtime

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// podman is a Podman with storage of its own.
type podman struct {
	t    *testing.T
	dir  string
	args []string
}

// requirePodman skips tests where Podman cannot run; in CI it must.
func requirePodman(t *testing.T) podman {
	t.Helper()
	missing := []string{}
	for _, name := range []string{"podman", "runc", "conmon", "busybox"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	if len(missing) > 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs %s: CI must have it", strings.Join(missing, ", "))
		}
		t.Skipf("needs %s to run containers of Podman", strings.Join(missing, ", "))
	}
	// Podman allows 50 characters for the name of its run root.
	dir, err := os.MkdirTemp("/tmp", "podman")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := podman{t: t, dir: dir, args: []string{
		"--root", filepath.Join(dir, "graph"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
	}}
	t.Cleanup(func() {
		// Podman mounts the directory of its layers on itself.
		for _, name := range []string{"graph/overlay", "graph"} {
			if err := unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("unmount %s: %v", name, err)
			}
		}
	})
	return p
}

func (p podman) run(args ...string) string {
	p.t.Helper()
	return p.feed(nil, args...)
}

func (p podman) feed(stdin []byte, args ...string) string {
	p.t.Helper()
	cmd := exec.Command("podman", append(p.args[:len(p.args):len(p.args)], args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("podman %s: %v: %s", args[0], err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// start runs a container that sleeps, and gives its ID.
func (p podman) start(name string, what ...string) string {
	p.t.Helper()
	id := p.run(append([]string{
		"run", "--detach", "--name", name, "--network", "host",
		// Podman's own limits need more capabilities than a container that runs this test may have.
		"--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1024:1024",
	}, append(what, "/busybox", "sleep", "1000")...)...)
	p.t.Cleanup(func() { p.run("rm", "--force", "--time", "0", "--ignore", id) })
	return id
}

// TestRealPodman finds what the real Podman started, by all its names.
func TestRealPodman(t *testing.T) {
	p := requirePodman(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(p.dir, "base")
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	tar, err := exec.Command("tar", "--create", "--directory", base, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	image := strings.TrimPrefix(p.feed(tar, "import", "-", "localhost/ckarchive-engines:1"), "sha256:")
	name := "ckarchive-" + filepath.Base(p.dir)
	for _, tt := range []struct {
		name, image string
		what        []string
	}{
		{name + "-image", "localhost/ckarchive-engines:1", []string{"localhost/ckarchive-engines:1"}},
		{name + "-rootfs", "", []string{"--rootfs", base + ":O"}},
	} {
		id := p.start(tt.name, tt.what...)
		for _, by := range []string{tt.name, id, id[:12]} {
			c, err := Find(t.Context(), by, FindOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if c.ID != id || c.Engine != Podman || c.Name != tt.name || c.Runtime.Name != "runc" {
				t.Errorf("%s: %s of %s, name %q, runtime %s", by, c.ID, c.Engine, c.Name, c.Runtime.Name)
			}
			if err := c.Dumpable(); err != nil {
				t.Errorf("%s: %v", by, err)
			}
		}
		c, err := Find(t.Context(), tt.name, FindOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if tt.image == "" && c.Image != nil {
			t.Errorf("%s: image %+v of a directory", tt.name, c.Image)
		}
		if tt.image != "" {
			want := "sha256:" + image
			if c.Image == nil || c.Image.Image != tt.image || c.Image.ImageID != want ||
				!strings.HasPrefix(c.Image.Manifest, "sha256:") || len(c.Image.DiffIDs) != 1 {
				t.Errorf("%s: image %+v, want %s, %s with its manifest and one layer", tt.name, c.Image, tt.image, want)
			}
		}
		p.stopped(c)
	}
}

// stopped ends the container behind Podman's back and follows the advice for that.
func (p podman) stopped(c *Container) {
	p.t.Helper()
	if all, err := All(p.t.Context(), FindOptions{Runtime: "runc"}); len(all) == 0 {
		p.t.Errorf("all containers of runc: none, %v", err)
	}
	if err := c.Kill(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	if got, want := p.run("wait", c.ID), "137"; got != want {
		p.t.Errorf("podman wait: %s, want %s", got, want)
	}
	_, advice, ok := strings.Cut(c.AfterStop(), "remove it with: podman ")
	if !ok {
		p.t.Fatalf("advice %q names no command", c.AfterStop())
	}
	// The directories that only this test gives to Podman are added.
	p.run(strings.Fields(advice)...)
	if got := p.run("ps", "--all", "--quiet", "--no-trunc"); strings.Contains(got, c.ID) {
		p.t.Errorf("after %q podman still has %s", advice, c.ID)
	}
	if _, err := Find(p.t.Context(), c.ID, FindOptions{}); !errors.Is(err, ErrNotFound) {
		p.t.Errorf("after its end: %v, want ErrNotFound", err)
	}
}
