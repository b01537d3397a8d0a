package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// differ writes a difference.
type differ struct {
	tw     *tar.Writer
	tree   *tree
	linked map[fileID]string // the first name of files that have several
	buf    []byte
	result Result
}

// writeChanges writes the collected changes, whose files are read from t, as a
// tar to w. root is what the first entry says of the root directory.
func writeChanges(ctx context.Context, w io.Writer, t *tree, root attr, c *changes, method string) (Result, error) {
	all, err := c.ordered()
	if err != nil {
		return Result{}, err
	}
	bw := bufio.NewWriterSize(w, copyBufferBytes)
	d := &differ{
		tw: tar.NewWriter(bw), tree: t, linked: map[fileID]string{}, buf: make([]byte, copyBufferBytes),
		result: Result{Method: method, Skipped: slices.Sorted(slices.Values(c.sockets))},
	}
	for _, ch := range all {
		if ctx.Err() != nil {
			return Result{}, context.Cause(ctx)
		}
		switch {
		case ch.deleted:
			err = d.writeWhiteout(ch.name)
		case ch.name == "":
			err = d.writeRoot(root)
		default:
			err = d.writeFile(ctx, ch.name)
		}
		if err != nil {
			return Result{}, fmt.Errorf("archive %s: %w", archive.QuoteName(containerPath(ch.name)), err)
		}
	}
	if err := d.tw.Close(); err != nil {
		return Result{}, fmt.Errorf("end root file system difference: %w", err)
	}
	if err := bw.Flush(); err != nil {
		return Result{}, fmt.Errorf("end root file system difference: %w", err)
	}
	return d.result, nil
}

// writeWhiteout writes the mark of a deletion, which has neither owner nor time, and lists it.
func (d *differ) writeWhiteout(name string) error {
	dir, base := splitName(name)
	mark := joinName(dir, whiteoutPrefix+base)
	d.result.Deleted = append(d.result.Deleted, containerPath(name))
	if _, err := cleanName(mark); err != nil {
		return nil //nolint:nilerr // the name is too long to be marked: the list alone says it
	}
	d.result.Deleted = append(d.result.Deleted, containerPath(mark))
	return d.tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: mark, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	})
}

func (d *differ) writeRoot(a attr) error {
	xattrs, err := d.tree.xattrs("")
	if err != nil {
		return err
	}
	h := header(a, xattrs)
	h.Typeflag, h.Name = tar.TypeDir, "/"
	return d.tw.WriteHeader(h)
}

// writeFile writes the entry of a name, content and all.
func (d *differ) writeFile(ctx context.Context, name string) error {
	f, err := d.tree.handle(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	a, err := statAt(int(f.Fd()), "")
	if err != nil {
		return err
	}
	xattrs, err := readXattrs(int(f.Fd()))
	if err != nil {
		return err
	}
	h := header(a, xattrs)
	h.Name = name
	if !a.isDir() {
		d.result.Files++
	}
	if first, ok := d.linked[a.id]; ok && !a.isDir() {
		h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
		return d.tw.WriteHeader(h)
	}
	if !a.isDir() && a.nlink > 1 {
		d.linked[a.id] = name
	}
	switch a.kind() {
	case unix.S_IFREG:
		return d.writeRegular(ctx, f, h, a.size)
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = readlinkOf(f); err != nil {
			return err
		}
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if a.kind() == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(a.major), int64(a.minor)
	default:
		return errors.New("changed its type while it was read")
	}
	return d.tw.WriteHeader(h)
}

// header is what all types of entries have in common.
func header(a attr, xattrs map[string]string) *tar.Header {
	h := &tar.Header{
		Mode: int64(a.mode &^ unix.S_IFMT), Uid: int(a.uid), Gid: int(a.gid),
		ModTime: a.mtime, Format: tar.FormatPAX,
	}
	for name, value := range xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string, len(xattrs))
		}
		h.PAXRecords[paxXattr+name] = value
	}
	return h
}

// writeRegular writes a regular file of exactly the size that its header says.
func (d *differ) writeRegular(ctx context.Context, handle *os.File, h *tar.Header, size int64) error {
	h.Typeflag, h.Size = tar.TypeReg, size
	f, err := reopen(handle)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if err := d.tw.WriteHeader(h); err != nil {
		return err
	}
	// One byte more than expected tells a file that grows from one that does not.
	n, err := copyContent(ctx, d.tw, io.LimitReader(f, size+1), d.buf)
	if errors.Is(err, tar.ErrWriteTooLong) || (err == nil && n != size) {
		return fmt.Errorf("its size changed from %d bytes while it was read: freeze what writes to it", size)
	}
	if err != nil {
		return err
	}
	d.result.Bytes += size
	return nil
}

// copyContent copies r to its end and stops when ctx ends.
func copyContent(ctx context.Context, w io.Writer, r io.Reader, buf []byte) (int64, error) {
	var total int64
	for {
		if ctx.Err() != nil {
			return total, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
