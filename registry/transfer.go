package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blob copies a blob unless the destination has it, or can take it from one of its other repositories.
func (c *copier) blob(ctx context.Context, desc ocispec.Descriptor) error {
	there := c.known.there[desc.Digest]
	if !there && !c.known.fresh {
		var err error
		if there, err = c.dst.Exists(ctx, desc); err != nil {
			return err
		}
	}
	if there {
		c.skip(desc.Size, func(copied *Copied) { copied.Skipped++ })
		return nil
	}
	mounted, err := c.transfer(ctx, desc)
	switch {
	case err != nil:
		return err
	case mounted:
		c.skip(desc.Size, func(copied *Copied) { copied.Mounted++ })
	default:
		c.note(0, func(copied *Copied) {
			copied.Blobs++
			copied.Bytes += desc.Size
		})
	}
	return nil
}

// resend sends what the destination does not have of these blobs, whatever was known of them.
func (c *copier) resend(ctx context.Context, blobs []ocispec.Descriptor) error {
	c.known = known{}
	for _, desc := range blobs {
		if there, err := c.dst.Exists(ctx, desc); err != nil {
			return err
		} else if there {
			continue
		}
		c.report(-desc.Size)
		if _, err := c.transfer(ctx, desc); err != nil {
			return err
		}
		c.note(0, func(copied *Copied) {
			copied.Resent++
			copied.Bytes += desc.Size
		})
	}
	return nil
}

// transfer brings a blob to the destination. mounted says that none of it was sent.
func (c *copier) transfer(ctx context.Context, desc ocispec.Descriptor) (mounted bool, err error) {
	from := c.opener(desc)
	switch dst := c.dst.(type) {
	case *Repository:
		source := c.known.sources[desc.Digest]
		if mounted, err = dst.mountOrWrite(ctx, desc, source, from, c.report); err != nil {
			return false, err
		}
		// Believing "201 Created" has cost people their images.
		there, err := dst.Exists(ctx, desc)
		if err == nil && !there && mounted {
			source.refused.Store(true)
			mounted = false
			if err = dst.writeBlob(ctx, desc, from, c.report); err == nil {
				there, err = dst.Exists(ctx, desc)
			}
		}
		if err == nil && !there {
			err = fmt.Errorf("%w: it took the blob and does not have it", ErrRegistry)
		}
		return mounted, opError("check blob "+desc.Digest.String(), dst.ref.Name(), err)
	case blobWriter:
		return false, dst.writeBlob(ctx, desc, from, c.report)
	}
	rc, err := from(ctx, 0)
	if err != nil {
		return false, err
	}
	defer rc.Close() //nolint:errcheck // read side
	if err := c.dst.Push(ctx, desc, newVerifiedReader(rc, desc)); err != nil && !errors.Is(err, ErrExists) {
		return false, err
	}
	c.report(desc.Size)
	return false, nil
}

// opener opens a blob of the source anywhere. A registry's blob continues by
// itself where a transfer breaks.
func (c *copier) opener(desc ocispec.Descriptor) openFunc {
	return func(ctx context.Context, off int64) (io.ReadCloser, error) {
		if r, ok := c.src.(*Repository); ok {
			rc := r.resuming(ctx, desc)
			rc.off = off
			return rc, rc.open()
		}
		if f, ok := c.src.(rangeFetcher); ok {
			return f.FetchFrom(ctx, desc, off)
		}
		rc, err := c.src.Fetch(ctx, desc)
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(io.Discard, rc, off); err != nil {
			_ = rc.Close()
			return nil, err
		}
		return rc, nil
	}
}

// countingWriter reports what it writes.
type countingWriter struct {
	w      io.Writer
	report func(int64)
}

// Write writes and reports.
func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.report(int64(n))
	return n, err
}
