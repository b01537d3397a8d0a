package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The lock files of a store. The first guards index.json for the moment of a
// change. The second is shared by whoever is adding content that no name leads
// to yet, or reading content, and exclusive for the removal of content.
const (
	indexLockFile = "ckarchive.lock"
	useLockFile   = "ckarchive.gc.lock"
)

// How often a lock is asked for again.
const (
	minLockPoll = time.Millisecond
	maxLockPoll = 50 * time.Millisecond
)

// fileLock is a flock that ends with its file, also when the process dies.
type fileLock struct{ f *os.File }

var _ io.Closer = (*fileLock)(nil)

// Close gives the lock up. It may be called twice.
func (l *fileLock) Close() error {
	if l == nil || l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

// lockShared takes the lock at path together with others. Where there is no lock
// file and none can be made, nobody can be changing anything: the lock is then nil.
func lockShared(ctx context.Context, path string) (*fileLock, error) {
	f, err := openLock(path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return waitLock(ctx, f, unix.LOCK_SH)
}

// lockExclusive takes the lock at path for itself alone.
func lockExclusive(ctx context.Context, path string) (*fileLock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	return waitLock(ctx, f, unix.LOCK_EX)
}

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
}

// waitLock polls, because a blocked flock could not be interrupted by ctx.
func waitLock(ctx context.Context, f *os.File, how int) (*fileLock, error) {
	for poll := minLockPoll; ; poll = min(2*poll, maxLockPoll) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return &fileLock{f: f}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %q: %w", f.Name(), err)
		}
		if err := wait(ctx, poll); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("%w: wait for lock %q: %w", ErrBusy, f.Name(), err)
		}
	}
}

// tryLockExclusive is lockExclusive without waiting: ErrBusy if others have the lock.
func tryLockExclusive(path string) (*fileLock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: another process reads or writes checkpoints; try again when it is done", ErrBusy)
		}
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	return &fileLock{f: f}, nil
}

// wait lets d pass, or returns early with the reason why ctx ended.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
