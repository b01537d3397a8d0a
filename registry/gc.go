package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// GCOptions are the options of [Store.GC]. The zero value removes all that is
// not needed, and gives up at once with ErrBusy while others use the store.
type GCOptions struct {
	// DryRun only counts.
	DryRun bool
	// Wait waits for others to be done with the store instead of giving up.
	Wait bool
	// MinAge spares files that were changed less than this ago: another tool,
	// which does not know our locks, may be writing them.
	MinAge time.Duration
}

// GCResult is what [Store.GC] removed, or would remove.
type GCResult struct {
	Blobs     int
	TempFiles int   // of writers that died
	Bytes     int64 // of both
}

// GC removes the blobs that no name leads to. What index.json lists is followed
// through indexes and manifests to layers; referrers of a manifest are not kept
// because of it. A manifest that cannot be read stops it before anything is
// removed: what is below it cannot be known.
func (s *Store) GC(ctx context.Context, opts GCOptions) (GCResult, error) {
	result, err := s.gc(ctx, opts)
	return result, opError("clean up", s.dir, err)
}

func (s *Store) gc(ctx context.Context, opts GCOptions) (result GCResult, err error) {
	var lock *fileLock
	if opts.Wait {
		lock, err = lockExclusive(ctx, filepath.Join(s.dir, useLockFile))
	} else {
		lock, err = tryLockExclusive(filepath.Join(s.dir, useLockFile))
	}
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()

	index, err := s.readIndex()
	if err != nil {
		return result, err
	}
	keep := map[digest.Digest]bool{}
	for _, d := range index.Manifests {
		if err := s.mark(ctx, keep, d, 0); err != nil {
			return result, err
		}
	}
	now := time.Now()
	sweep := func(count *int, keepFile func(dir, name string) bool) fs.WalkDirFunc {
		return func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || ctx.Err() != nil {
				return errors.Join(err, context.Cause(ctx))
			}
			if !e.Type().IsRegular() || keepFile(filepath.Base(filepath.Dir(path)), e.Name()) {
				return nil
			}
			info, err := e.Info()
			if err != nil || now.Sub(info.ModTime()) < opts.MinAge {
				return err
			}
			if !opts.DryRun {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
			*count++
			result.Bytes += info.Size()
			return nil
		}
	}
	isKept := func(dir, name string) bool {
		d := digest.NewDigestFromEncoded(digest.Algorithm(dir), name)
		// What is not called like a blob is not ours to remove.
		return keep[d] || checkDigest(d) != nil
	}
	if err := filepath.WalkDir(filepath.Join(s.dir, ocispec.ImageBlobsDir), sweep(&result.Blobs, isKept)); err != nil {
		return result, err
	}
	// With the lock held alone, nobody is writing any of these.
	keepTemp := func(_, name string) bool { return filepath.Ext(name) != tempSuffix }
	return result, filepath.WalkDir(filepath.Join(s.dir, tempDir), sweep(&result.TempFiles, keepTemp))
}

// mark notes desc and everything below it as needed.
func (s *Store) mark(ctx context.Context, keep map[digest.Digest]bool, desc ocispec.Descriptor, depth int) error {
	if keep[desc.Digest] {
		return nil
	}
	keep[desc.Digest] = true
	if !isManifest(desc.MediaType) {
		return nil
	}
	if depth > MaxIndexDepth {
		return contentf("manifest %s: nested too deep", desc.Digest)
	}
	_, m, err := fetchManifest(ctx, s, desc)
	if errors.Is(err, ErrNotFound) {
		return nil // others may have removed it; nothing is below what is not there
	}
	if err != nil {
		return fmt.Errorf("%w; nothing was removed: remove the damaged name first", err)
	}
	parts := m.parts()
	if m.Subject != nil {
		if err := checkDigest(m.Subject.Digest); err != nil {
			return err
		}
		parts = append(parts, *m.Subject)
	}
	for _, part := range parts {
		if err := s.mark(ctx, keep, part, depth+1); err != nil {
			return err
		}
	}
	return nil
}
