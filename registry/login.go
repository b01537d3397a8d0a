package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Login asks a registry whether it takes the credentials and, if so, keeps them:
// with the credential helper that the file of credentials names, or in the file.
// where is HOST, or HOST/NAMESPACE for credentials that are good only there. It tells
// which file or helper has them now.
func (c *Client) Login(ctx context.Context, where, username, password string) (string, error) {
	ref, key, err := parseRegistry(where)
	if err != nil {
		return "", err
	}
	if username == "" || password == "" || strings.Contains(username, ":") {
		return "", &Error{Op: "log in to", Reference: key, Err: fmt.Errorf("%w: user name and password must not be empty, and a user name holds no colon", ErrReference)}
	}
	h, err := c.host(ref.endpoint())
	if err != nil {
		return "", opError("log in to", key, err)
	}
	cred := auth.Credential{Username: username, Password: password}
	if err := c.ping(ctx, h, c.authClient(h, auth.StaticCredential(h.endpoint, cred))); err != nil {
		return "", opError("log in to", key, err)
	}
	place, err := c.keep(ctx, ref, key, cred)
	return place, opError("log in to", key, err)
}

// Logout forgets the credentials of HOST or HOST/NAMESPACE. Where there are none it is an ErrNotFound.
func (c *Client) Logout(ctx context.Context, where string) error {
	ref, key, err := parseRegistry(where)
	if err != nil {
		return err
	}
	return opError("log out of", key, c.forget(ctx, ref, key))
}

// parseRegistry reads HOST or HOST/NAMESPACE.
func parseRegistry(where string) (Reference, string, error) {
	host, namespace, _ := strings.Cut(strings.TrimSuffix(where, "/"), "/")
	ref := Reference{Host: strings.ToLower(host), Repository: namespace}
	err := checkHost(ref.Host)
	if err == nil && namespace != "" && !repositoryPattern.MatchString(namespace) {
		err = errors.New("namespace may hold lower-case letters, digits and single separators")
	}
	if err != nil {
		return ref, "", fmt.Errorf("%w %s: %w", ErrReference, quoteName(where), err)
	}
	if namespace == "" {
		return ref, ref.Host, nil
	}
	return ref, ref.Name(), nil
}

// writePath is the file that Login writes.
func (c *Client) writePath() string {
	if named := c.namedAuthFile(); named != "" {
		return named
	}
	return c.runtimeAuthFile()
}

func (c *Client) keep(ctx context.Context, ref Reference, key string, cred auth.Credential) (string, error) {
	path := c.writePath()
	f, err := c.loadAuthFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		f = &authFile{path: path}
	} else if err != nil {
		return "", err
	}
	if name := f.helperFor(ref); name != "" && key == ref.Host {
		helper, err := f.helper(name)
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(ctx, helperTimeout)
		defer cancel()
		if err := helper.Put(ctx, helperKey(ref), cred); err != nil {
			return "", fmt.Errorf("%w %q: store with credential helper %s: %w", ErrAuthFile, path, name, err)
		}
		return "credential helper " + name, nil
	}
	return path, changeAuths(path, func(auths map[string]json.RawMessage) error {
		raw, err := json.Marshal(authEntry{Auth: base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))})
		auths[key] = raw
		return err
	})
}

func (f *authFile) helperFor(ref Reference) string {
	if name := f.Helpers[ref.Host]; name != "" {
		return name
	}
	return f.Store
}

func (c *Client) forget(ctx context.Context, ref Reference, key string) error {
	path := c.writePath()
	f, err := c.loadAuthFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no credentials in %q", ErrNotFound, path)
	}
	if err != nil {
		return err
	}
	keys := []string{key}
	if key == dockerHub {
		keys = authKeys(Reference{Host: dockerHub})
	}
	if !slices.ContainsFunc(keys, func(k string) bool { _, ok := f.Auths[k]; return ok }) {
		name := f.helperFor(ref)
		if name == "" || key != ref.Host {
			return fmt.Errorf("%w: no credentials in %q", ErrNotFound, path)
		}
		helper, err := f.helper(name)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, helperTimeout)
		defer cancel()
		return helper.Delete(ctx, helperKey(ref))
	}
	return changeAuths(path, func(auths map[string]json.RawMessage) error {
		for _, k := range keys {
			delete(auths, k)
		}
		return nil
	})
}

// changeAuths changes the entries of a file of credentials and keeps all else
// that is in it. The file is private and appears complete or not at all.
func changeAuths(path string, change func(map[string]json.RawMessage) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	all := map[string]json.RawMessage{}
	raw, err := readSmall(path, maxAuthFileBytes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w %q: %w", ErrAuthFile, path, err)
	}
	auths := map[string]json.RawMessage{}
	if len(strings.TrimSpace(string(raw))) > 0 {
		if json.Unmarshal(raw, &all) != nil || all["auths"] != nil && json.Unmarshal(all["auths"], &auths) != nil {
			return fmt.Errorf("%w %q: it is no valid JSON of that kind", ErrAuthFile, path)
		}
	}
	if auths == nil {
		auths = map[string]json.RawMessage{}
	}
	if err := change(auths); err != nil {
		return err
	}
	if all["auths"], err = json.Marshal(auths); err != nil {
		return err
	}
	if raw, err = json.MarshalIndent(all, "", "\t"); err != nil {
		return err
	}
	return writeDurable(dir, path, append(raw, '\n'))
}
