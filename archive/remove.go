package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// errMountPoint stops a removal at the root of another file system.
var errMountPoint = errors.New("a file system is mounted here")

// RemoveTree removes the directory path and what is below it. Unlike os.RemoveAll it
// stops at mount points instead of emptying what is mounted there: a failed
// restore can leave the host's cgroups or a root file system below a work
// directory. A path that is not there is no error.
func RemoveTree(path string) error {
	// A final slash or dot would make the parent of it another directory.
	full, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	parent, err := os.Open(filepath.Dir(full))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", path, bare(err))
	}
	defer parent.Close() //nolint:errcheck // read only
	if err := removeAt(int(parent.Fd()), filepath.Base(full)); err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	return nil
}

// removeAt removes name in the directory dir.
func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%q: %w", name, errMountPoint)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("%q: %w", name, err)
	}
	unlinkErr := err
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%q: %w", name, unlinkErr)
	}
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("%q: %w", name, errMountPoint)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := removeChildren(fd, name); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// removeChildren empties the open directory fd and closes it.
func removeChildren(fd int, name string) error {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() //nolint:errcheck // read only
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := removeAt(int(f.Fd()), child); err != nil {
			return fmt.Errorf("in %q: %w", name, err)
		}
	}
	return nil
}
