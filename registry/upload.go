package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// writeBlob uploads a blob that from opens. report hears of every number of bytes sent, negative for those that
// have to be sent again.
func (r *Repository) writeBlob(ctx context.Context, desc ocispec.Descriptor, from openFunc, report func(int64)) error {
	_, err := r.mountOrWrite(ctx, desc, nil, from, report)
	return err
}

// mountOrWrite is writeBlob for a blob that the registry may take from source instead, unless that is nil: then
// mounted is true. Registries give up the whole session when a connection breaks, so each try begins a new one,
// after a look whether the last one did not succeed after all.
func (r *Repository) mountOrWrite(ctx context.Context, desc ocispec.Descriptor, source *mountSource, from openFunc, report func(int64)) (mounted bool, err error) {
	progress := &rewindable{report: report}
	for attempt := 1; ; attempt++ {
		mounted, err := r.upload(ctx, desc, source, from, progress)
		if err == nil {
			return mounted, nil
		}
		progress.rewind()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if ctx.Err() != nil || attempt == tries || !uploadRetryable(err) {
			return false, opError("push blob "+desc.Digest.String(), r.ref.Name(), err)
		}
		if err := r.client.patience.again(ctx, "push blob "+desc.Digest.String(), attempt, backoff(attempt), err); err != nil {
			return false, opError("push blob "+desc.Digest.String(), r.ref.Name(), err)
		}
		if there, err := r.Exists(ctx, desc); err == nil && there {
			progress.add(progress.next(), desc.Size)
			return false, nil
		}
	}
}

// uploadRetryable tells whether a new upload session may succeed.
func uploadRetryable(err error) bool {
	var (
		status *StatusError
		path   *fs.PathError
	)
	switch {
	case errors.As(err, &status):
		// 404 and 416 are what registries say of a session that is gone.
		return status.retryable() || status.Status == http.StatusNotFound && !isNameUnknown(status) ||
			status.Status == http.StatusRequestedRangeNotSatisfiable
	case errors.Is(err, ErrContent), errors.As(err, &path):
		return false // the content here is at fault
	}
	return errors.Is(err, ErrUnreachable) && isTransient(err)
}

func isNameUnknown(e *StatusError) bool {
	return len(e.Codes) > 0 && strings.HasPrefix(e.Codes[0], "NAME_")
}

// upload tries once.
func (r *Repository) upload(ctx context.Context, desc ocispec.Descriptor, source *mountSource, from openFunc, progress *rewindable) (mounted bool, err error) {
	location, err := r.beginMount(ctx, desc, source)
	if err != nil || location == nil {
		return err == nil, err
	}
	return false, r.putBlob(ctx, location, desc, from, progress)
}

// beginMount asks the registry to take a blob from source. It gives nil if that is done, else where the content
// goes: a registry that does not have the blob there, or cannot mount, opens an upload at once.
func (r *Repository) beginMount(ctx context.Context, desc ocispec.Descriptor, source *mountSource) (*url.URL, error) {
	if source == nil || source.refused.Load() {
		return r.beginUpload(ctx, nil)
	}
	mayRead := auth.AppendScopesForHost(ctx, r.host.endpoint, auth.ScopeRepository(source.repository, auth.ActionPull))
	location, err := r.beginUpload(mayRead, url.Values{"mount": {desc.Digest.String()}, "from": {source.repository}})
	var status *StatusError
	if errors.Is(err, ErrDenied) || errors.As(err, &status) && !status.retryable() {
		// Who may not read there may still write here.
		source.refused.Store(true)
		return r.beginUpload(ctx, nil)
	}
	return location, err
}

// beginUpload opens an upload session and tells where its content goes; nil if query asked for a mount and that is done.
func (r *Repository) beginUpload(ctx context.Context, query url.Values) (*url.URL, error) {
	resp, err := r.send(ctx, http.MethodPost, "/blobs/uploads/", query, exchange{}, auth.ActionPull, auth.ActionPush)
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	if resp.StatusCode == http.StatusCreated && query.Has("mount") {
		return nil, nil
	}
	location, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("%w: it opened an upload without saying where", ErrRegistry)
	}
	if location.Scheme != resp.Request.URL.Scheme || !strings.EqualFold(location.Host, r.host.endpoint) {
		return nil, fmt.Errorf("%w: it sends uploads to %s, another host, which is not followed", ErrRegistry, printable(location.Host, 100))
	}
	location.User, location.Fragment = nil, ""
	return location, nil
}

// putBlob sends a whole blob to an upload session.
func (r *Repository) putBlob(ctx context.Context, location *url.URL, desc ocispec.Descriptor, from openFunc, progress *rewindable) error {
	query := location.Query()
	query.Set("digest", desc.Digest.String())
	location.RawQuery = query.Encode()
	resp, err := r.send(ctx, http.MethodPut, "", nil, exchange{
		url:    location,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   func() (io.ReadCloser, error) { return newUploadBody(ctx, desc, from, progress) },
		size:   desc.Size,
	}, auth.ActionPull, auth.ActionPush)
	if err != nil {
		return err
	}
	drain(resp)
	return checkPushed(resp, desc)
}

// rewindable counts bytes that may have to be sent again. Only the newest
// sender counts: an abandoned one may go on reading for a moment.
type rewindable struct {
	report  func(int64)
	mu      sync.Mutex
	current int
	sent    int64
}

// next begins a new sender.
func (p *rewindable) next() int {
	p.rewind()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current++
	return p.current
}

func (p *rewindable) rewind() {
	p.mu.Lock()
	sent := p.sent
	p.sent = 0
	p.current++
	p.mu.Unlock()
	if p.report != nil && sent != 0 {
		p.report(-sent)
	}
}

func (p *rewindable) add(sender int, n int64) {
	p.mu.Lock()
	counts := sender == p.current
	if counts {
		p.sent += n
	}
	p.mu.Unlock()
	if counts && p.report != nil && n != 0 {
		p.report(n)
	}
}

// uploadBody is a blob on its way out. It holds its last piece back until the
// whole is verified: content that changed under us never becomes a complete request.
type uploadBody struct {
	ctx      context.Context //nolint:containedctx // belongs to the one request of this body
	rc       io.ReadCloser
	vr       *content.VerifyReader
	desc     ocispec.Descriptor
	progress *rewindable
	sender   int
	left     int64
}

func newUploadBody(ctx context.Context, desc ocispec.Descriptor, from openFunc, progress *rewindable) (io.ReadCloser, error) {
	rc, err := from(ctx, 0)
	if errors.Is(err, ErrNotFound) {
		return nil, missing(desc, err)
	}
	if err != nil {
		return nil, err
	}
	return &uploadBody{ctx: ctx, rc: rc, vr: content.NewVerifyReader(rc, desc), desc: desc, progress: progress, sender: progress.next(), left: desc.Size}, nil
}

// Read reads on and checks the digest before it gives the last bytes.
func (b *uploadBody) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.vr.Read(p)
	if int64(n) == b.left && (err == nil || errors.Is(err, io.EOF)) {
		err = b.vr.Verify()
	}
	if err != nil {
		return 0, verifyError(b.desc, err)
	}
	b.left -= int64(n)
	b.progress.add(b.sender, int64(n))
	return n, nil
}

// Close closes the content.
func (b *uploadBody) Close() error { return b.rc.Close() }
