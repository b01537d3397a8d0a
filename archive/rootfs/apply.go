package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// ApplyOptions adjust [Apply] and [Check]. The zero value is for archives of unknown origin.
type ApplyOptions struct {
	// Device tells whether a device node may be made: name is its path in the container, absolute and clean. nil: none may.
	Device func(name string) bool
}

// Apply puts a difference into the tree at root: first the tar, uncompressed or
// packed with gzip or zstd, in OCI's dialect or any engine's, then the deletions
// of deleted.files. It reads r to its end; the caller owns it. A damaged difference is
// found only when parts of it are applied: call [Check] before. Nothing outside root changes,
// whatever the difference holds.
func Apply(ctx context.Context, root string, r io.Reader, deleted []string, opts ApplyOptions) error {
	if err := apply(ctx, root, r, deleted, opts); err != nil {
		return fmt.Errorf("apply root file system difference to %q: %w", root, err)
	}
	return nil
}

// ApplyChecked is [Apply] of a difference that is read twice: nothing is changed before [Check] has accepted all of it.
// It reads f from where it is, and the caller owns it.
func ApplyChecked(ctx context.Context, root string, f io.ReadSeeker, deleted []string, opts ApplyOptions) error {
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if err := Check(ctx, f, opts); err != nil {
		return err
	}
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		return err
	}
	return Apply(ctx, root, f, deleted, opts)
}

func apply(ctx context.Context, root string, r io.Reader, deleted []string, opts ApplyOptions) error {
	gone, err := checkDeleted(deleted)
	if err != nil {
		return err
	}
	t, err := openTree(root)
	if err != nil {
		return err
	}
	defer t.close()
	a := &applier{
		root: t.root, mount: t.attr.mount, opts: opts,
		made: map[fileID]struct{}{t.attr.id: {}}, buf: make([]byte, copyBufferBytes),
		filled: map[string]bool{}, filling: map[fileID]struct{}{},
	}
	defer a.forget()
	err = each(ctx, r, func(e entry, s *stream) error {
		if err := opts.permit(e); err != nil {
			return err
		}
		err := a.put(ctx, e, s.tr)
		if err == nil {
			return nil
		}
		if s.raw.err != nil {
			err = s.raw.err
		}
		return &archive.EntryError{Op: "apply", Name: e.header.Name, Err: err}
	})
	if err != nil {
		return err
	}
	for _, name := range gone {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := a.removeListed(name); err != nil {
			return &archive.EntryError{Op: "delete", Name: containerPath(name), Err: err}
		}
	}
	return a.setTimes()
}

// applier changes the tree below root.
type applier struct {
	root  *os.File
	mount uint64
	opts  ApplyOptions
	made  map[fileID]struct{} // what the difference holds: an opaque mark spares it
	dirs  []dirTime
	buf   []byte

	// filled are the directories on the way to what the difference holds, by name and by file.
	filled  map[string]bool
	filling map[fileID]struct{}

	// dir is the directory that was used last: entries come sorted. It is
	// stale when a name on the way to it may mean something else.
	dir     *os.File
	dirName string
	stale   bool
}

// dirTime is set after everything in the directory is done.
type dirTime struct {
	name  string
	mtime time.Time
}

func (a *applier) forget() {
	if a.dir != nil {
		a.dir.Close() //nolint:errcheck // a path, not a file
		a.dir = nil
	}
}

// open opens a directory for *at calls, valid until the next call. Links are followed as in a
// chroot. With create missing directories are made.
func (a *applier) open(name string, create bool) (*os.File, error) {
	if a.dir != nil && a.dirName == name && !a.stale {
		return a.dir, nil
	}
	a.forget()
	dir, err := a.openNew(name, create)
	if err != nil {
		return nil, err
	}
	a.dir, a.dirName, a.stale = dir, name, false
	return dir, nil
}

func (a *applier) openNew(name string, create bool) (*os.File, error) {
	dir, err := pathrs.OpenatInRoot(a.root, "/"+name)
	if errors.Is(err, fs.ErrNotExist) && create && name != "" {
		if err := a.makeDir(name); err != nil {
			return nil, err
		}
		dir, err = pathrs.OpenatInRoot(a.root, "/"+name)
	}
	if err != nil {
		return nil, err
	}
	st, err := statAt(int(dir.Fd()), "")
	switch {
	case err != nil:
	case !st.isDir():
		err = &fs.PathError{Op: "open", Path: containerPath(name), Err: unix.ENOTDIR}
	case st.mount != a.mount:
		err = errMounted
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// makeDir makes a directory that no entry names, and those above it.
func (a *applier) makeDir(name string) error {
	up, base := splitName(name)
	parent, err := a.openNew(up, true)
	if err != nil {
		return err
	}
	defer parent.Close() //nolint:errcheck // a path, not a file
	err = makeImpliedDir(int(parent.Fd()), base)
	if errors.Is(err, unix.EEXIST) {
		// It could not be opened, so it is a link to nowhere.
		return rejectf("make directory %s: %w", archive.QuoteName(containerPath(name)), err)
	}
	if err != nil {
		return fmt.Errorf("make directory %s: %w", archive.QuoteName(containerPath(name)), err)
	}
	return a.note(int(parent.Fd()), base)
}

// note remembers that the difference holds a file.
func (a *applier) note(dir int, name string) error {
	st, err := statAt(dir, name)
	if err != nil {
		return err
	}
	a.made[st.id] = struct{}{}
	return nil
}

// put applies one entry.
func (a *applier) put(ctx context.Context, e entry, content io.Reader) error {
	switch {
	case e.whiteout:
		return a.remove(e.name)
	case e.opaque:
		return a.clear(e.name)
	case e.name == "":
		a.dirs = append(a.dirs, dirTime{"", e.header.ModTime})
		return e.attributes().apply(int(a.root.Fd()), ".")
	}
	up, base := splitName(e.name)
	parent, err := a.open(up, true)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return rejectf("in %s: %w", archive.QuoteName(containerPath(up)), err)
	}
	if err != nil {
		return err
	}
	dir := int(parent.Fd())
	if err := a.makeRoom(dir, base, e); err != nil {
		return err
	}
	switch e.header.Typeflag {
	case tar.TypeReg:
		err = a.writeFile(ctx, dir, base, content)
	case tar.TypeDir:
		if err = unix.Mkdirat(dir, base, 0o700); errors.Is(err, unix.EEXIST) {
			err = nil // makeRoom left a directory
		}
		a.dirs = append(a.dirs, dirTime{e.name, e.header.ModTime})
	case tar.TypeSymlink:
		err = unix.Symlinkat(e.header.Linkname, dir, base)
	case tar.TypeLink:
		return a.link(dir, base, e.target)
	case tar.TypeFifo:
		err = makeNode(dir, base, unix.S_IFIFO, 0, 0)
	case tar.TypeChar:
		err = makeNode(dir, base, unix.S_IFCHR, uint32(e.header.Devmajor), uint32(e.header.Devminor)) //nolint:gosec // checked
	case tar.TypeBlock:
		err = makeNode(dir, base, unix.S_IFBLK, uint32(e.header.Devmajor), uint32(e.header.Devminor)) //nolint:gosec // checked
	}
	if err != nil {
		return err
	}
	if err := e.attributes().apply(dir, base); err != nil {
		return err
	}
	return errors.Join(a.note(dir, base), a.noteWay(up))
}

// attributes are those that the header gives.
func (e entry) attributes() attributes {
	return attributes{
		perm: uint32(e.header.Mode) & 0o7777, //nolint:gosec // masked
		uid:  e.header.Uid, gid: e.header.Gid, mtime: e.header.ModTime, xattrs: e.xattrs,
	}
}
