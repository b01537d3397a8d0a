package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// DirSink is a [Sink] that unpacks into a fresh directory: regular files 0600,
// directories 0700, whatever the entries say, with holes where the content is zero.
// Times are kept, so that the directory gives the same archive again. It has a
// temporary name until Commit.
type DirSink struct {
	path string // the name from Commit on
	temp string
	root *os.Root
	dirs []Entry
	err  error // why nothing more is taken
	done bool
}

var _ Sink = (*DirSink)(nil)

// CreateDir begins the directory path, whose parent must exist while itself must not.
func CreateDir(path string) (*DirSink, error) {
	path = filepath.Clean(path)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = ErrExists
		}
		return nil, fmt.Errorf("create directory %q: %w", path, bare(err))
	}
	_, temp := temporaryName(path)
	if err := os.Mkdir(temp, dirMode); err != nil {
		return nil, fmt.Errorf("create directory %q: %w", path, bare(err))
	}
	root, err := os.OpenRoot(temp)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open directory %q: %w", temp, bare(err)), os.Remove(temp))
	}
	return &DirSink{path: path, temp: temp, root: root}, nil
}

// Put implements [Sink].
func (d *DirSink) Put(ctx context.Context, e Entry, r io.Reader) error {
	if d.err != nil {
		return d.err
	}
	if err := d.put(ctx, e, r); err != nil {
		d.err = &EntryError{Op: "unpack", Name: e.Name, Err: bare(err)}
		return d.err
	}
	return nil
}

func (d *DirSink) put(ctx context.Context, e Entry, r io.Reader) error {
	if name, err := CleanName(e.Name); err != nil || name != e.Name {
		return errors.New("not a clean name")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e.Kind == KindDir {
		d.dirs = append(d.dirs, e)
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
	w := &sparseFile{file: f}
	n, err := copyContext(ctx, w, r)
	if err == nil {
		err = w.finish()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if e.Size != SizeUnknown && n != e.Size {
		return fmt.Errorf("%d bytes where %d were announced: %w", n, e.Size, io.ErrUnexpectedEOF)
	}
	return d.setTime(e)
}

func (d *DirSink) setTime(e Entry) error {
	if e.ModTime.IsZero() {
		return nil
	}
	return d.root.Chtimes(e.Name, e.ModTime, e.ModTime)
}

// checkSpace refuses a file that cannot fit before its first byte is written.
func (d *DirSink) checkSpace(size int64) error {
	free, err := FreeSpace(d.temp)
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
	if d.err != nil {
		return d.err
	}
	d.err = errClosed
	for _, e := range d.dirs {
		if err := d.setTime(e); err != nil {
			return &EntryError{Op: "unpack", Name: e.Name, Err: bare(err)}
		}
	}
	err := renameNew(d.temp, d.path)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// Of directories, a plain rename replaces none but an empty one.
		err = existsSince(bare(os.Rename(d.temp, d.path)))
	}
	if err != nil {
		return fmt.Errorf("name directory %q: %w", d.path, err)
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
	d.root, d.err = nil, errClosed
	if !d.done {
		err = errors.Join(err, RemoveTree(d.temp))
	}
	return err
}

// DirOptions adjust [OpenDir].
type DirOptions struct {
	// ModTime, unless zero, is the time of all entries: a checkpoint has one.
	ModTime time.Time
	// Images says that the directory is one of images, see [CreateImages].
	Images bool
}

// Dir is a [Source] and [Opener] over an unpacked checkpoint. Its entries come
// in the archive's fixed order. Whatever is not a regular file or directory is
// rejected: stale links in image directories have poisoned archives of other tools.
type Dir struct {
	root    *os.Root
	entries []Entry
	next    int
	open    *os.File
	images  bool // the names of the files are those of an image directory
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
	d := &Dir{root: root, images: opts.Images}
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
		if _, err := CleanName(name); err != nil {
			return &EntryError{Op: "read", Name: name, Err: err}
		}
		info, err := de.Info()
		if err != nil {
			return err
		}
		if opts.Images {
			name = imageMember(name)
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
	if opts.Images {
		d.entries = append(d.entries, Entry{Name: CheckpointDir, Kind: KindDir, Mode: dirMode, ModTime: opts.ModTime})
	}
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
	f, _, err := d.openFile(e.Name)
	if err != nil {
		return Entry{}, nil, &EntryError{Op: "read", Name: e.Name, Err: err}
	}
	d.open = f
	return e, f, nil
}

// openFile opens what was a regular file when the directory was listed. Should it have become a
// FIFO, nobody waits for its writer.
func (d *Dir) openFile(name string) (*os.File, int64, error) {
	if d.images {
		name = imageFile(name)
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, bare(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = rejectf("it has become a %s", describeMode(info.Mode()))
	}
	if err != nil {
		return nil, 0, errors.Join(bare(err), f.Close())
	}
	return f, info.Size(), nil
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
	if d.root == nil {
		return nil, &EntryError{Op: "open", Name: name, Err: errClosed}
	}
	if !slices.ContainsFunc(d.entries, func(e Entry) bool { return e.Name == name && e.Kind == KindFile }) {
		return nil, &EntryError{Op: "open", Name: name, Err: ErrNotFound}
	}
	f, size, err := d.openFile(name)
	if err != nil {
		return nil, &EntryError{Op: "open", Name: name, Err: err}
	}
	return &fileBlob{File: f, size: size}, nil
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
