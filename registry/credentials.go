package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// authFile is a file of credentials as Podman and Docker write it.
type authFile struct {
	path    string
	Auths   map[string]authEntry `json:"auths"`
	Store   string               `json:"credsStore"`
	Helpers map[string]string    `json:"credHelpers"`
}

// authEntry holds the credentials for one key.
type authEntry struct {
	Auth          string `json:"auth,omitempty"` // base64(user:password)
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// helperPattern is what the name of a credential helper may be: it becomes a part of a program's name.
var helperPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// authPaths are the files of credentials in the order in which they are asked.
func (c *Client) authPaths() []string {
	if named := c.namedAuthFile(); named != "" {
		return []string{named}
	}
	paths := []string{c.runtimeAuthFile()}
	config := c.opts.Env("XDG_CONFIG_HOME")
	if config == "" && c.opts.HomeDir != "" {
		config = filepath.Join(c.opts.HomeDir, ".config")
	}
	if config != "" {
		paths = append(paths, filepath.Join(config, "containers", "auth.json"))
	}
	docker := c.opts.Env("DOCKER_CONFIG")
	if docker == "" && c.opts.HomeDir != "" {
		docker = filepath.Join(c.opts.HomeDir, ".docker")
	}
	if docker != "" {
		paths = append(paths, filepath.Join(docker, "config.json"))
	}
	return paths
}

// namedAuthFile is the one file that was asked for, if one was.
func (c *Client) namedAuthFile() string {
	if c.opts.AuthFile != "" {
		return c.opts.AuthFile
	}
	return c.opts.Env("REGISTRY_AUTH_FILE")
}

// runtimeAuthFile is where Podman keeps credentials until the next boot.
func (c *Client) runtimeAuthFile() string {
	if c.opts.RuntimeDir != "" {
		return filepath.Join(c.opts.RuntimeDir, "containers", "auth.json")
	}
	if dir := c.opts.Env("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "containers", "auth.json")
	}
	return filepath.Join("/run/containers", strconv.Itoa(c.opts.UID), "auth.json")
}

// loadAuthFile reads a file of credentials; its absence is a fs.ErrNotExist.
func (c *Client) loadAuthFile(path string) (*authFile, error) {
	raw, err := readSmall(path, maxAuthFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrAuthFile, path, err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		c.warn("credentials file %q can be read by others (mode %04o)", path, info.Mode().Perm())
	}
	f := &authFile{path: path}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(raw, f); err != nil {
		// The text of a JSON error may quote the file, that is a secret.
		return nil, fmt.Errorf("%w %q: it is no valid JSON of that kind; repair or remove it, then log in again", ErrAuthFile, path)
	}
	return f, nil
}

// authKeys are the keys under which credentials for a repository may be kept:
// the most special one first, the host last.
func authKeys(ref Reference) []string {
	var keys []string
	for key := ref.Name(); strings.Contains(key, "/"); key = key[:strings.LastIndexByte(key, '/')] {
		keys = append(keys, key)
	}
	keys = append(keys, ref.Host)
	if ref.Host == dockerHub {
		keys = append(keys, dockerHubAuth, "index.docker.io", dockerHubHost)
	}
	return keys
}

// credential finds the credentials for a repository, or none.
func (c *Client) credential(ctx context.Context, ref Reference) (auth.Credential, error) {
	for _, path := range c.authPaths() {
		f, err := c.loadAuthFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			if path == c.opts.AuthFile {
				return auth.EmptyCredential, fmt.Errorf("%w %q: %w", ErrAuthFile, path, err)
			}
			continue
		}
		if err != nil {
			return auth.EmptyCredential, err
		}
		if cred, err := c.find(ctx, f, ref); err != nil || cred != auth.EmptyCredential {
			return cred, err
		}
	}
	return auth.EmptyCredential, nil
}

// find looks in one file: a helper for the host, then entries, then the helper for all.
func (c *Client) find(ctx context.Context, f *authFile, ref Reference) (auth.Credential, error) {
	if helper := f.Helpers[ref.Host]; helper != "" {
		return c.ask(ctx, f, helper, ref)
	}
	for _, key := range authKeys(ref) {
		if cred, err := f.entry(f.Auths[key], key); err != nil || cred != auth.EmptyCredential {
			return cred, err
		}
	}
	// Older files have URLs as keys.
	for _, key := range slices.Sorted(maps.Keys(f.Auths)) {
		if host, ok := hostOfURL(key); ok && host == ref.Host {
			if cred, err := f.entry(f.Auths[key], key); err != nil || cred != auth.EmptyCredential {
				return cred, err
			}
		}
	}
	if f.Store != "" {
		return c.ask(ctx, f, f.Store, ref)
	}
	return auth.EmptyCredential, nil
}

// hostOfURL gives the host of a key that is a URL of a registry as a whole.
func hostOfURL(key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, "https://")
	if !ok {
		if rest, ok = strings.CutPrefix(key, "http://"); !ok {
			return "", false
		}
	}
	host, path, _ := strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	return host, path == "" || path == "v1" || path == "v2"
}

// entry decodes one entry. Errors never quote it.
func (f *authFile) entry(e authEntry, key string) (auth.Credential, error) {
	cred := auth.Credential{Username: e.Username, Password: e.Password, RefreshToken: e.IdentityToken, AccessToken: e.RegistryToken}
	if e.Auth != "" {
		raw, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if err != nil || !ok {
			return auth.EmptyCredential, fmt.Errorf("%w %q: the entry for %s cannot be decoded; log in again", ErrAuthFile, f.path, quoteName(key))
		}
		cred.Username, cred.Password = user, password
	}
	if cred.RefreshToken != "" {
		cred.Username, cred.Password = "", ""
	}
	return cred, nil
}

// helper checks the name of a credential helper and gives access to it.
func (f *authFile) helper(name string) (credentials.Store, error) {
	if !helperPattern.MatchString(name) {
		return nil, fmt.Errorf("%w %q: name %s of a credential helper", ErrAuthFile, f.path, quoteName(name))
	}
	return credentials.NewNativeStore(name), nil
}

// helperKey is how credential helpers know a registry.
func helperKey(ref Reference) string {
	if ref.Host == dockerHub {
		return dockerHubAuth
	}
	return ref.Host
}
