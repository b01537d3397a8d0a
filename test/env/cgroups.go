package env

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The views of the machine's cgroups that [InCgroups] can give.
const (
	CgroupV1 = "v1" // the version 1 hierarchies alone, as on old hosts
	CgroupV2 = "v2" // version 2 alone, as on new ones
)

// cgroupView is the variable that tells a test process which view it has.
const cgroupView = "CKARCHIVE_TEST_CGROUPS"

// enterView is run in a mount namespace of its own, with the view and a command.
// The view is built on a tmpfs of its own: the machine's is shared with the machine's
// namespace, whose mounts go when a directory below them is removed here. A hybrid
// machine has its controllers in version 1: version 2 shows none of them, and its
// freezer works.
const enterView = `set -e
view=$1; shift
mount --make-rprivate /
umount -R /sys/fs/cgroup
case $view in
v1) mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for hierarchy in $(cut -d: -f2 /proc/self/cgroup); do
        mkdir "/sys/fs/cgroup/${hierarchy#name=}"
        mount -t cgroup -o "$hierarchy" cgroup "/sys/fs/cgroup/${hierarchy#name=}"
    done ;;
v2) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
esac
exec "$@"`

// CgroupViews are the views that this machine can give: version 1 where it has
// hierarchies of that, and version 2.
func CgroupViews(tb testing.TB) []string {
	tb.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		tb.Fatal(err)
	}
	if strings.HasPrefix(string(own), "0::") {
		return []string{CgroupV2}
	}
	return []string{CgroupV1, CgroupV2}
}

// ByCgroups gives a program that runs another one, by its path, with the machine's cgroups as view says.
func ByCgroups(tb testing.TB, view, program string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), filepath.Base(program))
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --mount sh -c '%s' sh %s %q \"$@\"\n", enterView, view, program)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		tb.Fatal(err)
	}
	return path
}

// InCgroups runs the calling test once more in a process that sees the machine's
// cgroups as view says, in a private mount namespace, and returns true: the test
// has been run, and ends as that one did. There it returns false. crun, for one,
// refuses a machine with hierarchies of both versions.
func InCgroups(t *testing.T, view string) bool {
	t.Helper()
	if os.Getenv(cgroupView) == view {
		return false
	}
	Require(t, "root")
	deadline, timeout := t.Deadline()
	args := []string{"--mount", "sh", "-c", enterView, "sh", view, os.Args[0], "-test.run", "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$", "-test.v", "-test.count=1"}
	if timeout {
		args = append(args, "-test.timeout", time.Until(deadline).String())
	}
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), cgroupView+"="+view)
	// Should this process be killed, the other is not to outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("with cgroups %s:\n%s", view, out)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Errorf("with cgroups %s: %v", view, err)
	case err != nil:
		t.Fatalf("run %s in a mount namespace: %v", t.Name(), err)
	case bytes.Contains(out, []byte("--- SKIP: "+t.Name()+" ")):
		t.Skipf("skipped with cgroups %s", view)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")):
		t.Errorf("with cgroups %s the test was not run", view)
	}
	return true
}
