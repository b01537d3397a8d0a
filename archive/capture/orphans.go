package capture

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

// orphanPoll is how often it is looked whether they have ended.
const orphanPoll = 50 * time.Millisecond

// step is one way to end a program.
type step struct {
	signal unix.Signal
	limit  time.Duration // for its end
}

// orphanSteps end the programs of a dead run. They may take a while to give up by themselves: CRIU then lets the
// container go in order. One that was stopped goes on first.
func orphanSteps() []step {
	return []step{{unix.SIGCONT, 10 * time.Second}, {unix.SIGTERM, 3 * time.Second}, {unix.SIGKILL, 3 * time.Second}}
}

// EndOrphans ends the programs that the dead runs below spool left at work, as a CRIU that waits for somebody to read
// the memory: [Recover] does nothing to a container before they are gone. release is called with the directory of the
// images ([ImagesDir]) again and again while they may end by themselves; then they are asked to, and then made to. What
// is at work for a run that has committed is left alone: it brings about what was wanted.
func EndOrphans(ctx context.Context, spool string, release func(images string) error) error {
	entries, err := os.ReadDir(spool)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for unfinished work: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(spool, e.Name())
		if eerr := endOrphans(ctx, dir, func() error { return release(ImagesDir(dir)) }); eerr != nil {
			err = errors.Join(err, fmt.Errorf("end what is at work in %q: %w", dir, eerr))
		}
	}
	return err
}

func endOrphans(ctx context.Context, dir string, release func() error) error {
	// Without this lock the process of the run is dead, and nobody recovers it yet.
	var owner *os.File
	err := alone(filepath.Dir(dir), func() (err error) {
		// It is written before any program is started. One that is gone must not begin anew with a lock.
		if _, err = os.Lstat(filepath.Join(dir, journalFile)); err == nil {
			owner, err = lockPath(filepath.Join(dir, ownerFile))
		}
		return err
	})
	if errors.Is(err, ErrBusy) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer owner.Close() //nolint:errcheck // a lock
	j := &journal{dir: dir}
	if err := j.read(); err != nil || j.rec.Phase == Committed {
		return err
	}
	return EndHolders(ctx, filepath.Join(dir, lockFile), release)
}

// EndHolders ends the programs that inherited the lock in the file path from a process that is dead. release, unless
// nil, is called while they may end by themselves.
func EndHolders(ctx context.Context, path string, release func() error) error {
	return endHolders(ctx, path, release, orphanSteps())
}

func endHolders(ctx context.Context, path string, release func() error, steps []step) error {
	var failed error
	for _, step := range steps {
		holders := holdersOf(path)
		for _, pid := range holders {
			unix.Kill(pid, step.signal) //nolint:errcheck // it may have ended
		}
		for end := time.Now().Add(step.limit); len(holders) > 0 && time.Now().Before(end); holders = holdersOf(path) {
			if release != nil {
				failed = release()
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(orphanPoll):
			}
		}
		if len(holders) == 0 {
			return nil
		}
	}
	return errors.Join(failed, fmt.Errorf("%w: processes %v do not end", ErrBusy, holdersOf(path)))
}

// holdersOf gives the other processes that have the exclusive lock of a file.
func holdersOf(path string) []int {
	file, err := os.Stat(path)
	if err != nil {
		return nil
	}
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() {
			continue
		}
		fds, _ := os.ReadDir(filepath.Join(proc, "fd")) // it may have ended
		if slices.ContainsFunc(fds, func(fd fs.DirEntry) bool {
			link := filepath.Join(proc, "fd", fd.Name())
			target, err := os.Readlink(link)
			if err != nil || filepath.Base(target) != filepath.Base(path) {
				return false
			}
			opened, err := os.Stat(link)
			return err == nil && os.SameFile(opened, file) && isLocked(filepath.Join(proc, "fdinfo", fd.Name()))
		}) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isLocked tells whether a descriptor has an exclusive lock, by its description in /proc.
func isLocked(fdinfo string) bool {
	b, err := os.ReadFile(fdinfo)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		// lock:	1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF
		f := strings.Fields(line)
		if len(f) > 4 && f[0] == "lock:" && f[2] == "FLOCK" && f[4] == "WRITE" {
			return true
		}
	}
	return false
}
