package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// AtomicFile is a file that has its name only when it is whole: it is written
// under a temporary name in the same directory, synced, read back, renamed,
// and the directory is synced.
type AtomicFile struct {
	file    *os.File
	dir     string
	path    string
	replace bool
	sum     *xxhash.Digest // of what was written since the last part
	size    int64
	parts   []part // before that
	placed  *placed
	closed  bool
}

// part is a finished range of the file and what it should read as.
type part struct {
	off, size int64
	sum       uint64
}

var _ io.WriteCloser = (*AtomicFile)(nil)

// CreateAtomic begins the file path, mode 0600. With replace an existing regular file is
// replaced by Commit and stays as it is until then; without, it is an [ErrExists].
// A symbolic link, directory, FIFO or device under that name is never replaced.
func CreateAtomic(path string, replace bool) (*AtomicFile, error) {
	if err := checkTarget(path, replace); err != nil {
		return nil, err
	}
	removeAbandoned(path)
	f, dir, err := createTemporary(path)
	if err != nil {
		return nil, fmt.Errorf("create a file in %q: %w", dir, bare(err))
	}
	return &AtomicFile{file: f, dir: dir, path: path, replace: replace, sum: xxhash.New()}, nil
}

// temporaryLetters is the length of the random end of a temporary name.
const temporaryLetters = 12

// temporaryPrefix gives the directory of path and how names in it begin of what is to become path.
func temporaryPrefix(path string) (dir, prefix string) {
	const room = MaxComponentBytes - 32 // for the other parts of the name
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	return dir, "." + base[:min(len(base), room)] + ".ckarchive-"
}

// temporaryName gives the directory of path and a name in it for what is to become path.
func temporaryName(path string) (dir, temp string) {
	dir, prefix := temporaryPrefix(path)
	return dir, filepath.Join(dir, prefix+rand.Text()[:temporaryLetters])
}

// createTemporary makes a file for what is to become path, and locks it for as long as it is open: one
// that is not locked is of a process that was killed.
func createTemporary(path string) (_ *os.File, dir string, err error) {
	for {
		dir, temp := temporaryName(path)
		f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, fileMode)
		if err != nil {
			return nil, dir, err
		}
		// Where a file system knows no locks, nothing is taken for abandoned.
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if _, serr := os.Lstat(temp); serr == nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return f, dir, nil
		}
		// Somebody took it for abandoned before it was locked, and removes it.
		if err := f.Close(); err != nil {
			return nil, dir, err
		}
	}
}

// removeAbandoned removes the temporary files that killed processes left which were to write path too. What
// cannot be removed does no harm.
func removeAbandoned(path string) {
	dir, prefix := temporaryPrefix(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		random, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok || len(random) != temporaryLetters || !e.Type().IsRegular() {
			continue
		}
		temp := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(temp, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(temp)
		}
		_ = f.Close() // nothing was written
	}
}

// checkTarget refuses a path that nothing may be created at.
func checkTarget(path string, replace bool) error {
	if path == "" || strings.HasSuffix(path, "/") {
		return fmt.Errorf("create %q: this is no file's name", path)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("create %q: %w", path, bare(err))
	case !info.Mode().IsRegular():
		return fmt.Errorf("create %q: %w but a %s, which is never replaced", path, ErrSpecialFile, describeMode(info.Mode()))
	case !replace:
		return fmt.Errorf("create %q: the file %w", path, ErrExists)
	}
	return nil
}

func describeMode(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "FIFO"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "device"
}

// bare drops the paths that os adds to an error, since the message has them already, and
// marks a full file system.
func bare(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// Write implements [io.Writer].
func (a *AtomicFile) Write(p []byte) (int, error) {
	if a.placed != nil && a.size+int64(len(p)) > a.placed.off {
		// What is there has to make room.
		if err := a.placed.evict(); err != nil {
			return 0, fmt.Errorf("write %q: %w", a.path, bare(err))
		}
	}
	n, err := a.file.Write(p)
	a.size += int64(n)
	// xxhash finds what a disk or a file system lost; it is no proof against an attacker.
	_, _ = a.sum.Write(p[:n])
	if err != nil {
		return n, fmt.Errorf("write %q: %w", a.path, bare(err))
	}
	return n, nil
}

// Commit makes the file visible under its name and durable. An [ErrNotDurable] means that
// it is visible and whole while the last sync failed. Every other error leaves no
// file of that name behind, or the old one.
func (a *AtomicFile) Commit(ctx context.Context) (err error) {
	if a.closed {
		return errClosed
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	// Reading back beside the sync: what it finds is in memory either way.
	var syncing errgroup.Group
	syncing.Go(a.file.Sync)
	berr := a.readBack(ctx)
	if err := syncing.Wait(); err != nil {
		return fmt.Errorf("sync %q: %w", a.path, bare(err))
	}
	if berr != nil {
		return fmt.Errorf("read back %q: %w", a.path, berr)
	}
	if err := a.rename(); err != nil {
		return fmt.Errorf("name %q: %w", a.path, err)
	}
	if err := syncDir(a.dir); err != nil {
		return fmt.Errorf("sync the directory of %q: %w: %w", a.path, ErrNotDurable, err)
	}
	return nil
}

// readBack compares the file with what was written to it.
func (a *AtomicFile) readBack(ctx context.Context) error {
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != a.size {
		return errReadBack
	}
	a.endPart()
	for _, p := range a.parts {
		sum := xxhash.New()
		n, err := copyContext(ctx, sum, io.NewSectionReader(a.file, p.off, p.size))
		switch {
		case err != nil:
			return err
		case n != p.size || sum.Sum64() != p.sum:
			return errReadBack
		}
	}
	return nil
}

var errReadBack = errors.New("the file system gives back other bytes than were written")

// endPart closes the range that was written in one go.
func (a *AtomicFile) endPart() {
	off := int64(0)
	if last := len(a.parts) - 1; last >= 0 {
		off = a.parts[last].off + a.parts[last].size
	}
	a.parts = append(a.parts, part{off: off, size: a.size - off, sum: a.sum.Sum64()})
	a.sum.Reset()
}

func (a *AtomicFile) rename() error {
	if a.replace {
		// What was a file when the writing began may be a symbolic link by now.
		if err := checkTarget(a.path, true); err != nil {
			return err
		}
		return bare(os.Rename(a.file.Name(), a.path))
	}
	err := renameNew(a.file.Name(), a.path)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The file system has no such rename. Close removes the temporary name.
		return linkNew(a.file.Name(), a.path)
	}
	return err
}

// renameNew renames and fails rather than replace.
func renameNew(from, to string) error {
	return existsSince(unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE))
}

// linkNew gives a file a second name, which replaces nothing either.
func linkNew(from, to string) error { return existsSince(bare(os.Link(from, to))) }

func existsSince(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the name %w since it was checked", ErrExists)
	}
	return err
}

// Close removes what was not committed.
func (a *AtomicFile) Close() error {
	if a.closed {
		return nil
	}
	a.closed = true
	err := a.file.Close()
	if rerr := os.Remove(a.file.Name()); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// WriteFileAtomic writes data to path as an [AtomicFile], replacing what is there.
func WriteFileAtomic(ctx context.Context, path string, data []byte) (err error) {
	f, err := CreateAtomic(path, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit(ctx)
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
