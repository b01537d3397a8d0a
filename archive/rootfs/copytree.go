package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// CopyTree makes dst a faithful copy of the tree at src: types, owners, modes, times, hard links,
// holes and the extended attributes that a difference carries. Content is shared with src until
// it is written where the file system can (reflinks). What is mounted below src is left out, a
// mount point that is a directory is left empty, and sockets are left out. dst must not exist or be empty; after an
// error it is as it was.
func CopyTree(ctx context.Context, src, dst string) error {
	if err := copyTree(ctx, src, dst); err != nil {
		return fmt.Errorf("copy root file system %q to %q: %w", src, dst, err)
	}
	return nil
}

func copyTree(ctx context.Context, src, dst string) (err error) {
	from, err := openView("", src)
	if err != nil {
		return err
	}
	defer from.close()
	err = os.Mkdir(dst, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	to, err := openTree(dst)
	if err != nil {
		return err
	}
	defer to.close()
	present, err := to.list("")
	if err != nil {
		return err
	}
	if len(present) > 0 {
		return fmt.Errorf("%w: the directory is not empty", archive.ErrExists)
	}
	c := &copier{from: from, to: to, linked: map[fileID]string{}, buf: make([]byte, copyBufferBytes)}
	if err = c.copyDir(ctx, from.root()); err == nil {
		return nil
	}
	undo := emptyDir(int(to.root.Fd()), ".", func(fileID) bool { return false })
	if made {
		undo = errors.Join(undo, os.Remove(dst))
	}
	return errors.Join(err, undo)
}

// copier copies one tree.
type copier struct {
	from   *view
	to     *tree
	linked map[fileID]string // the first name of files that have several
	buf    []byte
}

// copyDir fills a directory that is there and then gives it its attributes.
func (c *copier) copyDir(ctx context.Context, dir *node) error {
	children, err := c.from.children(dir)
	if err != nil {
		return err
	}
	h, err := c.to.handle(dir.name)
	if err != nil {
		return err
	}
	defer h.Close() //nolint:errcheck // a path, not a file
	for _, n := range children {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := c.copyNode(ctx, int(h.Fd()), n)
		if err != nil && !n.attr.isDir() {
			err = fmt.Errorf("%s: %w", archive.QuoteName(containerPath(n.name)), err)
		}
		if err != nil {
			return err
		}
	}
	return c.finish(int(h.Fd()), ".", dir)
}

// copyNode copies one file into the directory dir.
func (c *copier) copyNode(ctx context.Context, dir int, n *node) error {
	_, base := splitName(n.name)
	if n.attr.mount != c.from.trees[0].attr.mount {
		if n.attr.isDir() {
			return makeImpliedDir(dir, base)
		}
		return nil
	}
	if n.attr.nlink > 1 && !n.attr.isDir() {
		if first, ok := c.linked[n.attr.id]; ok {
			return unix.Linkat(int(c.to.root.Fd()), first, dir, base, 0)
		}
	}
	switch n.attr.kind() {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dir, base, 0o700); err != nil {
			return err
		}
		return c.copyDir(ctx, n)
	case unix.S_IFREG:
		if err := c.copyFile(ctx, dir, base, n); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := n.places[0].tree.readlink(n.name)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, dir, base); err != nil {
			return err
		}
	case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		if err := makeNode(dir, base, n.attr.kind(), n.attr.major, n.attr.minor); err != nil {
			return err
		}
	default:
		return nil // a socket is of no use without its process
	}
	if n.attr.nlink > 1 {
		c.linked[n.attr.id] = n.name
	}
	return c.finish(dir, base, n)
}

// finish gives a copy the attributes of what it was copied from.
func (c *copier) finish(dir int, base string, n *node) error {
	xattrs, err := n.places[0].tree.xattrs(n.name)
	if err != nil {
		return err
	}
	return attributes{
		perm: n.attr.mode &^ unix.S_IFMT, uid: int(n.attr.uid), gid: int(n.attr.gid),
		mtime: n.attr.mtime, xattrs: xattrs,
	}.apply(dir, base)
}

// copyFile copies content, by reference where the file system can.
func (c *copier) copyFile(ctx context.Context, dir int, base string, n *node) (err error) {
	in, err := n.data.tree.open(n.data.name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	return c.copySparse(ctx, out, in, n.attr.size)
}

// Reflinks tells whether copies on the file system of the directory dir share their content, as [CopyTree] lets them.
// Nothing is left there.
func Reflinks(dir string) bool {
	from, err := archive.CreateUnnamed(dir)
	if err != nil {
		return false
	}
	defer from.Close() //nolint:errcheck // it is gone with it
	to, err := archive.CreateUnnamed(dir)
	if err != nil {
		return false
	}
	defer to.Close() //nolint:errcheck // likewise
	_, err = from.Write(make([]byte, os.Getpagesize()))
	return err == nil && unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil
}

// copySparse copies what is data and leaves holes as holes.
func (c *copier) copySparse(ctx context.Context, out, in *os.File, size int64) error {
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		end := size
		if err == nil {
			end, err = unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		} else if errors.Is(err, unix.EINVAL) {
			start, end, err = at, size, nil // no such seeks here: all of it is data
		}
		if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		piece := io.NewSectionReader(in, start, end-start)
		n, err := copyContent(ctx, io.NewOffsetWriter(out, start), piece, c.buf)
		if err == nil && n != end-start {
			err = fmt.Errorf("its size changed from %d bytes while it was read", size)
		}
		if err != nil {
			return err
		}
		at = end
	}
	return out.Truncate(size)
}
