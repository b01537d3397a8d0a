package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// bothEngines are those that restore.
func bothEngines() []string { return []string{"runtime", "direct"} }

// hardCase is a container that is not easy to carry.
type hardCase struct {
	name string
	opts func(t *testing.T, h *host) env.BundleOptions
	// export and restore are the flags beside --base and --engine.
	export  []string
	restore func(h *host) []string
	// plain tells that the program is not the workload, and only counts.
	plain bool
	// ready tells whether what is to be carried is there; it may be nil.
	ready func(t *testing.T, before *container) bool
	// same checks what has to be as it was; before is gone when it is called. It may be nil.
	same func(t *testing.T, before, after *container)
}

func (c hardCase) run(t *testing.T) {
	h := newHost(t)
	before := h.start("c", c.opts(t, h))
	if c.ready != nil {
		await(t, c.name, func() bool { return c.ready(t, before) })
	}
	path := before.export("c.tar", append([]string{"--base", h.built.base}, c.export...)...)
	for _, engine := range bothEngines() {
		t.Run(engine, func(t *testing.T) {
			flags := []string{"--engine", engine, "--base", h.built.base}
			if c.restore != nil {
				flags = append(flags, c.restore(h)...)
			}
			on := *h
			on.t = t
			after := on.restore(engine, path, flags...)
			if c.plain {
				after.goesOnFrom(before)
			} else {
				after.wellFrom(before)
			}
			if c.same != nil {
				c.same(t, before, after)
			}
		})
	}
}

// goesOnFrom is wellFrom for programs that only count.
func (c *container) goesOnFrom(before *container) {
	c.t.Helper()
	c.awaitTicks(3)
	// What the one before has printed may still be on its way into its log.
	if !within(c.t.Context(), patience, func() bool { return last(before.ticks())+1 == c.ticks()[0] }) {
		c.t.Fatalf("container %s goes on with tick %d, the one before ended with %d", c.id, c.ticks()[0], last(before.ticks()))
	}
	if text := readFile(c.t, c.log); strings.Contains(text, "lost") {
		c.t.Fatalf("container %s has lost something: %s", c.id, text)
	}
}

// shell is a container of busybox that counts; prelude runs before.
func shell(prelude string) env.BundleOptions {
	return env.BundleOptions{Args: []string{"/bin/sh", "-c", prelude + " i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.02; done"}}
}

// field reads a line of /proc/PID/status.
func (c *container) field(name string) string {
	c.t.Helper()
	for line := range strings.Lines(readFile(c.t, fmt.Sprintf("/proc/%d/status", c.pid))) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	c.t.Fatalf("process %d has no %s", c.pid, name)
	return ""
}

// namespace gives the inode of a namespace.
func namespace(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Ino
}

func (c *container) namespace(kind string) uint64 {
	c.t.Helper()
	return namespace(c.t, fmt.Sprintf("/proc/%d/ns/%s", c.pid, kind))
}

func TestHardCases(t *testing.T) {
	for _, c := range []hardCase{
		{
			name: "pipe that PID 1 has replaced",
			// The child keeps the pipe of the start; the first process writes to a file.
			opts: func(*testing.T, *host) env.BundleOptions {
				opts := shell("")
				opts.Args[2] = "(" + opts.Args[2] + ") & exec >/tmp/log 2>&1; while true; do echo x; sleep 1; done"
				return opts
			},
			plain: true,
		},
		{
			name: "zombie",
			opts: func(*testing.T, *host) env.BundleOptions {
				opts := counts()
				opts.Args = []string{"/bin/sh", "-c", "sleep 0.01 & exec /bin/workload --tick 10ms"}
				return opts
			},
			ready: func(t *testing.T, before *container) bool { return zombies(t, before.pid) == 1 },
			same: func(t *testing.T, _, after *container) {
				if got := zombies(t, after.pid); got != 1 {
					t.Errorf("%d zombies, want 1", got)
				}
			},
		},
		{
			name: "shared memory of four processes",
			opts: func(*testing.T, *host) env.BundleOptions {
				return env.BundleOptions{Args: []string{"/bin/sharer"}}
			},
			plain: true,
			same: func(t *testing.T, _, after *container) {
				if got := len(children(t, after.pid)); got != 3 {
					t.Errorf("%d children, want 3", got)
				}
			},
		},
		{
			name: "read-only root file system",
			opts: func(*testing.T, *host) env.BundleOptions {
				opts := shell("")
				opts.ReadOnly = true
				return opts
			},
			plain: true,
			same: func(t *testing.T, _, after *container) {
				err := os.WriteFile(fmt.Sprintf("/proc/%d/root/etc/x", after.pid), nil, 0o600)
				if !errors.Is(err, syscall.EROFS) {
					t.Errorf("writing to the root file system: %v, want that it is read-only", err)
				}
			},
		},
		{
			name: "tmpfs and deleted files",
			opts: func(*testing.T, *host) env.BundleOptions {
				return with(counts("--tmpfs", "/mem", "--deleted"), env.Tmpfs("/mem"))
			},
		},
		{
			name: "cgroup namespace",
			opts: func(*testing.T, *host) env.BundleOptions {
				opts := counts()
				opts.CgroupNamespace = true
				return opts
			},
			same: func(t *testing.T, _, after *container) {
				if after.namespace("cgroup") == namespace(t, "/proc/self/ns/cgroup") {
					t.Error("it is in the cgroup namespace of the host")
				}
			},
		},
		{
			name: "user namespace",
			opts: func(t *testing.T, h *host) env.BundleOptions {
				opts := counts()
				opts.Rootfs = h.copyBase(h.path("mapped"))
				command(t, "chown", "-R", "100000:100000", opts.Rootfs)
				for dir := h.dir; dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) { // the mapped root has to come through
					must(t, os.Chmod(dir, 0o711))
				}
				opts.Edit = func(s *specs.Spec) {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
					s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
					s.Linux.GIDMappings = s.Linux.UIDMappings
				}
				return opts
			},
			same: func(t *testing.T, _, after *container) {
				if got := strings.Fields(after.field("Uid"))[0]; got != "100000" {
					t.Errorf("the first process is of user %s, want 100000", got)
				}
			},
		},
		{
			name: "seccomp",
			opts: func(*testing.T, *host) env.BundleOptions {
				opts := shell("")
				opts.Edit = func(s *specs.Spec) {
					s.Linux.Seccomp = &specs.LinuxSeccomp{
						DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
						Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
					}
				}
				return opts
			},
			plain: true,
			same: func(t *testing.T, _, after *container) {
				if got := after.field("Seccomp"); got != "2" {
					t.Errorf("seccomp mode %s, want 2, a filter", got)
				}
			},
		},
		{
			name: "volume with mounts below it",
			opts: func(t *testing.T, h *host) env.BundleOptions {
				vol, sub := h.path("vol"), h.path("sub")
				must(t, os.MkdirAll(filepath.Join(vol, "deep"), 0o777))
				must(t, os.Mkdir(sub, 0o777))
				must(t, os.Chmod(sub, 0o777))
				h.bind(sub, filepath.Join(vol, "deep"))
				return with(counts("--volume", "/vol/deep"), env.Bind(vol, "/vol"))
			},
			restore: func(h *host) []string {
				return []string{"--map-mount", "/vol=" + h.path("vol"), "--map-mount", "/vol/deep=" + h.path("sub")}
			},
		},
	} {
		t.Run(c.name, c.run)
	}
}

// bind mounts a directory at another place for the time of the test.
func (h *host) bind(source, target string) {
	h.t.Helper()
	must(h.t, unix.Mount(source, target, "", unix.MS_BIND, ""))
	h.t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
}

// children are the processes whose parent is pid, as /proc/PID/stat says.
func children(t *testing.T, pid int) []string {
	t.Helper()
	var found []string
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) > 1 && fields[1] == fmt.Sprint(pid) {
			found = append(found, fields[0])
		}
	}
	return found
}

func zombies(t *testing.T, pid int) int {
	t.Helper()
	n := 0
	for _, state := range children(t, pid) {
		if state == "Z" {
			n++
		}
	}
	return n
}
