package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// stallError says that a registry let a transfer stand still.
type stallError struct {
	what string
	d    time.Duration
}

// Error says what did not happen and for how long.
func (e *stallError) Error() string {
	return fmt.Sprintf("no %s for %s", e.what, e.d)
}

// timeouts bound how long an exchange may stand still.
type timeouts struct {
	header time.Duration // from the end of a request to its answer
	commit time.Duration // the same for a request with a body
	idle   time.Duration // between two pieces of a body
	least  int64         // bytes of a body that have to come while idle is waited for them
}

func defaultTimeouts() timeouts {
	return timeouts{header: headerTimeout, commit: commitTimeout, idle: idleTimeout, least: leastBytes}
}

// stallTransport ends exchanges that stand still. It measures only time spent
// waiting for the other side: a body may be read as slowly as the reader likes.
type stallTransport struct {
	next   http.RoundTripper
	limits timeouts
}

// RoundTrip sends a request under watch.
func (t *stallTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{cancel: cancel}
	answer := t.limits.header
	hasBody := req.Body != nil && req.Body != http.NoBody
	if hasBody {
		answer = t.limits.commit
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { w.arm("answer", answer) },
	})
	req = req.Clone(ctx)
	if hasBody {
		req.Body = &sentBody{ReadCloser: req.Body, w: w, limits: t.limits}
	}
	resp, err := t.next.RoundTrip(req)
	w.disarm()
	if err != nil {
		cancel(nil)
		if stall, ok := context.Cause(ctx).(*stallError); ok { //nolint:errorlint // the cause is set unwrapped
			return nil, stall
		}
		return nil, err
	}
	resp.Body = &receivedBody{ReadCloser: resp.Body, ctx: ctx, w: w, limits: t.limits}
	return resp, nil
}

// watch cancels an exchange when its timer runs out.
type watch struct {
	cancel context.CancelCauseFunc
	mu     sync.Mutex
	timer  *time.Timer
}

func (w *watch) arm(what string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer = time.AfterFunc(d, func() { w.cancel(&stallError{what, d}) })
}

func (w *watch) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

// sentBody is a request's body: the transport must come back for more in time.
type sentBody struct {
	io.ReadCloser
	w      *watch
	limits timeouts
}

// Read reads from the source, which may take its time, and then watches the sending.
func (b *sentBody) Read(p []byte) (int, error) {
	b.w.disarm()
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.w.arm("answer", b.limits.commit)
	} else {
		b.w.arm("progress of the upload", b.limits.idle)
	}
	return n, err
}

// receivedBody is a response's body: each read must bring something in time, and all of them together not too
// little of it.
type receivedBody struct {
	io.ReadCloser
	ctx    context.Context //nolint:containedctx // the context of the exchange this body belongs to
	w      *watch
	limits timeouts
	waited time.Duration // for the other side, since got was zero
	got    int64         // bytes since then
}

// Read waits for content under watch.
func (b *receivedBody) Read(p []byte) (int, error) {
	b.w.arm("data", b.limits.idle)
	began := time.Now()
	n, err := b.ReadCloser.Read(p)
	b.w.disarm()
	b.waited += time.Since(began)
	b.got += int64(n)
	if b.waited >= b.limits.idle {
		if b.got < b.limits.least {
			return n, &stallError{fmt.Sprintf("more than %d bytes", b.got), b.waited.Round(time.Second)}
		}
		b.waited, b.got = 0, 0
	}
	if err != nil {
		if stall, ok := context.Cause(b.ctx).(*stallError); ok { //nolint:errorlint // the cause is set unwrapped
			return n, stall
		}
	}
	return n, err
}

// Close ends the exchange.
func (b *receivedBody) Close() error {
	err := b.ReadCloser.Close()
	b.w.disarm()
	b.w.cancel(nil)
	return err
}
