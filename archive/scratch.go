package archive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CreateUnnamed makes a file in dir that has no name, and so is gone with the process whatever ends it. An empty dir
// means the one for temporary files. The caller closes it.
func CreateUnnamed(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, fileMode)
	if err == nil {
		return f, nil
	}
	// Not every file system has files without a name: NFS and FUSE do not.
	if f, err = os.CreateTemp(dir, scratchPrefix+"*"); err != nil {
		return nil, fmt.Errorf("create a temporary file in %q: %w", dir, bare(err))
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// scratchPrefix begins the names of the directories that [Scratch] makes.
const scratchPrefix = "ckarchive-scratch-"

// Scratch makes a directory in dir for what other programs read by its name. An empty dir means the one for temporary
// files. closing removes it. What a process left there that was killed is removed by the next one that makes such a directory.
func Scratch(dir string) (path string, closing func() error, err error) {
	RemoveScratch(dir)
	for {
		if path, err = os.MkdirTemp(dir, scratchPrefix+"*"); err != nil {
			return "", nil, fmt.Errorf("create a temporary directory: %w", err)
		}
		lock, err := lockScratch(path)
		if err != nil {
			return "", nil, errors.Join(err, RemoveTree(path))
		}
		if lock != nil {
			return path, func() error { return errors.Join(RemoveTree(path), lock.Close()) }, nil
		}
		// Somebody took it for abandoned before it was locked, and removes it.
	}
}

// lockScratch locks a directory for as long as the file is open; nil says that it is locked, or gone.
func lockScratch(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // see above
	}
	if err != nil {
		return nil, err
	}
	// Where a file system knows no locks, nothing is taken for abandoned.
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if _, serr := os.Lstat(path); serr != nil || errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	return f, nil
}

// RemoveScratch removes the directories that killed processes of this user left in dir, see [Scratch]. What cannot be
// removed does no harm.
func RemoveScratch(dir string) {
	if dir == "" {
		dir = os.TempDir()
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), scratchPrefix) || !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) == nil && int(st.Uid) == os.Geteuid() && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = RemoveTree(path)
		}
		_ = f.Close() // nothing was written
	}
}
