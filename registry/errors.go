package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// The decisions that callers make on an error of this package.
var (
	// ErrNotFound marks a name or a blob that is not there.
	ErrNotFound = errdef.ErrNotFound
	// ErrExists marks a name that is there already and was not to be moved.
	ErrExists = errdef.ErrAlreadyExists
	// ErrDenied marks a registry that wants other credentials, or gives no right to do this.
	ErrDenied = errors.New("access denied")
	// ErrUnreachable marks a registry that could not be talked to.
	ErrUnreachable = errors.New("registry unreachable")
	// ErrRegistry marks a registry that answered, but not as it should.
	ErrRegistry = errors.New("registry error")
	// ErrContent marks content that is damaged, is not what its digest says, or exceeds a limit.
	ErrContent = errors.New("content rejected")
	// ErrReference marks a name that is not well-formed.
	ErrReference = errors.New("malformed reference")
	// ErrAuthFile marks a file of credentials that cannot be used.
	ErrAuthFile = errors.New("credentials file unusable")
	// ErrBusy marks a store that another process is using.
	ErrBusy = errors.New("store is in use")
)

// Error says which operation failed on which reference.
type Error struct {
	Op        string // what was being done: "resolve", "push blob sha256:..."
	Reference string // to what: "host/repository:tag", or the directory of a store
	Err       error
}

// Error names the operation, the reference and the reason.
func (e *Error) Error() string {
	return fmt.Sprintf("%s %q: %v", e.Op, e.Reference, e.Err)
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// opError wraps err once; an error that names its operation already stays as it is.
func opError(op, reference string, err error) error {
	var named *Error
	if err == nil || errors.As(err, &named) {
		return err
	}
	return &Error{Op: op, Reference: reference, Err: err}
}

// contentf makes an error that is an [ErrContent].
func contentf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrContent, fmt.Errorf(format, args...))
}

// StatusError is an answer of a registry that is no success.
type StatusError struct {
	Method     string
	URL        string // without user and query
	Status     int
	Codes      []string // the codes of the error body: MANIFEST_UNKNOWN, DENIED, ...
	Message    string   // what the registry says, made printable
	RetryAfter string   // the header, if there was one
}

// Error gives the status, the request and what the registry said.
func (e *StatusError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: status %d", e.Method, e.URL, e.Status)
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	switch e.Status {
	case 401, 403:
		b.WriteString("; log in with an account that may do this")
	case 413:
		b.WriteString("; the registry or a proxy before it refuses a body of this size")
	case 429:
		if e.RetryAfter != "" {
			b.WriteString("; it asks to try again after " + printable(e.RetryAfter, 40))
		}
	}
	return b.String()
}

// Unwrap gives the class of the status.
func (e *StatusError) Unwrap() error {
	switch e.Status {
	case 401, 403:
		return ErrDenied
	case 404:
		return ErrNotFound
	default:
		return ErrRegistry
	}
}

// retryable tells whether the same request may well succeed later.
func (e *StatusError) retryable() bool {
	return e.Status == 408 || e.Status == 429 || e.Status >= 500 && e.Status != 501 && e.Status != 505
}

// blobUnknown tells whether a manifest was refused because the registry lacks a part of it.
func (e *StatusError) blobUnknown() bool {
	return slices.Contains(e.Codes, "MANIFEST_BLOB_UNKNOWN") || slices.Contains(e.Codes, "BLOB_UNKNOWN")
}

// classified is an error with a class and a text that is fit to be shown.
type classified struct {
	class error
	text  string
	err   error
}

func (e *classified) Error() string   { return e.text }
func (e *classified) Unwrap() []error { return []error{e.class, e.err} }

// classify gives an error of the HTTP layers its class and takes secrets out of
// its text. Errors that have a class, and the end of ctx, stay as they are.
func classify(err error) error {
	if err == nil {
		return nil
	}
	text := scrub(err.Error())
	if hasClass(err) {
		if text != err.Error() {
			return &classified{err, text, err}
		}
		return err
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	var (
		status    *errcode.ErrorResponse
		unknownCA x509.UnknownAuthorityError
		certErr   *tls.CertificateVerificationError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &status):
		answer := &StatusError{Method: status.Method, URL: cleanURL(status.URL), Status: status.StatusCode, Message: printable(status.Errors.Error(), 300)}
		return answer
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return &classified{ErrDenied, "the registry wants a login and no credentials for it are known", err}
	case errors.As(err, &unknownCA):
		return &classified{ErrUnreachable, text + "; put its CA certificate into /etc/containers/certs.d/HOST", err}
	case errors.As(err, &record):
		return &classified{ErrUnreachable, text + "; it speaks plain HTTP, which must be allowed by name", err}
	case errors.As(err, &certErr), isNetwork(err):
		return &classified{ErrUnreachable, text, err}
	default:
		return &classified{ErrRegistry, text, err}
	}
}

func hasClass(err error) bool {
	for _, class := range []error{ErrNotFound, ErrExists, ErrDenied, ErrUnreachable, ErrRegistry, ErrContent, ErrReference, ErrAuthFile, ErrBusy} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// isNetwork tells whether err comes from the connection and not from what was said over it.
func isNetwork(err error) bool {
	var (
		netErr net.Error
		dnsErr *net.DNSError
		opErr  *net.OpError
		stall  *stallError
	)
	return errors.As(err, &stall) || errors.As(err, &dnsErr) || errors.As(err, &opErr) ||
		errors.As(err, &netErr) && netErr.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPIPE)
}

var (
	urlPattern = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>]+`)
	// queryPattern finds queries of relative locations, which no URL pattern finds.
	queryPattern = regexp.MustCompile(`\?[^\s"'<>]*=[^\s"'<>]*`)
)

// scrub takes user names, passwords and queries out of every URL in text.
func scrub(text string) string {
	text = urlPattern.ReplaceAllStringFunc(text, func(raw string) string {
		u, err := url.Parse(raw)
		if err != nil {
			return "URL"
		}
		return cleanURL(u)
	})
	return queryPattern.ReplaceAllString(text, "")
}

// cleanURL prints u without what may be secret.
func cleanURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	c := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return c.String()
}

// printable makes what a stranger wrote fit for a terminal, at most limit bytes of it.
func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, scrub(s))
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return s
}
