package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
)

// tempDir holds blobs in the making, inside the store so that a rename can finish them.
const tempDir = "ckarchive.tmp"

// Blob is content with random access, which may be used concurrently. It is an
// alias of an interface literal so that packages which must not import this
// one can name the same type.
type Blob = interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Store is an OCI image layout in a directory. Any number of processes may use
// one store: a name is never lost and never leads to content that is not there.
// It may be used concurrently.
type Store struct {
	dir string
}

var (
	_ oras.Target      = (*Store)(nil)
	_ content.Untagger = (*Store)(nil)
)

// StoreOptions are the options of [OpenStore]. The zero value opens a store that must exist.
type StoreOptions struct {
	// Create makes the store, with its directory, if it is not there.
	Create bool
}

// OpenStore opens the OCI image layout in dir. A directory that holds other
// things than a layout is rejected.
func OpenStore(ctx context.Context, dir string, opts StoreOptions) (*Store, error) {
	s := &Store{dir: filepath.Clean(dir)}
	err := s.checkLayout()
	if errors.Is(err, fs.ErrNotExist) {
		if !opts.Create {
			return nil, &Error{Op: "open store", Reference: dir, Err: fmt.Errorf("%w: no OCI image layout there", ErrNotFound)}
		}
		err = s.create(ctx)
	}
	if err != nil {
		return nil, opError("open store", dir, err)
	}
	return s, nil
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// checkLayout reads oci-layout; its absence is a fs.ErrNotExist.
func (s *Store) checkLayout() error {
	raw, err := readSmall(filepath.Join(s.dir, ocispec.ImageLayoutFile), maxErrorBody)
	if err != nil {
		return err
	}
	return checkLayoutFile(raw)
}

func checkLayoutFile(raw []byte) error {
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(raw, &layout); err != nil {
		return contentf("%s: %w", ocispec.ImageLayoutFile, err)
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return contentf("%s: layout version %s, this program knows %s", ocispec.ImageLayoutFile, quoteName(layout.Version), ocispec.ImageLayoutVersion)
	}
	return nil
}

// create makes an empty layout. Several processes may do so at once: each
// writes the same bytes, and index.json only under its lock.
func (s *Store) create(ctx context.Context) (err error) {
	if err := checkVacant(s.dir); err != nil {
		return err
	}
	for _, dir := range []string{s.dir, filepath.Join(s.dir, ocispec.ImageBlobsDir, "sha256"), filepath.Join(s.dir, tempDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	lock, err := lockExclusive(ctx, filepath.Join(s.dir, indexLockFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := os.Lstat(s.indexPath()); errors.Is(err, fs.ErrNotExist) {
		if err := s.writeIndex(&ocispec.Index{}); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return s.writeFile(ocispec.ImageLayoutFile, raw)
}

// writeFile replaces one of the files of the layout that are no blobs.
func (s *Store) writeFile(name string, raw []byte) error {
	temp := filepath.Join(s.dir, tempDir)
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return err
	}
	return writeDurable(temp, filepath.Join(s.dir, name), raw)
}

// checkVacant refuses a directory that is in use for something else. What an
// interrupted or concurrent create leaves is allowed.
func checkVacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case ocispec.ImageBlobsDir, tempDir, indexLockFile, useLockFile, ocispec.ImageIndexFile, ocispec.ImageLayoutFile:
		default:
			return fmt.Errorf("directory holds %s and no %s; name an empty or a new one", quoteName(e.Name()), ocispec.ImageLayoutFile)
		}
	}
	return nil
}

// Hold keeps GC away until the returned lock is closed. It is to be held from
// before the first blob is written to after the name is given, and while
// several blobs are read.
func (s *Store) Hold(ctx context.Context) (io.Closer, error) {
	lock, err := lockShared(ctx, filepath.Join(s.dir, useLockFile))
	if err != nil {
		return nil, opError("use store", s.dir, err)
	}
	return lock, nil
}

// blobPath is the file of a blob; only a checked digest may become one.
func (s *Store) blobPath(d digest.Digest) (string, error) {
	if err := checkDigest(d); err != nil {
		return "", err
	}
	return filepath.Join(s.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// openBlob opens the file of a blob and checks that it has the size of desc.
func (s *Store) openBlob(desc ocispec.Descriptor) (*os.File, error) {
	path, err := s.blobPath(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: blob %s", ErrNotFound, desc.Digest)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = contentf("blob %s: not a regular file", desc.Digest)
	case info.Size() != desc.Size:
		err = contentf("blob %s: %d bytes, its descriptor says %d", desc.Digest, info.Size(), desc.Size)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Fetch opens a blob. The reader, which the caller closes, says io.EOF only if the content
// matches its digest, and else an ErrContent.
func (s *Store) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := s.openBlob(desc)
	if err != nil {
		return nil, opError("read", s.dir, err)
	}
	return newVerifiedReader(f, desc), nil
}

// FetchFrom opens a blob at off, in bytes, without checking it against its
// digest. The caller closes the reader.
func (s *Store) FetchFrom(_ context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	f, err := s.openBlob(desc)
	if err != nil {
		return nil, opError("read", s.dir, err)
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, opError("read", s.dir, err)
	}
	return f, nil
}

// OpenBlob opens a blob for random access, without checking it against its digest. The caller closes it.
func (s *Store) OpenBlob(_ context.Context, desc ocispec.Descriptor) (Blob, error) {
	f, err := s.openBlob(desc)
	if err != nil {
		return nil, opError("read", s.dir, err)
	}
	return &fileBlob{File: f, size: desc.Size}, nil
}

// fileBlob is a file of known size.
type fileBlob struct {
	*os.File
	size int64
}

// Size is the length in bytes.
func (b *fileBlob) Size() int64 { return b.size }

// Exists tells whether a blob of this digest and size is there. A file of
// another size is not the blob: pushing replaces it.
func (s *Store) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	path, err := s.blobPath(desc.Digest)
	if err != nil {
		return false, opError("look for", s.dir, err)
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, opError("look for", s.dir, err)
	}
	return info.Mode().IsRegular() && info.Size() == desc.Size, nil
}

// Push writes a blob that desc describes and checks it. It reads r to its end and does
// not close it. A blob that is there already is an ErrExists and r is not read.
func (s *Store) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := checkDescriptor(desc); err != nil {
		return opError("write", s.dir, err)
	}
	if there, err := s.Exists(ctx, desc); err != nil || there {
		if there {
			err = fmt.Errorf("%w: blob %s", ErrExists, desc.Digest)
		}
		return opError("write", s.dir, err)
	}
	in, err := s.newIngest(ctx, desc.Digest.Algorithm())
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // after Commit there is nothing left to discard
	vr := content.NewVerifyReader(contextReader{ctx, r}, desc)
	if _, err := io.Copy(in, vr); err != nil {
		return opError("write", s.dir, verifyError(desc, err))
	}
	if err := vr.Verify(); err != nil {
		return opError("write", s.dir, verifyError(desc, err))
	}
	_, err = in.Commit(ctx, desc.MediaType)
	return err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives as long as the one call that makes it
	r   io.Reader
}

// Read reads unless the context has ended.
func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
