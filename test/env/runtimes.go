package env

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Direct is the runtime of containers that ckarchive restored through CRIU alone.
const Direct = "direct"

// RequireCrun is [Require] for a crun that can dump and restore, which Debian 12's
// cannot, and gives its path.
func RequireCrun(tb testing.TB) string {
	tb.Helper()
	path := Program(tb, "crun")
	version, err := exec.CommandContext(tb.Context(), path, "--version").Output()
	if err != nil {
		tb.Fatalf("ask crun for its version: %v", err)
	}
	if !strings.Contains(string(version), "+CRIU") {
		skipOrFail(tb, path+" is built without CRIU")
	}
	return path
}

// RequireYouki is [Program] for youki, which `test/setup matrix` installs.
func RequireYouki(tb testing.TB) string {
	tb.Helper()
	return Program(tb, "youki")
}

// RequireRunsc is [Program] for runsc, gVisor's runtime.
func RequireRunsc(tb testing.TB) string {
	tb.Helper()
	return Program(tb, "runsc")
}

// RequireRedis is [Program] for redis-server; its client is there too.
func RequireRedis(tb testing.TB) string {
	tb.Helper()
	Require(tb, "redis-cli")
	return Program(tb, "redis-server")
}

// RequireNode is [Program] for Node.js.
func RequireNode(tb testing.TB) string {
	tb.Helper()
	return Program(tb, "node")
}

// globalFlags are the flags before a runtime's verb.
func globalFlags(runtime, root string) []string {
	flags := []string{"--root", root}
	if runtime == "runsc" {
		// The sandbox's own network stack would need devices in a namespace of its own, and
		// version 2 of a hybrid machine has none of the controllers that runsc asks for.
		flags = append(flags, "--network", "none", "--platform", "systrap", "--ignore-cgroups")
	}
	return flags
}

// Watch is a container that something else has started and removes. c has at least
// its ID, PID and Log.
func Watch(tb testing.TB, c Container) *Container {
	tb.Helper()
	c.noteStart()
	if c.started == "" {
		tb.Fatalf("container %s has no process %d:\n%s", c.ID, c.PID, read(c.Log))
	}
	return &c
}

// Adopt is [Watch] for one that nobody else removes: it is killed, and deleted from
// its Runtime with Root (or [Direct]), when the test ends.
func Adopt(tb testing.TB, c Container) *Container {
	tb.Helper()
	watched := Watch(tb, c)
	tb.Cleanup(func() { watched.remove(tb) })
	return watched
}

// remove ends whatever is left of the container.
func (c *Container) remove(tb testing.TB) {
	tb.Helper()
	if c.Runtime == Direct {
		if alive(c.PID, c.started) {
			if err := unix.Kill(c.PID, syscall.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				tb.Errorf("kill container %s: %v", c.ID, err)
			}
		}
	} else {
		c.delete(tb)
	}
	c.WaitEnd(tb)
	c.removeCgroups(tb)
	if c.Runtime == "runsc" {
		// runsc mounts an empty network namespace in its state directory, for all sandboxes to come.
		err := unix.Unmount(filepath.Join(c.Root, "null-netns"), 0)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			tb.Errorf("unmount runsc's network namespace: %v", err)
		}
	}
}

func (c *Container) delete(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, Program(tb, c.Runtime), append(globalFlags(c.Runtime, c.Root), "delete", "--force", c.ID)...).CombinedOutput()
	if err == nil {
		return
	}
	for _, gone := range []string{"does not exist", "No such file or directory"} {
		if bytes.Contains(out, []byte(gone)) {
			return
		}
	}
	tb.Errorf("%s delete %s: %v: %s", c.Runtime, c.ID, err, out)
}

// removeCgroups removes the cgroups that carry the container's ID: a restore
// by runc sometimes leaves them, a direct one always does. They are busy until
// the last process has ended.
func (c *Container) removeCgroups(tb testing.TB) {
	tb.Helper()
	end := time.Now().Add(patience)
	for {
		err := c.tryRemoveCgroups()
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			tb.Errorf("remove cgroups of container %s: %v", c.ID, err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// carries tells whether an element of path is made of the ID, as ID or crun-ID.scope: not of a longer
// one that begins with it.
func carries(path, id string) bool {
	for element := range strings.SplitSeq(path, "/") {
		if _, rest, found := strings.Cut(element, id); found && (rest == "" || rest[0] == '.') {
			return true
		}
	}
	return false
}

func (c *Container) tryRemoveCgroups() error {
	var dirs []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && entry.IsDir() && carries(path, c.ID) {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) { // children first
		if rmErr := os.Remove(dir); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}
