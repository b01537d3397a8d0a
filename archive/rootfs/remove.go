package rootfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// removeAt removes name in the directory dir and all below it. It follows no
// link and stops at mounts. A name that is not there is no error.
func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("remove %s: %w", archive.QuoteName(name), errMounted)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("remove %s: %w", archive.QuoteName(name), err)
	}
	if err := emptyDir(dir, name, func(fileID) bool { return false }); err != nil {
		return err
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.EBUSY) {
		err = errMounted
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", archive.QuoteName(name), err)
	}
	return nil
}

// emptyDir removes what is in the directory name of dir, except for the files that
// keep names; directories that are kept are emptied in the same way.
func emptyDir(dir int, name string, keep func(fileID) bool) error {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.EXDEV) {
		err = errMounted
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", archive.QuoteName(name), err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() //nolint:errcheck // read only
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", archive.QuoteName(name), err)
	}
	for _, child := range names {
		a, err := statAt(int(f.Fd()), child)
		if err != nil {
			return fmt.Errorf("look at %s: %w", archive.QuoteName(child), err)
		}
		switch {
		case !keep(a.id):
			err = removeAt(int(f.Fd()), child)
		case a.isDir():
			err = emptyDir(int(f.Fd()), child, keep)
		}
		if err != nil {
			return fmt.Errorf("in %s: %w", archive.QuoteName(name), err)
		}
	}
	return nil
}
