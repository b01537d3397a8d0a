package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ParentLink is the name of a link in an image directory to the directory with the memory that it
// lacks.
const ParentLink = "parent"

// imageFile gives the name in an image directory of the member of an archive.
func imageFile(member string) string { return strings.TrimPrefix(member, CheckpointDir+"/") }

// imageMember gives the archive's name of a file in an image directory: what is an image is a
// member of [CheckpointDir], everything else is called the same in both.
func imageMember(file string) string {
	if !strings.Contains(file, "/") && (strings.HasSuffix(file, ".img") || file == Descriptors) {
		return Image(file)
	}
	return file
}

// ImagesSink is a [Sink] that makes a directory of images as runtimes do ("runc checkpoint
// --image-path"), which they restore from: CRIU's images and descriptors.json, and beside them the other
// members of the archive. It has a temporary name until Commit, which syncs it to the disk.
type ImagesSink struct {
	dir    *DirSink
	parent string // what ParentLink points to; empty: none
}

var _ Sink = (*ImagesSink)(nil)

// CreateImages begins the directory path, whose parent must exist while itself must not. parent is the
// absolute path of the image directory whose memory the new images add to, or empty.
func CreateImages(path, parent string) (*ImagesSink, error) {
	dir, err := CreateDir(path)
	if err != nil {
		return nil, err
	}
	s := &ImagesSink{dir: dir}
	if parent == "" {
		return s, nil
	}
	abs, err := filepath.Abs(dir.path)
	if err == nil {
		s.parent, err = filepath.Rel(abs, parent)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("link %q to its parent: %w", path, err), s.Close())
	}
	return s, nil
}

// Dir is the directory under its temporary name. Files may be put into it in any other way.
func (s *ImagesSink) Dir() string { return s.dir.temp }

// Put implements [Sink].
func (s *ImagesSink) Put(ctx context.Context, e Entry, r io.Reader) error {
	if e.Kind == KindDir && e.Name == CheckpointDir {
		if s.dir.err == nil && ctx.Err() != nil {
			s.dir.err = context.Cause(ctx)
		}
		return s.dir.err
	}
	name := imageFile(e.Name)
	if imageMember(name) != e.Name {
		return &EntryError{Op: "unpack", Name: e.Name, Err: errors.New("it is neither an image nor a member that could stand beside images")}
	}
	e.Name = name
	return s.dir.Put(ctx, e, r)
}

// Commit implements [Sink].
func (s *ImagesSink) Commit(ctx context.Context) error {
	if s.parent != "" {
		// CRIU has made it where it wrote into the directory itself.
		if err := s.dir.root.Symlink(s.parent, ParentLink); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link %q to its parent: %w", s.dir.path, bare(err))
		}
	}
	if err := syncAll(s.dir.temp); err != nil {
		return fmt.Errorf("sync directory %q: %w", s.dir.path, err)
	}
	if err := s.dir.Commit(ctx); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.dir.path)); err != nil {
		return fmt.Errorf("%w: sync directory %q: %w", ErrNotDurable, filepath.Dir(s.dir.path), err)
	}
	return nil
}

// Close implements [Sink].
func (s *ImagesSink) Close() error { return s.dir.Close() }

// syncAll writes the file system of a directory to the disk.
func syncAll(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return bare(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return unix.Syncfs(int(f.Fd()))
}
