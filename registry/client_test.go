package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"7", 7 * time.Second, true},
		{"0", 0, true},
		{"3600", time.Hour, true},
		{"Thu, 01 Jan 2026 00:00:30 GMT", 30 * time.Second, true},
		{"Thu, 01 Jan 2025 00:00:30 GMT", 0, true},
		{"-1", 0, false},
		{"soon", 0, false},
		{"", 0, false},
		{"99999999999999999999", 0, false},
	}
	for _, tt := range tests {
		if got, ok := retryAfter(tt.value, now); got != tt.want || ok != tt.ok {
			t.Errorf("retryAfter(%q): got %v, %v, want %v, %v", tt.value, got, ok, tt.want, tt.ok)
		}
	}
}

func TestBackoff(t *testing.T) {
	for attempt := 1; attempt <= 100; attempt++ {
		if d := backoff(attempt); d < 200*time.Millisecond || d > 15*time.Second {
			t.Errorf("backoff(%d): got %v", attempt, d)
		}
	}
}

func TestTooManyRequests(t *testing.T) {
	tests := []struct {
		name, after string
		times       int32
		want        error
		check       func(d time.Duration) bool
	}{
		{"seconds", "7", 2, nil, func(d time.Duration) bool { return d == 7*time.Second }},
		{"none", "", 2, nil, func(d time.Duration) bool { return d >= 200*time.Millisecond && d < 15*time.Second }},
		{"nonsense", "soon", 2, nil, func(d time.Duration) bool { return d >= 200*time.Millisecond && d < 15*time.Second }},
		{"too long", "3600", 1000, ErrRegistry, nil},
		{"for ever", "1", 1000, ErrRegistry, func(d time.Duration) bool { return d == time.Second }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.put(t, "a", "1", "layer")
			var left atomic.Int32
			left.Store(tt.times)
			f.before = func(w http.ResponseWriter, _ *http.Request) bool {
				if left.Add(-1) < 0 {
					return false
				}
				if tt.after != "" {
					w.Header().Set("Retry-After", tt.after)
				}
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			retries := 0
			c, slept := newTestClient(ClientOptions{PlainHTTP: true, OnRetry: func(Retry) { retries++ }})
			_, err := mustRepo(t, c, f.host()+"/a:1").Resolve(t.Context(), "")
			if tt.want == nil && err != nil || !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.want != nil && !strings.Contains(err.Error(), tt.after) {
				t.Errorf("%v does not tell the wait", err)
			}
			want := int(min(tt.times, tries-1))
			if tt.check == nil {
				want = 0
			}
			if len(slept.d) != want || retries != want {
				t.Errorf("waited %v, told %d times, want %d waits", slept.d, retries, want)
			}
			for _, d := range slept.d {
				if !tt.check(d) {
					t.Errorf("waited %v", d)
				}
			}
		})
	}
}

func TestRedirects(t *testing.T) {
	other := newFake(t)
	other.before = func(w http.ResponseWriter, r *http.Request) bool {
		if got := r.Header.Get("Authorization"); got != "" {
			t.Errorf("credentials went to another host: %s", got)
		}
		return false
	}
	other.put(t, "a", "1", "layer")
	tests := []struct {
		name string
		to   func(r *http.Request) string
		want error
		text string
	}{
		{"another host", func(r *http.Request) string { return other.URL + r.URL.Path }, nil, ""},
		{"loop", func(r *http.Request) string { return r.URL.Path }, ErrRegistry, "redirects"},
		{"another scheme", func(*http.Request) string { return "ftp://host.test/x?token=secret" }, ErrRegistry, "refused"},
		{"file", func(*http.Request) string { return "file:///etc/passwd" }, ErrRegistry, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if user, _, _ := r.BasicAuth(); user != "me" {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(401)
					return true
				}
				http.Redirect(w, r, tt.to(r), http.StatusTemporaryRedirect)
				return true
			}
			c, _ := newTestClient(ClientOptions{PlainHTTP: true, AuthFile: authFor(t, f.host(), "me", "secret")})
			_, err := mustRepo(t, c, f.host()+"/a:1").Resolve(t.Context(), "")
			if tt.want == nil && err != nil || !errors.Is(err, tt.want) || tt.want != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error tells a secret: %v", err)
			}
		})
	}
}

func TestRedirectDowngrade(t *testing.T) {
	plain := newFake(t)
	plain.put(t, "a", "1", "layer")
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(secure.Close)
	c, _ := newTestClient(ClientOptions{CAFile: caFile(t, secure)})
	_, err := mustRepo(t, c, strings.TrimPrefix(secure.URL, "https://")+"/a:1").Resolve(t.Context(), "")
	if !errors.Is(err, ErrRegistry) || !strings.Contains(err.Error(), "redirect from https") {
		t.Errorf("got %v, want a refused redirect", err)
	}
}

func caFile(t testing.TB, s *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.crt")
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTLS(t *testing.T) {
	f := &fakeRegistry{blobs: map[string][]byte{}, manifests: map[string]fakeManifest{}}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // it would tell of each handshake that is meant to fail
	f.StartTLS()
	t.Cleanup(f.Close)
	f.put(t, "a", "1", "layer")
	ca := caFile(t, f.Server)
	empty := filepath.Join(t.TempDir(), "empty.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		opts ClientOptions
		want error
		text string
	}{
		{"unknown CA", ClientOptions{}, ErrUnreachable, "certs.d"},
		{"CA file", ClientOptions{CAFile: ca}, nil, ""},
		{"certificate folder", ClientOptions{CertDir: filepath.Dir(ca)}, nil, ""},
		{"not verified, by name", ClientOptions{InsecureSkipTLSVerify: true}, nil, ""},
		{"plain HTTP", ClientOptions{PlainHTTP: true}, ErrRegistry, "400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := newTestClient(tt.opts)
			_, err := mustRepo(t, c, f.host()+"/a:1").Resolve(t.Context(), "")
			if tt.want == nil && err != nil || !errors.Is(err, tt.want) || tt.want != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
	for _, path := range []string{empty, "/nonexistent/ca.crt"} {
		c, _ := newTestClient(ClientOptions{CAFile: path})
		if _, err := c.Repository(f.host() + "/a:1"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want an error that names %s", err, path)
		}
	}
}

func TestUnreachable(t *testing.T) {
	gone := newFake(t)
	host := gone.host()
	gone.Close()
	for name, opts := range map[string]ClientOptions{"TLS or not": {}, "plain": {PlainHTTP: true}} {
		c, slept := newTestClient(opts)
		_, err := mustRepo(t, c, host+"/a:1").Resolve(t.Context(), "")
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), host) {
			t.Errorf("%s: got %v, want ErrUnreachable", name, err)
		}
		if len(slept.d) != 0 {
			t.Errorf("%s: tried again although nobody listens", name)
		}
	}
}

func TestWebPage(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<html>hello</html>")
	}))
	t.Cleanup(s.Close)
	c, _ := newTestClient(ClientOptions{AuthFile: filepath.Join(t.TempDir(), "auth.json")})
	host := strings.TrimPrefix(s.URL, "http://")
	if _, err := c.Login(t.Context(), host, "me", "pw"); !errors.Is(err, ErrContent) {
		t.Errorf("login: got %v, want ErrContent", err)
	}
	c, _ = newTestClient(ClientOptions{})
	if _, err := mustRepo(t, c, host+"/a:1").Resolve(t.Context(), ""); !errors.Is(err, ErrContent) || !strings.Contains(err.Error(), "not a registry") {
		t.Errorf("resolve: got %v, want ErrContent", err)
	}
}

// TestStalls has a registry stop in the middle. The one limit that is to be met is short and the
// registry waits for the client to give up, so that nothing is timed; no other limit is met on a busy machine.
func TestStalls(t *testing.T) {
	const short = 50 * time.Millisecond
	limits := func(change func(l *timeouts)) timeouts {
		l := timeouts{header: time.Minute, commit: time.Minute, idle: time.Minute, least: 1000}
		change(&l)
		return l
	}
	header := limits(func(l *timeouts) { l.header = short })
	layer := big("layer", 100_000)
	isBlob := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, digest.FromString(layer).String())
	}
	tests := []struct {
		name  string
		match func(*http.Request) bool
		stall func(w http.ResponseWriter, r *http.Request)
		limit timeouts
		text  string
	}{
		{"before the answer", isBlob, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, header, "no answer"},
		{"in the content", isBlob, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, layer[:1000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, limits(func(l *timeouts) { l.idle = short }), "no data"},
		{"drop by drop", isBlob, func(w http.ResponseWriter, r *http.Request) {
			for i := range layer {
				_, _ = io.WriteString(w, layer[i:i+1])
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		}, limits(func(l *timeouts) { l.idle = 8 * short }), "no more than"},
		{
			"manifest", func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") },
			func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, header, "no answer",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.put(t, "a", "1", layer)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if tt.match(r) {
					tt.stall(w, r)
					return true
				}
				return false
			}
			c, _ := newTestClient(ClientOptions{PlainHTTP: true})
			c.limits = tt.limit
			_, err := Copy(t.Context(), newStore(t), "x", mustRepo(t, c, f.host()+"/a:1"), "", CopyOptions{})
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want ErrUnreachable with %q", err, tt.text)
			}
		})
	}
	t.Run("upload", func(t *testing.T) {
		f := newFake(t)
		f.before = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return true
			}
			return false
		}
		s := newStore(t)
		mustTag(t, s, mustImage(t, s, layer), "x")
		c, _ := newTestClient(ClientOptions{PlainHTTP: true})
		c.limits = limits(func(l *timeouts) { l.commit = short })
		if _, err := Copy(t.Context(), mustRepo(t, c, f.host()+"/a:1"), "", s, "x", CopyOptions{}); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
	})
}

// tokenRegistry asks for tokens that it gives itself.
func tokenRegistry(t *testing.T, uses int32) (*fakeRegistry, *atomic.Int32) {
	f := newFake(t)
	var issued, left atomic.Int32
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			if user != "me" || password != "secret" {
				w.WriteHeader(401)
				_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`)
				return true
			}
			n := issued.Add(1)
			left.Store(uses)
			_, _ = fmt.Fprintf(w, `{"token":"t%d"}`, n)
			return true
		}
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", issued.Load()) || left.Add(-1) < 0 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token?session=secret-session",service="x"`, f.URL))
			w.WriteHeader(401)
			return true
		}
		return false
	}
	return f, &issued
}

func TestTokens(t *testing.T) {
	ctx := t.Context()
	f, issued := tokenRegistry(t, 3) // each token is good for three requests
	s := newStore(t)
	desc := mustImage(t, s, big("layer", 500_000), "b", "c", "d")
	mustTag(t, s, desc, "x")
	c, _ := newTestClient(ClientOptions{PlainHTTP: true, AuthFile: authFor(t, f.host(), "me", "secret")})
	repo := mustRepo(t, c, f.host()+"/a:1")
	if _, err := Copy(ctx, repo, "", s, "x", CopyOptions{Concurrency: 1}); err != nil {
		t.Fatal(err)
	}
	checkImage(t, repo, s, desc)
	if n := issued.Load(); n < 5 {
		t.Errorf("got %d tokens: they did not expire", n)
	}
	f, _ = tokenRegistry(t, 0) // no token is ever good
	c, _ = newTestClient(ClientOptions{PlainHTTP: true, AuthFile: authFor(t, f.host(), "me", "secret")})
	if _, err := mustRepo(t, c, f.host()+"/a:1").Resolve(ctx, ""); !errors.Is(err, ErrDenied) {
		t.Errorf("401 for ever: got %v, want ErrDenied", err)
	}
	if n := f.count("HEAD"); n > 3 {
		t.Errorf("401 for ever: asked %d times", n)
	}
	f, _ = tokenRegistry(t, 100)
	for name, path := range map[string]string{"wrong password": authFor(t, f.host(), "me", "wr0ng"), "no credentials": authFor(t, "other.test", "me", "secret")} {
		c, _ = newTestClient(ClientOptions{PlainHTTP: true, AuthFile: path})
		_, err := mustRepo(t, c, f.host()+"/a:1").Resolve(ctx, "")
		if !errors.Is(err, ErrDenied) {
			t.Errorf("%s: got %v, want ErrDenied", name, err)
		} else if text := err.Error(); strings.Contains(text, "secret") || strings.Contains(text, "wr0ng") {
			t.Errorf("%s: error tells a secret: %v", name, err)
		}
	}
}

// authFor writes a file of credentials for one key.
func authFor(t testing.TB, key, user, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.json")
	writeAuth(t, path, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, key, base64.StdEncoding.EncodeToString([]byte(user+":"+password))))
	return path
}

func writeAuth(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialSearch(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	entry := func(user string) string {
		return fmt.Sprintf(`{"auth":%q}`, base64.StdEncoding.EncodeToString([]byte(user+":pw")))
	}
	env := map[string]string{"XDG_RUNTIME_DIR": dir + "/run", "XDG_CONFIG_HOME": dir + "/config", "DOCKER_CONFIG": dir + "/docker"}
	writeAuth(t, dir+"/run/containers/auth.json", `{"auths":{"quay.test/orgA":`+entry("A")+`,"quay.test/orgB":`+entry("B")+`,"quay.test/orgB/deep":`+entry("deep")+`}}`)
	writeAuth(t, dir+"/config/containers/auth.json", `{"auths":{"quay.test":`+entry("host")+`,"token.test":{"identitytoken":"T"}}}`)
	writeAuth(t, dir+"/docker/config.json", `{"auths":{"https://old.test/v1/":`+entry("old")+`,"https://index.docker.io/v1/":`+entry("hub")+`,"quay.test":`+entry("last")+`},"credHelpers":{"helped.test":"fake"}}`)
	helper := "#!/bin/sh\nread host\nprintf '{\"ServerURL\":\"%s\",\"Username\":\"helper\",\"Secret\":\"pw\"}' \"$host\"\n"
	if err := os.WriteFile(dir+"/docker-credential-fake", []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c, _ := newTestClient(ClientOptions{Env: func(key string) string { return env[key] }})
	c.opts.RuntimeDir = ""
	for ref, want := range map[string]string{
		"quay.test/orga/x": "host", "quay.test/x": "host", "old.test/a": "old", "docker.io/x": "hub", "helped.test/a": "helper", "none.test/a": "", "token.test/a": "<T>",
	} {
		parsed, err := ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.credential(ctx, parsed)
		user := got.Username
		if got.RefreshToken != "" {
			user = "<" + got.RefreshToken + ">"
		}
		if err != nil || user != want {
			t.Errorf("%s: got %q, %v, want %q", ref, user, err, want)
		}
	}
	for repository, want := range map[string]string{"orgA/x": "A", "orgA": "A", "orgB/x": "B", "orgB/deep/x": "deep", "orgAB/x": "host"} {
		for range 20 { // the order of a map must not matter
			if got, err := c.credential(ctx, Reference{Host: "quay.test", Repository: repository}); err != nil || got.Username != want {
				t.Fatalf("%s: got %q, %v, want %q", repository, got.Username, err, want)
			}
		}
	}
	env["REGISTRY_AUTH_FILE"] = dir + "/docker/config.json"
	if got, err := c.credential(ctx, Reference{Host: "quay.test", Repository: "orgA/x"}); err != nil || got.Username != "last" {
		t.Errorf("REGISTRY_AUTH_FILE: got %q, %v, want that file only", got.Username, err)
	}
}

func TestAuthFileFaults(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"no JSON":      `{"auths":{"h.test":{"auth":"c2VjcmV0`,
		"no base64":    `{"auths":{"h.test":{"auth":"secret!"}}}`,
		"no colon":     `{"auths":{"h.test":{"auth":"c2VjcmV0"}}}`,
		"helper path":  `{"credHelpers":{"h.test":"../../bin/secret"}}`,
		"wrong type":   `{"auths":["secret"]}`,
		"no helper":    `{"credsStore":"nonexistent-helper"}`,
		"is directory": "",
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if text == "" {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		} else {
			writeAuth(t, path, text)
		}
		c, _ := newTestClient(ClientOptions{AuthFile: path})
		_, err := c.credential(t.Context(), Reference{Host: "h.test", Repository: "a"})
		if !errors.Is(err, ErrAuthFile) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want ErrAuthFile that names %s", name, err, path)
		} else if name != "helper path" && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error tells the content: %v", name, err)
		}
	}
	open := authFor(t, "h.test", "me", "pw")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	var warning string
	c, _ := newTestClient(ClientOptions{AuthFile: open, OnWarning: func(s string) { warning = s }})
	if _, err := c.credential(t.Context(), Reference{Host: "h.test", Repository: "a"}); err != nil || !strings.Contains(warning, open) {
		t.Errorf("readable by others: got warning %q, %v", warning, err)
	}
	c, _ = newTestClient(ClientOptions{AuthFile: dir + "/nonexistent"})
	if _, err := c.credential(t.Context(), Reference{Host: "h.test", Repository: "a"}); !errors.Is(err, ErrAuthFile) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file asked for by name: got %v, want ErrAuthFile", err)
	}
}

func TestLogin(t *testing.T) {
	ctx := t.Context()
	f, _ := tokenRegistry(t, 100)
	path := filepath.Join(t.TempDir(), "run", "containers", "auth.json")
	writeAuth(t, path, `{"auths":{"other.test":{"auth":"eDp5"}},"extra":{"kept":true}}`)
	c, _ := newTestClient(ClientOptions{PlainHTTP: true, RuntimeDir: filepath.Dir(filepath.Dir(path))})
	if _, err := c.Login(ctx, f.host(), "me", "wrong"); !errors.Is(err, ErrDenied) {
		t.Errorf("wrong password: got %v, want ErrDenied", err)
	}
	if raw, err := os.ReadFile(path); err != nil || strings.Contains(string(raw), f.host()) {
		t.Errorf("wrong password was kept: %s, %v", raw, err)
	}
	for _, where := range []string{f.host(), f.host() + "/team"} {
		if place, err := c.Login(ctx, where, "me", "secret"); err != nil || place != path {
			t.Fatalf("got %q, %v, want %q", place, err, path)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var saved struct {
		Auths map[string]authEntry `json:"auths"`
		Extra map[string]bool      `json:"extra"`
	}
	if err := json.Unmarshal(raw, &saved); err != nil || len(saved.Auths) != 3 || !saved.Extra["kept"] {
		t.Errorf("got %s, %v, want three entries and the rest kept", raw, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, want 0600", info.Mode())
	}
	f.put(t, "team/a", "1", "layer")
	if _, err := mustRepo(t, c, f.host()+"/team/a:1").Resolve(ctx, ""); err != nil {
		t.Errorf("with the saved credentials: %v", err)
	}
	if err := c.Logout(ctx, f.host()); err != nil {
		t.Fatal(err)
	}
	if err := c.Logout(ctx, f.host()); !errors.Is(err, ErrNotFound) {
		t.Errorf("log out twice: got %v, want ErrNotFound", err)
	}
	for _, where := range []string{"", "-x", "a b", "host.test/UPPER", "user@host.test"} {
		if _, err := c.Login(ctx, where, "me", "secret"); !errors.Is(err, ErrReference) {
			t.Errorf("log in to %q: got %v, want ErrReference", where, err)
		}
	}
	if _, err := c.Login(ctx, f.host(), "me", ""); !errors.Is(err, ErrReference) {
		t.Errorf("empty password: got %v, want ErrReference", err)
	}
}

func TestScrub(t *testing.T) {
	tests := map[string]string{
		`Put "https://u:p@h.test/v2/a?_state=x&digest=y": EOF`: `Put "https://h.test/v2/a": EOF`,
		`location /v2/a/blobs/uploads/1?_state=x broke`:        `location /v2/a/blobs/uploads/1 broke`,
		`nothing to hide?`: `nothing to hide?`,
		`http://h.test:5000/x#frag and https://h.test/y?a=b, z`: `http://h.test:5000/x and https://h.test/y z`,
	}
	for in, want := range tests {
		if got := scrub(in); got != want {
			t.Errorf("scrub(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestRepositoryPush(t *testing.T) {
	ctx := t.Context()
	f := newFake(t)
	c, _ := newTestClient(ClientOptions{PlainHTTP: true})
	repo := mustRepo(t, c, f.host()+"/a:1")
	desc, err := pushImage(ctx, repo, "one", "two")
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Tag(ctx, desc, "v1"); err != nil {
		t.Fatal(err)
	}
	if got, err := repo.Resolve(ctx, "v1"); err != nil || got.Digest != desc.Digest {
		t.Errorf("got %v, %v, want %v", got.Digest, err, desc.Digest)
	}
	if got, err := repo.Resolve(ctx, desc.Digest.String()); err != nil || got.Size != desc.Size {
		t.Errorf("by digest: got %v, %v, want %v", got, err, desc)
	}
	if _, err := repo.Resolve(ctx, "v2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if _, err := repo.Resolve(ctx, "../../x"); !errors.Is(err, ErrReference) {
		t.Errorf("got %v, want ErrReference", err)
	}
	if err := repo.Tag(ctx, desc, "../x"); !errors.Is(err, ErrReference) {
		t.Errorf("got %v, want ErrReference", err)
	}
	// A reader that cannot be rewound has one try.
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			cut(w)
			return true
		}
		return false
	}
	blob := []byte(big("blob", 100_000))
	blobDesc := desc
	blobDesc.MediaType, blobDesc.Size, blobDesc.Digest = "x", int64(len(blob)), desc.Digest.Algorithm().FromBytes(blob)
	if err := repo.Push(ctx, blobDesc, io.NopCloser(bytes.NewReader(blob))); err == nil {
		t.Error("pushed over a broken connection")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := repo.Push(cancelled, blobDesc, bytes.NewReader(blob)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}
