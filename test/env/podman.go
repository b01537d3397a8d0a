package env

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Podman is Podman with runc and a storage of its own, which goes with the test.
type Podman struct {
	Args []string // that name the storage
	dir  string
}

// podmanTimeout bounds one command of Podman.
const podmanTimeout = 2 * time.Minute

// NewPodman gives a Podman without containers and images.
func NewPodman(tb testing.TB) *Podman {
	tb.Helper()
	Require(tb, "root", "criu", "podman", "runc", "conmon")
	dir := tb.TempDir()
	p := &Podman{dir: dir, Args: []string{
		"--root", filepath.Join(dir, "graph"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "overlay",
	}}
	tb.Cleanup(func() { p.close(tb) })
	return p
}

// Run runs a command that has to succeed, and gives the last line that it prints.
func (p *Podman) Run(tb testing.TB, args ...string) string {
	tb.Helper()
	said, err := p.Try(tb, args...)
	if err != nil {
		tb.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, said)
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return lines[len(lines)-1]
}

// Try runs a command and gives all that it prints.
func (p *Podman) Try(tb testing.TB, args ...string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), podmanTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, Program(tb, "podman"), append(p.Args[:len(p.Args):len(p.Args)], args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// Image makes an image of a root file system and gives its ID.
func (p *Podman) Image(tb testing.TB, rootfs, name string) string {
	tb.Helper()
	tar := filepath.Join(p.dir, "image.tar")
	if out, err := exec.CommandContext(tb.Context(), "tar", "-C", rootfs, "-cf", tar, ".").CombinedOutput(); err != nil {
		tb.Fatalf("archive %s: %v: %s", rootfs, err, out)
	}
	p.Run(tb, "import", "--quiet", tar, name)
	return p.Run(tb, "image", "inspect", "--format", "{{.Id}}", name)
}

// close removes everything, mounts included: Podman mounts the directory of its layers on itself.
func (p *Podman) close(tb testing.TB) {
	tb.Helper()
	if said, err := p.Try(tb, "rm", "--all", "--force", "--time", "0"); err != nil {
		tb.Errorf("remove Podman's containers: %v: %s", err, said)
	}
	for _, name := range []string{"graph/overlay", "graph"} {
		if err := unix.Unmount(filepath.Join(p.dir, name), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			tb.Errorf("unmount %s: %v", name, err)
		}
	}
}
