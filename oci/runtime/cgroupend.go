package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endTimeout bounds the end of processes that were killed.
const endTimeout = 5 * time.Second

// FreeCgroups gives the directories of the cgroups that a container of the ID would get here and that are not there yet:
// whatever is in one of them later is the container's. path is that of its configuration, or empty.
func FreeCgroups(id, path string) ([]string, error) {
	mounts, err := hierarchies()
	if err != nil {
		return nil, err
	}
	own, err := processCgroups(os.Getpid())
	if err != nil {
		return nil, err
	}
	var dirs []string
	for controller, mount := range mounts {
		candidates := []string{filepath.Join(mount, path)}
		if path == "" {
			// Runtimes begin in the root or where they are themselves.
			candidates = []string{filepath.Join(mount, id), filepath.Join(mount, own[controller], id)}
		}
		for _, dir := range candidates {
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.Sort(dirs)
	return dirs, nil
}

// EndCgroups kills whatever is in the cgroups, and removes them. Those that are not there are no error.
func EndCgroups(ctx context.Context, dirs []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, errors.New("its processes do not end"))
	defer cancel()
	for {
		var left error
		for _, dir := range dirs {
			left = errors.Join(left, endCgroup(dir))
		}
		if left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), left)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// endCgroup does what can be done at once. An error says that something is left.
func endCgroup(dir string) error {
	pids, err := cgroupProcesses(dir)
	for _, pid := range pids {
		if pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)               // it may have ended
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // only our own child is ours to reap
		}
	}
	return errors.Join(err, removeCgroup(dir))
}

// cgroupProcesses gives the processes in a cgroup and in those below it. One that is not there has none.
func cgroupProcesses(dir string) (pids []int, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, field := range strings.Fields(string(b)) {
			if pid, cerr := strconv.Atoi(field); cerr == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		err = nil // it went meanwhile
	}
	return pids, err
}

// killHeld sends the kill signal to all processes that the freezer holds and that are in the PID namespace of the
// process first, and tells that it did. It does not if that is the host's: a cgroup may be shared. They are held, so that
// the numbers stay theirs.
func (f freezer) killHeld(first int) (killed bool, err error) {
	namespace := func(pid int) (string, error) { return os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)) }
	own, err := namespace(first)
	host, herr := namespace(os.Getpid())
	if err := errors.Join(err, herr); err != nil || own == host {
		return false, err
	}
	pids, err := cgroupProcesses(filepath.Dir(f.file))
	for _, pid := range pids {
		if ns, nerr := namespace(pid); nerr == nil && ns == own {
			if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
				err = errors.Join(err, kerr)
			}
			killed = killed || pid == first
		}
	}
	return killed, err
}
