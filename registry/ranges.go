package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// FetchFrom opens a blob at off, in bytes, without checking it against its
// digest. The caller closes the reader. Where the registry does not know
// ranges, what comes before off is read and thrown away.
func (r *Repository) FetchFrom(ctx context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	rc, _, err := r.openRange(ctx, nil, desc, off, desc.Size-off)
	return rc, opError("fetch blob "+string(desc.Digest), r.ref.Name(), err)
}

// openRange asks for n bytes at off: from target if that is known, else from
// the registry. It tells where the registry redirected to, if it did.
func (r *Repository) openRange(ctx context.Context, target *url.URL, desc ocispec.Descriptor, off, n int64) (io.ReadCloser, *url.URL, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, nil, err
	}
	if off < 0 || n < 0 || off > desc.Size || n > desc.Size-off {
		return nil, nil, contentf("range of %d bytes at %d of %d", n, off, desc.Size)
	}
	x := exchange{header: http.Header{}}
	whole := off == 0 && n == desc.Size
	if !whole {
		x.header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+max(n, 1)-1))
	}
	resp, err := r.sendBlob(ctx, target, desc, x)
	var status *StatusError
	if errors.As(err, &status) && status.Status == http.StatusRequestedRangeNotSatisfiable {
		resp, err = r.sendBlob(ctx, target, desc, exchange{})
	}
	if err != nil {
		return nil, nil, err
	}
	skip := off
	if resp.StatusCode == http.StatusPartialContent {
		if want := fmt.Sprintf("bytes %d-", off); !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
			drain(resp)
			return nil, nil, contentf("asked for %s, got %s", want, quoteName(resp.Header.Get("Content-Range")))
		}
		skip = 0
	}
	body := classifiedBody{resp.Body}
	if _, err := io.CopyN(io.Discard, body, skip); err != nil {
		_ = body.Close()
		return nil, nil, classify(err)
	}
	if final := resp.Request.URL; final.Host != r.host.endpoint {
		target = final
	}
	return body, target, nil
}

// sendBlob asks for a blob. A target outside the registry gets no credentials.
func (r *Repository) sendBlob(ctx context.Context, target *url.URL, desc ocispec.Descriptor, x exchange) (*http.Response, error) {
	if target == nil {
		return r.send(ctx, http.MethodGet, "/blobs/"+desc.Digest.String(), nil, x, auth.ActionPull)
	}
	x.method, x.url = http.MethodGet, target
	return send(ctx, r.host.client.Do, x)
}

// OpenBlob gives random access to a blob through requests for ranges. What is
// read cannot be checked against the digest of the blob. ctx is for all reads.
func (r *Repository) OpenBlob(ctx context.Context, desc ocispec.Descriptor) (Blob, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, opError("open blob", r.ref.Name(), err)
	}
	if there, err := r.Exists(ctx, desc); err != nil || !there {
		if err == nil {
			err = fmt.Errorf("%w: blob %s", ErrNotFound, desc.Digest)
		}
		return nil, opError("open blob", r.ref.Name(), err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	return &remoteBlob{ctx: ctx, cancel: cancel, repo: r, desc: desc}, nil
}

// remoteBlob is a blob of a registry as an io.ReaderAt.
type remoteBlob struct {
	ctx    context.Context //nolint:containedctx // io.ReaderAt has none of its own
	cancel context.CancelCauseFunc
	repo   *Repository
	desc   ocispec.Descriptor
	target atomic.Pointer[url.URL] // where the registry redirects to: valid for a while
}

// Size is the length in bytes.
func (b *remoteBlob) Size() int64 { return b.desc.Size }

// Close ends reads that are under way.
func (b *remoteBlob) Close() error {
	b.cancel(errors.New("blob closed"))
	return nil
}

// ReadAt asks for a range.
func (b *remoteBlob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= b.desc.Size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), b.desc.Size-off)
	got, err := b.readAt(p[:n], off)
	if err != nil {
		return got, opError("read blob "+b.desc.Digest.String(), b.repo.ref.Name(), err)
	}
	if got < len(p) {
		return got, io.EOF
	}
	return got, nil
}

func (b *remoteBlob) readAt(p []byte, off int64) (int, error) {
	done := 0
	for attempt := 1; ; attempt++ {
		cached := b.target.Load()
		n, target, err := b.once(cached, p[done:], off+int64(done))
		done += n
		switch {
		case err == nil:
			b.target.Store(target)
			return done, nil
		case b.ctx.Err() != nil:
			return done, context.Cause(b.ctx)
		case cached != nil:
			b.target.Store(nil) // such addresses expire; the registry gives a new one
		case attempt >= tries || !errors.Is(err, ErrUnreachable):
			return done, err
		}
		if err := b.repo.client.patience.again(b.ctx, "read blob "+b.desc.Digest.String(), attempt, backoff(attempt), err); err != nil {
			return done, err
		}
	}
}

func (b *remoteBlob) once(target *url.URL, p []byte, off int64) (int, *url.URL, error) {
	rc, target, err := b.repo.openRange(b.ctx, target, b.desc, off, int64(len(p)))
	if err != nil {
		return 0, nil, err
	}
	defer rc.Close() //nolint:errcheck // read side
	n, err := io.ReadFull(rc, p)
	return n, target, classify(err)
}

// openFunc opens a blob at an offset, as often as it is called.
type openFunc func(ctx context.Context, off int64) (io.ReadCloser, error)

// errShort marks a transfer that ended early without an error.
var errShort = errors.New("it ends")

// resumingReader reads a blob and continues it where a transfer broke.
type resumingReader struct {
	ctx      context.Context //nolint:containedctx // io.Reader has none of its own
	from     openFunc
	desc     ocispec.Descriptor
	patience patience
	rc       io.ReadCloser
	off      int64 // read so far, in bytes
	fresh    int64 // of these, since the last failure
	failures int
}

func (r *Repository) resuming(ctx context.Context, desc ocispec.Descriptor) *resumingReader {
	return newResuming(ctx, desc, r.client.patience, func(ctx context.Context, off int64) (io.ReadCloser, error) {
		return r.FetchFrom(ctx, desc, off)
	})
}

func newResuming(ctx context.Context, desc ocispec.Descriptor, p patience, from openFunc) *resumingReader {
	return &resumingReader{ctx: ctx, from: from, desc: desc, patience: p}
}

// open begins or continues the transfer.
func (r *resumingReader) open() (err error) {
	r.rc, err = r.from(r.ctx, r.off)
	return err
}

// Read reads on, over a new connection if the last one broke.
func (r *resumingReader) Read(p []byte) (int, error) {
	for {
		if r.rc == nil {
			if err := r.open(); err != nil {
				if err := r.pause(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		n, err := r.rc.Read(p)
		r.off += int64(n)
		r.fresh += int64(n)
		if errors.Is(err, io.EOF) && r.off < r.desc.Size {
			err = contentf("blob %s: %w after %d of %d bytes", r.desc.Digest, errShort, r.off, r.desc.Size)
		}
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		_ = r.rc.Close()
		r.rc = nil
		if err := r.pause(err); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// pause waits before the transfer is continued; it gives err back where that is no use.
func (r *resumingReader) pause(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if r.fresh >= progressEnough {
		r.failures = 0
	}
	r.failures++
	r.fresh = 0
	if !errors.Is(err, ErrUnreachable) && !errors.Is(err, errShort) || r.failures >= tries {
		return err
	}
	return r.patience.again(r.ctx, "fetch blob "+r.desc.Digest.String(), r.failures, backoff(r.failures), err)
}

// Close ends the transfer.
func (r *resumingReader) Close() error {
	if r.rc == nil {
		return nil
	}
	err := r.rc.Close()
	r.rc = nil
	return err
}
