package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
)

// defaultConcurrency is the number of blobs that move at once: more is not faster.
const defaultConcurrency = 4

// CopyOptions are the options of [Copy]. The zero value copies and says nothing.
type CopyOptions struct {
	// Concurrency is the number of blobs that move at once; 0 means 4.
	Concurrency int
	// IfAbsent refuses to move a name that leads to something else: ErrExists.
	IfAbsent bool
	// OnProgress hears of the bytes that are done. Calls do not overlap.
	OnProgress func(Progress)
}

// Progress is how far a copy is, in bytes of all blobs and manifests together.
// Done may go back when a transfer has to begin again.
type Progress struct {
	Done, Total int64
	// Skipped is the part of Done that was there already.
	Skipped int64
}

// Copied is what a copy did.
type Copied struct {
	Descriptor ocispec.Descriptor
	Blobs      int   // that were transferred
	Bytes      int64 // of these
	Skipped    int   // blobs that were there already
	Mounted    int   // blobs that the registry took from another of its repositories
	Resent     int   // blobs that the registry had and lost before the manifest came
}

// blobWriter is a target that can begin a blob again when a transfer breaks.
type blobWriter interface {
	writeBlob(ctx context.Context, desc ocispec.Descriptor, from openFunc, report func(int64)) error
}

// rangeFetcher is a source that can begin in the middle of a blob.
type rangeFetcher interface {
	FetchFrom(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error)
}

// holder is a store whose content must not be cleaned up meanwhile.
type holder interface {
	Hold(ctx context.Context) (io.Closer, error)
}

var (
	_ blobWriter   = (*Store)(nil)
	_ blobWriter   = (*Repository)(nil)
	_ rangeFetcher = (*Store)(nil)
	_ rangeFetcher = (*StoreArchive)(nil)
	_ rangeFetcher = (*Repository)(nil)
	_ holder       = (*Store)(nil)
)

// Copy makes dstName of dst lead to what srcName of src leads to. After
// srcName is resolved, everything goes by digest. First come the blobs, each
// digest once and those that are there not at all, then manifests, then the
// name: a copy that fails leaves no name behind, and doing it again goes on
// where it stopped. An empty srcName is what src itself was opened with; an
// empty dstName of a Repository is its reference.
func Copy(ctx context.Context, dst oras.Target, dstName string, src oras.ReadOnlyTarget, srcName string, opts CopyOptions) (_ Copied, err error) {
	for _, end := range []any{src, dst} {
		if h, ok := end.(holder); ok {
			lock, err := h.Hold(ctx)
			if err != nil {
				return Copied{}, err
			}
			defer lock.Close() //nolint:errcheck // closing a lock file loses nothing
		}
	}
	if r, ok := dst.(*Repository); ok && dstName == "" {
		dstName = r.ref.Identifier()
	}
	root, err := src.Resolve(ctx, srcName)
	if err != nil {
		return Copied{}, err
	}
	c := copier{dst: dst, src: src, opts: opts, copied: Copied{Descriptor: root}}
	if opts.IfAbsent {
		if err := c.checkAbsent(ctx, dstName, root); err != nil {
			return c.copied, err
		}
	}
	all, err := graph(ctx, src, root)
	if err != nil {
		return c.copied, opError("read", srcName, err)
	}
	c.progress.Total = all.size()
	if err := c.learn(ctx, root.Digest, all.blobs); err != nil {
		return c.copied, err
	}
	if err := c.blobs(ctx, all.blobs); err != nil {
		return c.copied, err
	}
	for _, m := range all.manifests {
		if err := c.manifest(ctx, m, all.blobs); err != nil {
			return c.copied, err
		}
	}
	if err := c.name(ctx, all.manifests[len(all.manifests)-1], dstName); err != nil {
		return c.copied, err
	}
	c.noteSeen(ctx)
	return c.copied, nil
}

// noteSeen lets the store remember that the registry has what was copied. It is there all the same if the store
// cannot be written.
func (c *copier) noteSeen(ctx context.Context) {
	store, r := (*Store)(nil), (*Repository)(nil)
	switch dst := c.dst.(type) {
	case *Repository:
		r = dst
		store, _ = c.src.(*Store)
	case *Store:
		store = dst
		r, _ = c.src.(*Repository)
	}
	if store != nil && r != nil {
		_ = store.noteSeen(ctx, seen{r.ref.Name(), c.copied.Descriptor.Digest})
	}
}

// copier is one copy.
type copier struct {
	dst  oras.Target
	src  oras.ReadOnlyTarget
	opts CopyOptions
	// known is of the destination; it changes only while no blob is copied.
	known known

	mu       sync.Mutex
	progress Progress
	copied   Copied
}

func (c *copier) checkAbsent(ctx context.Context, name string, root ocispec.Descriptor) error {
	old, err := c.dst.Resolve(ctx, name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case old.Digest != root.Digest:
		return &Error{Op: "copy to", Reference: name, Err: fmt.Errorf("%w: it leads to %s", ErrExists, old.Digest)}
	}
	return nil
}

// report counts bytes, and tells.
func (c *copier) report(n int64) { c.note(n, func(*Copied) {}) }

func (c *copier) note(n int64, note func(*Copied)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	note(&c.copied)
	c.progress.Done += n
	if c.opts.OnProgress != nil {
		c.opts.OnProgress(c.progress)
	}
}

// skip counts a blob that need not be transferred.
func (c *copier) skip(n int64, note func(*Copied)) {
	c.note(n, func(copied *Copied) {
		note(copied)
		c.progress.Skipped += n
	})
}

// blobs copies what is not there, largest first so that the end is not one long wait. If nothing is asked for, the first
// one goes before: where it is missing, nothing of the copy was sent.
func (c *copier) blobs(ctx context.Context, blobs []ocispec.Descriptor) error {
	if c.known.fresh {
		if err := c.blob(ctx, blobs[0]); err != nil {
			return err
		}
		blobs = blobs[1:]
	}
	blobs = slices.Clone(blobs)
	slices.SortStableFunc(blobs, func(a, b ocispec.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	group, groupCtx := errgroup.WithContext(ctx)
	limit := c.opts.Concurrency
	if limit <= 0 {
		limit = defaultConcurrency
	}
	group.SetLimit(limit)
	for _, desc := range blobs {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error { return c.blob(groupCtx, desc) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// manifest writes a manifest under its digest and, in a registry, reads it back. blobs are those of all manifests.
func (c *copier) manifest(ctx context.Context, m manifestNode, blobs []ocispec.Descriptor) error {
	there, err := c.dst.Exists(ctx, m.desc)
	if err != nil {
		return err
	}
	if r, ok := c.dst.(*Repository); ok {
		if !there {
			if err := c.putManifest(ctx, r, m, blobs); err != nil {
				return err
			}
		}
		if _, _, err := fetchManifest(ctx, r, m.desc); err != nil {
			return opError("read back", r.named(m.desc.Digest.String()), err)
		}
	} else if !there {
		if err := c.dst.Push(ctx, m.desc, bytes.NewReader(m.raw)); err != nil && !errors.Is(err, ErrExists) {
			return err
		}
	}
	c.report(m.desc.Size)
	return nil
}

// putManifest writes a manifest into a registry. Until then nothing there needs the blobs: a registry that
// collects its garbage meanwhile may have removed some of them, and gets those again.
func (c *copier) putManifest(ctx context.Context, r *Repository, m manifestNode, blobs []ocispec.Descriptor) error {
	for attempt := 1; ; attempt++ {
		err := r.pushManifest(ctx, m.desc, m.raw, m.desc.Digest.String())
		var status *StatusError
		lost := errors.As(err, &status) && status.blobUnknown()
		switch {
		case err == nil:
			return nil
		case !lost:
			return fmt.Errorf("%w (the blobs are in the registry; doing it again sends only the manifest)", err)
		case attempt == tries:
			return err
		}
		if err := r.client.patience.again(ctx, "push manifest "+m.desc.Digest.String(), attempt, backoff(attempt), err); err != nil {
			return err
		}
		if err := c.resend(ctx, blobs); err != nil {
			return err
		}
	}
}

// name makes the name lead to the root.
func (c *copier) name(ctx context.Context, root manifestNode, name string) error {
	r, ok := c.dst.(*Repository)
	switch {
	case ok && checkDigest(digest.Digest(name)) == nil:
		if name != root.desc.Digest.String() {
			return &Error{Op: "copy to", Reference: r.named(name), Err: contentf("the manifest is %s", root.desc.Digest)}
		}
		return nil
	case ok:
		return r.pushManifest(ctx, root.desc, root.raw, name)
	case name == "":
		return nil
	}
	if s, ok := c.dst.(*Store); ok && c.opts.IfAbsent {
		return s.TagNew(ctx, c.copied.Descriptor, name)
	}
	return c.dst.Tag(ctx, c.copied.Descriptor, name)
}
