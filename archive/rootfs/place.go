package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// makeRoom removes what has the name of an entry, unless both are directories
// or the entry is a link, which looks for itself.
func (a *applier) makeRoom(dir int, base string, e entry) error {
	if e.header.Typeflag == tar.TypeLink {
		return nil
	}
	st, err := statAt(dir, base)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case e.header.Typeflag == tar.TypeDir && st.isDir() && st.mount == a.mount:
		return nil
	}
	return a.removeFound(dir, base, st)
}

// removeFound removes a file that is there, unless something is mounted on it.
func (a *applier) removeFound(dir int, base string, st attr) error {
	if !st.isRegular() {
		a.stale = true // links may have led through it to the last directory
	}
	return removeAt(dir, base)
}

// writeFile makes a new regular file.
func (a *applier) writeFile(ctx context.Context, dir int, base string, content io.Reader) (err error) {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = copyContent(ctx, f, content, a.buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return rejectf("the file is cut off")
	}
	return err
}

// link makes base in dir another name of the file at target, of which no link is followed in
// its last component.
func (a *applier) link(dir int, base, target string) error {
	to := archive.QuoteName(containerPath(target))
	up, name := splitName(target)
	parent, err := a.openNew(up, false)
	if err != nil {
		return rejectf("hard link to %s: %w", to, err)
	}
	defer parent.Close() //nolint:errcheck // a path, not a file
	file, err := statAt(int(parent.Fd()), name)
	switch {
	case err != nil:
		return rejectf("hard link to %s: %w", to, err)
	case file.isDir():
		return rejectf("hard link to %s: it is a directory", to)
	case file.mount != a.mount:
		return fmt.Errorf("hard link to %s: %w", to, errMounted)
	}
	old, err := statAt(dir, base)
	switch {
	case err == nil && old.id == file.id:
		return nil // it is this link already
	case err == nil:
		err = a.removeFound(dir, base, old)
	case errors.Is(err, unix.ENOENT):
		err = nil
	}
	if err != nil {
		return err
	}
	if err := unix.Linkat(int(parent.Fd()), name, dir, base, 0); err != nil {
		return fmt.Errorf("hard link to %s: %w", to, err)
	}
	return a.note(dir, base)
}

// remove deletes a name and what is below it. The way to it may lead through links inside the
// root; its last component is never followed.
func (a *applier) remove(name string) error {
	up, base := splitName(name)
	parent, err := a.open(up, false)
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := statAt(int(parent.Fd()), base)
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.removeFound(int(parent.Fd()), base, st)
}

// noteWay remembers a directory into which the difference put something, and those above it.
func (a *applier) noteWay(name string) error {
	for ; name != "" && !a.filled[name]; name, _ = splitName(name) {
		dir, err := a.openNew(name, false)
		if err != nil {
			return err
		}
		st, err := statAt(int(dir.Fd()), "")
		if err := errors.Join(err, dir.Close()); err != nil {
			return err
		}
		a.filled[name] = true
		a.filling[st.id] = struct{}{}
	}
	return nil
}

// removeListed deletes what deleted.files names. Podman and CRI-O list a directory that was deleted
// and made again, and have what is new in it in the tar: that came later, and stays.
func (a *applier) removeListed(name string) error {
	if !a.filled[name] {
		return a.remove(name)
	}
	dir, err := a.open(name, false)
	if err != nil {
		return err
	}
	a.stale = true
	return emptyDir(int(dir.Fd()), ".", func(id fileID) bool {
		_, made := a.made[id]
		_, way := a.filling[id]
		return made || way
	})
}

// clear empties a directory but for what the difference put there.
func (a *applier) clear(name string) error {
	dir, err := a.open(name, false)
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	a.stale = true
	return emptyDir(int(dir.Fd()), ".", func(id fileID) bool {
		_, ok := a.made[id]
		return ok
	})
}

// isAbsent tells whether a name leads nowhere, so that there is nothing to delete.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// setTimes sets the times of directories, which every change in them has moved.
func (a *applier) setTimes() error {
	for _, d := range a.dirs {
		err := a.setDirTime(d)
		if err != nil && !isAbsent(err) {
			return &archive.EntryError{Op: "apply", Name: containerPath(d.name), Err: err}
		}
	}
	return nil
}

func (a *applier) setDirTime(d dirTime) error {
	if d.name == "" {
		return setTime(int(a.root.Fd()), ".", d.mtime)
	}
	up, base := splitName(d.name)
	parent, err := a.open(up, false)
	if err != nil {
		return err
	}
	st, err := statAt(int(parent.Fd()), base)
	if err != nil || !st.isDir() || st.mount != a.mount {
		return err // a later entry put something else there
	}
	return setTime(int(parent.Fd()), base, d.mtime)
}
