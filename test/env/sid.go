package env

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// SidOptions say what is special about a [Sid]. The zero value shows the
// machine's cgroups and nothing else of its files.
type SidOptions struct {
	Binds   map[string]string // paths there, absolute, to directories or files of the machine
	Cgroup2 bool              // cgroups of version 2 alone, as where that release usually runs
}

// Sid is a mount namespace whose root is Debian's development release. It has the
// machine's processes, devices and network.
type Sid struct {
	tb  testing.TB
	pid int // of the process that holds the namespace
}

// enterSid is run in a mount namespace of its own. Engines pivot_root, which a root
// made by chroot does not allow. Their storage has overlays of its own, which cannot
// be made on an overlay.
const enterSid = `set -e
root=$1 upper=$2 cgroup2=$3; shift 3
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$root,upperdir=$upper/upper,workdir=$upper/work" "$upper/root"
cd "$upper/root"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount --rbind /dev dev
mkdir -p var/lib/containers
mount --bind "$upper/containers" var/lib/containers
if [ "$cgroup2" = true ]; then
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount --rbind /sys sys
fi
while [ $# -gt 0 ]; do
    if [ -d "$2" ]; then mkdir -p ".$1"; else mkdir -p "$(dirname ".$1")"; touch ".$1"; fi
    mount --rbind "$2" ".$1"
    shift 2
done
mkdir -p mnt
pivot_root . mnt
umount -l /mnt
echo ready
exec sleep infinity`

// SidRoot enters the development release that `test/setup interop` makes. What is
// changed there is gone with the test; containers that were started there are to be
// removed before.
func SidRoot(tb testing.TB, opts SidOptions) *Sid {
	tb.Helper()
	Require(tb, "root")
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	root := filepath.Join(cache, "ckarchive", "sid")
	if _, err := os.Stat(filepath.Join(root, ".complete")); err != nil {
		skipOrFail(tb, "Debian's development release is needed and not installed (`test/setup interop`)")
	}
	dir := tb.TempDir()
	for _, name := range []string{"upper", "work", "root", "containers"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	args := []string{"--mount", "sh", "-c", enterSid, "sh", root, dir, strconv.FormatBool(opts.Cgroup2)}
	for _, there := range slices.Sorted(maps.Keys(opts.Binds)) {
		args = append(args, there, opts.Binds[there])
	}
	cmd := exec.Command("unshare", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// Should the test process be killed, the namespace is not to outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("enter Debian's development release: %v", err)
	}
	tb.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			tb.Errorf("leave Debian's development release: %v", err)
		}
		_ = cmd.Wait() // killed, which is no news
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		tb.Fatalf("enter Debian's development release: %q, %v", line+stderr.String(), err)
	}
	return &Sid{tb, cmd.Process.Pid}
}

// Command is a program to be run there, with that release's PATH.
func (s *Sid) Command(ctx context.Context, argv ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(s.pid), "--mount", "--root", "--wdns=/", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	return cmd
}

// wrapper writes a program for this machine that runs one there, and gives its path.
func (s *Sid) wrapper(program string) string {
	s.tb.Helper()
	path := filepath.Join(s.tb.TempDir(), filepath.Base(program))
	script := fmt.Sprintf("#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin PODMAN_IGNORE_CGROUPSV1_WARNING=1\nexec %q --target %d --mount --root --wdns=/ -- %q \"$@\"\n",
		Program(s.tb, "nsenter"), s.pid, program)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		s.tb.Fatal(err)
	}
	return path
}

// Run runs a program there that has to succeed, and gives what it prints.
func (s *Sid) Run(argv ...string) string {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), patience)
	defer cancel()
	cmd := s.Command(ctx, argv...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.tb.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, stderr.String())
	}
	return string(out)
}

// Path is where a file there is found on the machine.
func (s *Sid) Path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", s.pid), name)
}
