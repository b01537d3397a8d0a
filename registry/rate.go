package registry

import (
	"context"
	"io"
	"net/http"

	"golang.org/x/time/rate"
)

// rateBurst is how many bytes go at once before the rate counts: about one read of a connection.
const rateBurst = 32 << 10

// rates are how fast bodies may go in each direction: all that share them stay below a rate together.
type rates struct{ up, down *rate.Limiter }

// newRates allows perSecond bytes a second; 0 is no limit, and nil.
func newRates(perSecond int64) *rates {
	if perSecond <= 0 {
		return nil
	}
	limiter := func() *rate.Limiter { return rate.NewLimiter(rate.Limit(perSecond), int(min(perSecond, rateBurst))) }
	return &rates{up: limiter(), down: limiter()}
}

// over gives a transport that keeps to the rates. It has to be outside of what watches for stalls: a body that waits
// here is nobody's fault.
func (r *rates) over(next http.RoundTripper) http.RoundTripper {
	if r == nil {
		return next
	}
	return &rateTransport{next: next, rates: r}
}

// rateTransport holds the bodies of exchanges to a rate.
type rateTransport struct {
	next http.RoundTripper
	*rates
}

// RoundTrip sends a request.
func (t *rateTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if req.Body != nil && req.Body != http.NoBody {
		req = req.Clone(ctx)
		req.Body = &ratedBody{ReadCloser: req.Body, ctx: ctx, limiter: t.up}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &ratedBody{ReadCloser: resp.Body, ctx: ctx, limiter: t.down}
	return resp, nil
}

// ratedBody is a body that gives its bytes no faster than its limiter allows.
type ratedBody struct {
	io.ReadCloser
	ctx     context.Context //nolint:containedctx // the context of the exchange this body belongs to
	limiter *rate.Limiter
}

// Read reads at most what may go at once, and waits until it may.
func (b *ratedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.limiter.Burst())])
	if n > 0 {
		if werr := b.limiter.WaitN(b.ctx, n); werr != nil {
			return 0, werr
		}
	}
	return n, err
}
