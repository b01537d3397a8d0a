package env

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
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
	// Program is its path.
	Program string
	dir     string
	sid     *Sid // where it is; nil is this machine
}

// podmanTimeout bounds one command of Podman.
const podmanTimeout = 2 * time.Minute

// NewPodman gives a Podman without containers and images.
func NewPodman(tb testing.TB) *Podman {
	tb.Helper()
	Require(tb, "root", "criu", "podman", "runc", "conmon")
	return newPodman(tb, Program(tb, "podman"))
}

// NewestPodman is [NewPodman] with that of Debian's development release, see [SidRoot]. It has this
// machine's runc and its directory for temporary files.
func NewestPodman(tb testing.TB) *Podman {
	tb.Helper()
	Require(tb, "root", "criu", "runc", "nsenter")
	temp := os.TempDir()
	s := SidRoot(tb, SidOptions{Binds: map[string]string{temp: temp, "/usr/sbin/runc": Program(tb, "runc")}})
	// That release has no iptables, with which CRIU locks connections unless it is told otherwise.
	config := s.Path("/etc/criu/default.conf")
	if err := errors.Join(os.MkdirAll(filepath.Dir(config), 0o755), os.WriteFile(config, []byte("network-lock nftables\n"), 0o644)); err != nil {
		tb.Fatal(err)
	}
	p := newPodman(tb, s.wrapper("podman"))
	p.sid = s
	return p
}

func newPodman(tb testing.TB, program string) *Podman {
	tb.Helper()
	// Podman 4 allows 50 characters for the name of its run directory, which a test's own exceeds.
	dir, err := os.MkdirTemp(ShortTemp, "podman-")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Podman{Program: program, dir: dir, Args: []string{
		"--root", filepath.Join(dir, "graph"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "overlay",
	}}
	tb.Cleanup(func() { p.close(tb) })
	return p
}

// NetworkLock are the flags of an export with which its system can restore: CRIU restores with the lock that it dumped with.
func (p *Podman) NetworkLock() []string {
	if p.sid == nil {
		return nil
	}
	return []string{"--network-lock", "nftables"}
}

// Beside gives a program that runs the given one, a static binary, on the same system as Podman.
func (p *Podman) Beside(tb testing.TB, program string) string {
	tb.Helper()
	if p.sid == nil {
		return program
	}
	shared := filepath.Join(tb.TempDir(), filepath.Base(program))
	if err := copyProgram(shared, program); err != nil {
		tb.Fatalf("copy %s: %v", program, err)
	}
	return p.sid.wrapper(shared)
}

// InNetwork gives Podman a network of its own in place of the machine's: its bridges and packet filter rules
// go with the test.
func (p *Podman) InNetwork(tb testing.TB, name string) {
	tb.Helper()
	path, outside := filepath.Join(tb.TempDir(), "podman"), p.Program
	script := fmt.Sprintf("#!/bin/sh\nexec %q --net=%q %q \"$@\"\n", Program(tb, "nsenter"), NetNS(tb, name), outside)
	tb.Cleanup(func() { p.Program = outside }) // which cleans up when that network is gone
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		tb.Fatal(err)
	}
	p.Program = path
}

// Run runs a command that has to succeed, and gives the last line that it prints.
func (p *Podman) Run(tb testing.TB, args ...string) string {
	tb.Helper()
	said, err := p.Try(tb, args...)
	if err != nil {
		tb.Fatalf("podman %s: %v\n%s%s", strings.Join(args, " "), err, said, namedLog(said))
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return lines[len(lines)-1]
}

// namedLog is what is wrong in CRIU's log, if a runtime names it.
func namedLog(said string) string {
	_, name, found := strings.Cut(said, "log file: ")
	if !found {
		return ""
	}
	var wrong strings.Builder
	for line := range strings.Lines(read(strings.TrimSpace(strings.SplitN(name, "\n", 2)[0]))) {
		if strings.Contains(line, "Error") || strings.Contains(line, "Warn") {
			wrong.WriteString(line)
		}
	}
	return wrong.String()
}

// Try runs a command and gives all that it prints.
func (p *Podman) Try(tb testing.TB, args ...string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), podmanTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Program, append(p.Args[:len(p.Args):len(p.Args)], args...)...)
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
	// What cleans up after a container, which Podman has started, may still be at work there, and mount it again.
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, name := range []string{"graph/overlay", "graph"} {
			if err := unix.Unmount(filepath.Join(p.dir, name), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				tb.Errorf("unmount %s: %v", name, err)
			}
		}
		if err = os.RemoveAll(p.dir); err == nil {
			return
		}
	}
	tb.Errorf("remove Podman's storage: %v", err)
}
