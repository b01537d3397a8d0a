package registry

import (
	"context"
	"fmt"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// helperCall is one question to a credential helper.
type helperCall struct{ file, name, key string }

// helperAnswer is what it said. It is kept: a helper may ask its user, or its own server.
type helperAnswer struct {
	cred auth.Credential
	err  error
}

// ask asks the credential helper that a file names.
func (c *Client) ask(ctx context.Context, f *authFile, name string, ref Reference) (auth.Credential, error) {
	call := helperCall{f.path, name, helperKey(ref)}
	c.mu.Lock()
	a, asked := c.answers[call]
	c.mu.Unlock()
	if asked {
		return a.cred, a.err
	}
	helper, err := f.helper(name)
	if err != nil {
		return auth.EmptyCredential, err
	}
	timed, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cred, err := helper.Get(timed, call.key)
	if err != nil {
		cred, err = auth.EmptyCredential, fmt.Errorf("%w %q: ask credential helper %s: %w", ErrAuthFile, f.path, name, err)
	}
	if ctx.Err() == nil {
		c.mu.Lock()
		c.answers[call] = helperAnswer{cred, err}
		c.mu.Unlock()
	}
	return cred, err
}

// AskHelpers asks the credential helpers for a registry, if any are configured, and keeps what they answer. It is
// for a process that will not be able to start programs when the registry wants a login. What goes wrong is told then.
func (c *Client) AskHelpers(ctx context.Context, ref Reference) {
	silent := &Client{opts: c.opts}
	silent.opts.OnWarning = nil
	for _, path := range c.authPaths() {
		f, err := silent.loadAuthFile(path)
		if err != nil || f.Store == "" && f.Helpers[ref.Host] == "" {
			continue
		}
		_, _ = c.find(ctx, f, ref) // an error is among the answers
	}
}

// Reads gives the files and directories that the client reads, whether they are there or not: credentials, and
// certificates of registries. Those of the system are not among them.
func (c *Client) Reads() []string {
	paths := append(c.authPaths(), certDirs()...)
	for _, path := range []string{c.opts.CAFile, c.opts.CertDir, c.opts.Env("SSL_CERT_FILE"), c.opts.Env("SSL_CERT_DIR")} {
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}
