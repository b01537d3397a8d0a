package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// certDirs are where container tools keep the certificates of registries.
func certDirs() []string { return []string{"/etc/containers/certs.d", "/etc/docker/certs.d"} }

// host is how one registry is talked to.
type host struct {
	endpoint string // host[:port]
	client   *http.Client
	mu       sync.Mutex
	scheme   string // empty until it is known
}

// newHost makes the connection pool for one registry. It reads certificates and opens no connection.
func (c *Client) newHost(endpoint string) (*host, error) {
	tlsConfig, err := tlsFor(endpoint, c.opts)
	if err != nil {
		return nil, fmt.Errorf("certificates for %s: %w", endpoint, err)
	}
	base := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		TLSClientConfig:       tlsConfig,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		// A proxy that compresses would otherwise change what digests are made of.
		DisableCompression: true,
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusProxyAuthRequired {
				return nil
			}
			return &classified{ErrUnreachable, fmt.Sprintf("the proxy %s wants a user and a password: put them into its URL in HTTPS_PROXY", proxy.Host), nil}
		},
	}
	h := &host{endpoint: endpoint, client: &http.Client{
		Transport:     &retryTransport{next: c.rates.over(&stallTransport{next: base, limits: c.limits}), patience: c.patience},
		CheckRedirect: checkRedirect,
	}}
	switch {
	case c.opts.PlainHTTP:
		h.scheme = "http"
	case !isLoopback(endpoint):
		h.scheme = "https"
	}
	return h, nil
}

// checkRedirect follows a registry to its storage, but not everywhere. That
// credentials stay behind when the host changes is seen to by net/http and
// oras' auth client.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: stopped after %d redirects", ErrRegistry, maxRedirects)
	case first.URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("%w: redirect from https to %s refused", ErrRegistry, req.URL.Scheme)
	case req.URL.Scheme != "https" && req.URL.Scheme != "http":
		return fmt.Errorf("%w: redirect to %s refused", ErrRegistry, printable(req.URL.Scheme, 20))
	case req.Method != http.MethodGet && req.Method != http.MethodHead && !strings.EqualFold(req.URL.Host, first.URL.Host):
		return fmt.Errorf("%w: redirect of an upload to another host refused", ErrRegistry)
	}
	return nil
}

// resolveScheme finds out what a registry on this machine speaks. TLS is tried
// first, so that credentials never go over plain HTTP where that is not needed.
func (h *host) resolveScheme(ctx context.Context) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.scheme != "" {
		return h.scheme, nil
	}
	address := h.endpoint
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), "443")
	}
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // nothing is sent; the real connection verifies
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", address)
	var record tls.RecordHeaderError
	var notTLS net.Error
	switch {
	case err == nil:
		h.scheme = "https"
		return h.scheme, conn.Close()
	case errors.As(err, &record), errors.Is(err, io.EOF):
		h.scheme = "http"
		return h.scheme, nil
	case address != h.endpoint && errors.As(err, &notTLS):
		h.scheme = "http" // nobody on port 443; port 80 will tell
		return h.scheme, nil
	}
	return "", err
}

// tlsFor gathers the certificates for a registry: those of the host's folder in
// the usual places, and what the options name.
func tlsFor(endpoint string, opts ClientOptions) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: opts.InsecureSkipTLSVerify, //nolint:gosec // asked for by name
	}
	dirs := make([]string, 0, 2)
	if opts.CertDir != "" {
		dirs = append(dirs, opts.CertDir)
	} else {
		for _, d := range certDirs() {
			dirs = append(dirs, filepath.Join(d, endpoint))
		}
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	files := []string{}
	if opts.CAFile != "" {
		files = append(files, opts.CAFile)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != opts.CertDir {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch filepath.Ext(e.Name()) {
			case ".crt":
				files = append(files, path)
			case ".cert":
				pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
				if err != nil {
					return nil, err
				}
				config.Certificates = append(config.Certificates, pair)
			}
		}
	}
	for _, path := range files {
		raw, err := readSmall(path, maxAuthFileBytes)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("%q holds no certificate", path)
		}
	}
	if len(files) > 0 {
		config.RootCAs = pool
	}
	return config, nil
}
