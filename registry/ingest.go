package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// tempSuffix marks files that were not finished.
const tempSuffix = ".tmp"

// BlobWriter takes a blob whose digest is not known yet. Nothing is seen of it
// before Commit; Close discards it, also twice and after Commit. It is an alias
// of an interface literal so that packages which must not import this one can
// name the same type.
type BlobWriter = interface {
	io.WriteCloser
	// Commit makes the blob visible and durable and tells its digest and size.
	Commit(ctx context.Context, mediaType string) (ocispec.Descriptor, error)
}

// Ingest begins a blob. GC waits for it to be committed or closed.
func (s *Store) Ingest(ctx context.Context) (BlobWriter, error) {
	return s.newIngest(ctx, digest.SHA256)
}

// ingest is a blob in the making.
type ingest struct {
	store *Store
	hold  io.Closer
	f     *os.File
	alg   digest.Algorithm
	hash  hash.Hash
	size  int64
	kept  bool // what is left of it is of use to the next attempt
	done  bool
}

var _ BlobWriter = (*ingest)(nil)

// newIngest begins a blob in a file of its own.
func (s *Store) newIngest(ctx context.Context, alg digest.Algorithm) (*ingest, error) {
	return s.beginIngest(ctx, alg, func(dir string) (*os.File, error) { return os.CreateTemp(dir, "blob-*"+tempSuffix) })
}

// beginIngest begins a blob in the file that open gives, in the directory that it is told.
func (s *Store) beginIngest(ctx context.Context, alg digest.Algorithm, open func(dir string) (*os.File, error)) (*ingest, error) {
	if alg != digest.SHA256 && alg != digest.SHA512 {
		return nil, opError("write", s.dir, contentf("digest algorithm %s", quoteName(alg.String())))
	}
	hold, err := s.Hold(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, tempDir)
	if err = os.MkdirAll(dir, 0o700); err == nil {
		var f *os.File
		if f, err = open(dir); err == nil {
			return &ingest{store: s, hold: hold, f: f, alg: alg, hash: alg.Hash()}, nil
		}
	}
	_ = hold.Close()
	return nil, opError("write", s.dir, err)
}

// Write adds to the blob.
func (in *ingest) Write(p []byte) (int, error) {
	n, err := in.f.Write(p)
	in.size += int64(n)
	in.hash.Write(p[:n])
	return n, err
}

// digest is the digest of what was written so far.
func (in *ingest) digest() digest.Digest { return digest.NewDigest(in.alg, in.hash) }

// Commit gives the blob its name.
func (in *ingest) Commit(ctx context.Context, mediaType string) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: in.digest(), Size: in.size}
	if err := in.commit(ctx, desc); err != nil {
		_ = in.Close()
		return ocispec.Descriptor{}, opError("write", in.store.dir, fmt.Errorf("blob %s: %w", desc.Digest, err))
	}
	in.done = true
	return desc, in.hold.Close()
}

func (in *ingest) commit(ctx context.Context, desc ocispec.Descriptor) error {
	if in.done {
		return fs.ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	path, err := in.store.blobPath(desc.Digest)
	if err != nil {
		return err
	}
	if err := errors.Join(syncFile(in.f), in.f.Close()); err != nil {
		return err
	}
	// A blob that is there already is replaced: that costs nothing and mends one that was damaged.
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(in.f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// Close discards a blob that was not committed, unless it is kept.
func (in *ingest) Close() error {
	if in.done {
		return nil
	}
	in.done = true
	if in.kept && in.size > 0 {
		return errors.Join(in.f.Close(), in.hold.Close())
	}
	err := os.Remove(in.f.Name())
	_ = in.f.Close()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, in.hold.Close())
}

// writeDurable replaces the file at path with raw, by way of a file in temp:
// after a crash there is the old or the new one.
func writeDurable(temp, path string, raw []byte) (err error) {
	f, err := os.CreateTemp(temp, filepath.Base(path)+"-*"+tempSuffix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	if err := errors.Join(syncFile(f), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncFile(d), d.Close())
}

// syncFile is fsync, where the file system knows it.
func syncFile(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read side
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, contentf("%q is not a regular file", path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, contentf("%q is longer than %d bytes", path, limit)
	}
	return raw, nil
}
