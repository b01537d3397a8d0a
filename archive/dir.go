package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// DirSink is a [Sink] that unpacks into a fresh directory: regular files 0600,
// directories 0700, whatever the entries say.
type DirSink struct {
	path string
	root *os.Root
	done bool
}

var _ Sink = (*DirSink)(nil)

// CreateDir makes the directory path, whose parent must exist, and unpacks into it.
func CreateDir(path string) (*DirSink, error) {
	if err := os.Mkdir(path, dirMode); err != nil {
		return nil, fmt.Errorf("create directory %q: %w", path, bare(err))
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open directory %q: %w", path, bare(err)), os.Remove(path))
	}
	return &DirSink{path: path, root: root}, nil
}

// Put implements [Sink].
func (d *DirSink) Put(ctx context.Context, e Entry, r io.Reader) error {
	if err := d.put(ctx, e, r); err != nil {
		return &EntryError{Op: "unpack", Name: e.Name, Err: err}
	}
	return nil
}

func (d *DirSink) put(ctx context.Context, e Entry, r io.Reader) (err error) {
	if name, err := CleanName(e.Name); err != nil || name != e.Name {
		return errors.New("not a clean name")
	}
	if e.Kind == KindDir {
		return d.root.MkdirAll(e.Name, dirMode)
	}
	if dir := path.Dir(e.Name); dir != "." {
		if err := d.root.MkdirAll(dir, dirMode); err != nil {
			return err
		}
	}
	if err := d.checkSpace(e.Size); err != nil {
		return err
	}
	f, err := d.root.OpenFile(e.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = copyContext(ctx, f, r)
	return err
}

// checkSpace refuses a file that cannot fit before its first byte is written.
func (d *DirSink) checkSpace(size int64) error {
	free, err := FreeSpace(d.path)
	if err != nil {
		return err
	}
	if size > free {
		return fmt.Errorf("%w: %d bytes into %q with %d free", ErrNoSpace, size, d.path, free)
	}
	return nil
}

// FreeSpace is the room for unprivileged data on the file system of path, in bytes.
func FreeSpace(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("free space of %q: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // block counts fit 63 bits
}

// Commit implements [Sink]. The directory is a working copy: nothing is synced.
func (d *DirSink) Commit(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.done = true
	return nil
}

// Close implements [Sink]: without Commit the directory is removed.
func (d *DirSink) Close() error {
	if d.root == nil {
		return nil
	}
	err := d.root.Close()
	d.root = nil
	if !d.done {
		err = errors.Join(err, RemoveTree(d.path))
	}
	return err
}

// DirOptions adjust [OpenDir].
type DirOptions struct {
	// ModTime, unless zero, is the time of all entries: a checkpoint has one.
	ModTime time.Time
}

// Dir is a [Source] and [Opener] over an unpacked checkpoint. Its entries come
// in the archive's fixed order. Whatever is not a regular file or directory is
// rejected: stale links in image directories have poisoned archives of other tools.
type Dir struct {
	root    *os.Root
	entries []Entry
	next    int
	open    *os.File
}

var (
	_ Source = (*Dir)(nil)
	_ Opener = (*Dir)(nil)
)

// OpenDir lists the directory path at once; later additions are not seen.
func OpenDir(path string, opts DirOptions) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open directory %q: %w", path, bare(err))
	}
	d := &Dir{root: root}
	if err := d.list(opts); err != nil {
		return nil, errors.Join(fmt.Errorf("list directory %q: %w", path, err), root.Close())
	}
	return d, nil
}

func (d *Dir) list(opts DirOptions) error {
	err := fs.WalkDir(d.root.FS(), ".", func(name string, de fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := de.Info()
		if err != nil {
			return err
		}
		e := Entry{Name: name, Mode: info.Mode().Perm(), ModTime: info.ModTime()}
		switch {
		case info.IsDir():
			e.Kind = KindDir
		case info.Mode().IsRegular():
			e.Size = info.Size()
		default:
			return rejectEntry(name, "a %s among the files of a checkpoint", describeMode(info.Mode()))
		}
		if !opts.ModTime.IsZero() {
			e.ModTime = opts.ModTime
		}
		d.entries = append(d.entries, e)
		return nil
	})
	slices.SortFunc(d.entries, func(a, b Entry) int { return compareNames(a.Name, b.Name) })
	return err
}

// Next implements [Source].
func (d *Dir) Next(ctx context.Context) (Entry, io.Reader, error) {
	if ctx.Err() != nil {
		return Entry{}, nil, context.Cause(ctx)
	}
	if d.root == nil {
		return Entry{}, nil, errClosed
	}
	if err := d.closeCurrent(); err != nil {
		return Entry{}, nil, err
	}
	if d.next == len(d.entries) {
		return Entry{}, nil, io.EOF
	}
	e := d.entries[d.next]
	d.next++
	if e.Kind == KindDir {
		return e, nil, nil
	}
	f, err := d.root.Open(e.Name)
	if err != nil {
		return Entry{}, nil, &EntryError{Op: "read", Name: e.Name, Err: bare(err)}
	}
	d.open = f
	return e, f, nil
}

func (d *Dir) closeCurrent() error {
	if d.open == nil {
		return nil
	}
	err := d.open.Close()
	d.open = nil
	return err
}

// Entries implements [Opener].
func (d *Dir) Entries(context.Context) ([]Entry, error) { return slices.Clone(d.entries), nil }

// Open implements [Opener].
func (d *Dir) Open(_ context.Context, name string) (Blob, error) {
	if !slices.ContainsFunc(d.entries, func(e Entry) bool { return e.Name == name && e.Kind == KindFile }) {
		return nil, &EntryError{Op: "open", Name: name, Err: ErrNotFound}
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, &EntryError{Op: "open", Name: name, Err: bare(err)}
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &fileBlob{File: f, size: info.Size()}, nil
}

// Close implements [Source].
func (d *Dir) Close() error {
	if d.root == nil {
		return nil
	}
	err := errors.Join(d.closeCurrent(), d.root.Close())
	d.root = nil
	return err
}

type fileBlob struct {
	*os.File
	size int64
}

func (b *fileBlob) Size() int64 { return b.size }
