package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Retry tells about a try that failed and will be repeated.
type Retry struct {
	Op      string // "GET host", "push blob sha256:..."
	Attempt int    // the one that failed, from 1
	Wait    time.Duration
	Err     error
}

// String tells what failed, why, and when it is tried again.
func (r Retry) String() string {
	return fmt.Sprintf("%s: try %d of %d: %v; again in %s", r.Op, r.Attempt, tries, r.Err, r.Wait.Round(100*time.Millisecond))
}

// patience is how this package waits for a registry.
type patience struct {
	maxWait time.Duration
	onRetry func(Retry)
	// sleep is wait, or what a test has instead.
	sleep func(context.Context, time.Duration) error
}

// again waits before the next attempt. It gives the end of ctx as an error.
func (p patience) again(ctx context.Context, op string, attempt int, d time.Duration, err error) error {
	if p.onRetry != nil {
		p.onRetry(Retry{Op: op, Attempt: attempt, Wait: d, Err: err})
	}
	return p.sleep(ctx, d)
}

// backoff is the wait after the attempt of this number: doubling, with jitter, at most about 15 s.
func backoff(attempt int) time.Duration {
	d := min(200*time.Millisecond<<min(attempt-1, 6), 10*time.Second)
	return d + rand.N(d/2+1) //nolint:gosec // jitter needs no secrecy
}

// retryAfter reads the header of that name: seconds or a date. ok is false for what is neither.
func retryAfter(value string, now time.Time) (d time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}

// retryTransport repeats requests that may be repeated: those that change
// nothing, manifests (which are named by what they hold), and all that a
// registry refused because of their number.
type retryTransport struct {
	next http.RoundTripper
	patience
}

// RoundTrip sends a request, several times if need be.
func (t *retryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		resp, err := t.next.RoundTrip(req)
		d, reason := t.verdict(req, resp, err)
		if reason == nil || attempt == tries {
			return resp, err
		}
		next, ok := rewound(req)
		if !ok {
			return resp, err
		}
		if resp != nil {
			drain(resp)
		}
		if d < 0 {
			d = backoff(attempt)
		}
		if err := t.again(req.Context(), req.Method+" "+req.URL.Host, attempt, d, reason); err != nil {
			return nil, err
		}
		req = next
	}
}

// verdict gives the reason to try again, if there is one, and the wait that the
// registry asks for; -1 if it does not say.
func (t *retryTransport) verdict(req *http.Request, resp *http.Response, err error) (time.Duration, error) {
	repeatable := req.Method == http.MethodGet || req.Method == http.MethodHead ||
		req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/")
	if err != nil {
		if repeatable && req.Context().Err() == nil && isTransient(err) {
			return -1, err
		}
		return 0, nil
	}
	status := &StatusError{Method: req.Method, URL: cleanURL(req.URL), Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
	if !status.retryable() || !repeatable && resp.StatusCode != http.StatusTooManyRequests {
		return 0, nil
	}
	d, ok := retryAfter(status.RetryAfter, time.Now())
	switch {
	case !ok:
		return -1, status
	case d > t.maxWait:
		return 0, nil // longer than anyone wants to wait in silence: the caller is told
	}
	return d, status
}

// isTransient tells whether a broken connection may well hold next time. A name
// that does not resolve, a refused connection or a bad certificate will not get better.
func isTransient(err error) bool {
	var stall *stallError
	if errors.As(err, &stall) {
		return true
	}
	text := err.Error()
	for _, final := range []string{"no such host", "connection refused", "certificate", "tls: ", "server gave HTTP response"} {
		if strings.Contains(text, final) {
			return false
		}
	}
	return isNetwork(err)
}

// rewound is req with its body at the beginning again.
func rewound(req *http.Request) (*http.Request, bool) {
	next := req.Clone(req.Context())
	if req.Body == nil || req.Body == http.NoBody {
		return next, true
	}
	if req.GetBody == nil {
		return nil, false
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, false
	}
	next.Body = body
	return next, true
}

// drain reads the rest of a short answer so that its connection can be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	_ = resp.Body.Close()
}
