package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// ClientOptions are the options of [NewClient]. The zero value works: TLS, no
// credentials of this user's environment, the usual folders of certificates.
type ClientOptions struct {
	// PlainHTTP talks HTTP without TLS to every registry. A registry on this
	// machine (localhost, 127.0.0.0/8, ::1) may do without TLS in any case.
	PlainHTTP bool
	// InsecureSkipTLSVerify takes any certificate.
	InsecureSkipTLSVerify bool
	// CAFile is a file of certificates to trust besides those of the system.
	CAFile string
	// CertDir holds *.crt to trust and NAME.cert with NAME.key to show. Empty
	// means HOST in /etc/containers/certs.d and /etc/docker/certs.d.
	CertDir string
	// AuthFile is the file of credentials. Empty means those of Podman and Docker,
	// in Podman's order, as Env, HomeDir, RuntimeDir and UID lead to them.
	AuthFile string
	// Env looks up an environment variable; nil means that there are none.
	Env func(string) string
	// HomeDir is the home of the user; empty means that there is none.
	HomeDir string
	// RuntimeDir is used where XDG_RUNTIME_DIR is not set; empty means /run/containers/UID.
	RuntimeDir string
	// UID is the user.
	UID int
	// UserAgent is what the registry sees; empty means "ckarchive".
	UserAgent string
	// MaxRetryWait bounds one wait that a registry asks for; 0 means 120 s.
	MaxRetryWait time.Duration
	// LimitRate is how many bytes a second all transfers together may send, and as many again may they
	// receive; 0 is no limit. Headers of requests and answers are not counted.
	LimitRate int64
	// OnRetry hears of every try that is going to be repeated. It may be called concurrently.
	OnRetry func(Retry)
	// OnWarning hears of what is not as it should be, but works.
	OnWarning func(string)
}

// Client talks to registries. It may be used concurrently.
type Client struct {
	opts     ClientOptions
	patience patience
	limits   timeouts
	rates    *rates
	mu       sync.Mutex
	hosts    map[string]*host
	answers  map[helperCall]helperAnswer
}

// NewClient makes a client. It reads no file and opens no connection.
func NewClient(opts ClientOptions) *Client {
	if opts.Env == nil {
		opts.Env = func(string) string { return "" }
	}
	if opts.UserAgent == "" {
		opts.UserAgent = "ckarchive"
	}
	if opts.MaxRetryWait == 0 {
		opts.MaxRetryWait = defaultMaxRetryWait
	}
	return &Client{
		opts:     opts,
		patience: patience{maxWait: opts.MaxRetryWait, onRetry: opts.OnRetry, sleep: wait},
		limits:   defaultTimeouts(),
		rates:    newRates(opts.LimitRate),
		hosts:    map[string]*host{},
		answers:  map[helperCall]helperAnswer{},
	}
}

func (c *Client) warn(format string, args ...any) {
	if c.opts.OnWarning != nil {
		c.opts.OnWarning(fmt.Sprintf(format, args...))
	}
}

// host gives the one connection pool of a registry.
func (c *Client) host(endpoint string) (*host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.hosts[endpoint]; ok {
		return h, nil
	}
	h, err := c.newHost(endpoint)
	if err != nil {
		return nil, err
	}
	c.hosts[endpoint] = h
	return h, nil
}

// Repository gives the repository that ref names. Nothing is asked of the registry yet.
func (c *Client) Repository(ref string) (*Repository, error) {
	parsed, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	h, err := c.host(parsed.endpoint())
	if err != nil {
		return nil, &Error{Op: "connect to", Reference: parsed.Host, Err: err}
	}
	r := &Repository{client: c, ref: parsed, host: h}
	r.auth = c.authClient(h, func(ctx context.Context, hostport string) (auth.Credential, error) {
		if hostport != h.endpoint {
			return auth.EmptyCredential, nil
		}
		return c.credential(ctx, parsed)
	})
	return r, nil
}

func (c *Client) authClient(h *host, credential auth.CredentialFunc) *auth.Client {
	return &auth.Client{
		Client:     h.client,
		Header:     http.Header{"User-Agent": {c.opts.UserAgent}},
		Credential: credential,
		Cache:      auth.NewCache(),
		ClientID:   "ckarchive",
	}
}

// exchange is one request to a registry.
type exchange struct {
	method string
	url    *url.URL
	header http.Header
	// body opens the content from its beginning, as often as it is called; nil for none.
	body func() (io.ReadCloser, error)
	size int64 // of the body, in bytes
}

// send does an exchange. An answer that is no success is a [StatusError]; the
// caller closes the body of any other.
func send(ctx context.Context, do func(*http.Request) (*http.Response, error), x exchange) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, x.method, x.url.String(), nil)
	if err != nil {
		return nil, classify(err)
	}
	for key, values := range x.header {
		req.Header[key] = values
	}
	if x.body != nil {
		if req.Body, err = x.body(); err != nil {
			return nil, err
		}
		req.GetBody, req.ContentLength = x.body, x.size
	}
	resp, err := do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, classify(err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, statusError(resp)
	}
	return resp, nil
}

// statusError reads an answer that is no success, and closes it.
func statusError(resp *http.Response) *StatusError {
	defer drain(resp)
	e := &StatusError{Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
	if resp.Request != nil {
		e.Method, e.URL = resp.Request.Method, cleanURL(resp.Request.URL)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return e
	}
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(raw, &body) != nil {
		return e
	}
	var texts []string
	for _, one := range body.Errors[:min(len(body.Errors), 5)] {
		e.Codes = append(e.Codes, printable(one.Code, 60))
		texts = append(texts, strings.TrimSpace(strings.ToLower(strings.ReplaceAll(one.Code, "_", " "))+" "+one.Message))
	}
	e.Message = printable(strings.Join(texts, "; "), 300)
	return e
}

// contentType is the media type of an answer, without parameters.
func contentType(resp *http.Response) string {
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mediaType
}

// ping asks for the root of the API: the way to find out whether there is a
// registry and whether it knows the credentials.
func (c *Client) ping(ctx context.Context, h *host, a *auth.Client) error {
	scheme, err := h.resolveScheme(ctx)
	if err != nil {
		return classify(err)
	}
	resp, err := send(ctx, a.Do, exchange{method: http.MethodGet, url: &url.URL{Scheme: scheme, Host: h.endpoint, Path: "/v2/"}})
	if err != nil {
		return err
	}
	defer drain(resp)
	if contentType(resp) == "text/html" {
		return contentf("%s answers with a web page: not a registry", h.endpoint)
	}
	return nil
}
