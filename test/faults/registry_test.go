package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/test/env"
)

// What must never be printed.
const (
	user      = "planted-user"
	password  = "planted-password"
	token     = "planted-token"
	signature = "planted-signature" // in the queries of redirects
)

const (
	maxMemory = 256 << 10 // KiB
	maxTime   = 60 * time.Second
)

// fault answers a request in place of the registry, or hands it to next.
type fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// hostile is one way to misbehave, with the exit statuses of what meets it.
type hostile struct {
	name       string
	fault      fault
	pull, push int // 0: it succeeds all the same
}

func manifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
func blob(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/") && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

func get(match func(*http.Request) bool) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == http.MethodGet && match(r) }
}

func upload(method string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method && strings.Contains(r.URL.Path, "/blobs/") }
}

func putManifest(r *http.Request) bool { return r.Method == http.MethodPut && manifest(r) }
func all(*http.Request) bool           { return true }

// answer gives the same answer to all requests that match.
func answer(match func(*http.Request) bool, status int, header map[string]string, body string) fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !match(r) {
			next.ServeHTTP(w, r)
			return
		}
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// changed lets the registry answer and changes what it says.
func changed(match func(*http.Request) bool, change func(h http.Header, body []byte) []byte) fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !match(r) {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		body := change(rec.Header(), rec.Body.Bytes())
		rec.Header().Del("Content-Length")
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body)
	}
}

// replaced changes the text of manifests and the digest in their header.
func replaced(old, now string) fault {
	return changed(get(manifest), func(h http.Header, body []byte) []byte {
		h.Del("Docker-Content-Digest")
		return bytes.ReplaceAll(body, []byte(old), []byte(now))
	})
}

// cut ends the connection after n bytes of the answer.
func cut(match func(*http.Request) bool, n int64) fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !match(r) {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		body := rec.Body.Bytes()
		_, _ = fmt.Fprintf(buf, "HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n", rec.Code, len(body))
		_, _ = buf.Write(body[:min(n, int64(len(body)))])
		_ = buf.Flush()
		_ = conn.Close()
	}
}

// once is a fault of the first n requests that match.
func once(n int32, match func(*http.Request) bool, f fault) fault {
	var left atomic.Int32
	left.Store(n)
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if match(r) && left.Add(-1) >= 0 {
			f(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

func redirect(match func(*http.Request) bool, to string) fault {
	return answer(match, http.StatusTemporaryRedirect, map[string]string{"Location": to}, "")
}

// endless writes until the other side has enough.
func endless(match func(*http.Request) bool, begin, more string) fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !match(r) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, err := io.WriteString(w, begin)
		chunk := strings.Repeat(more, 1<<10)
		for err == nil {
			_, err = io.WriteString(w, chunk)
		}
	}
}

const said = `{"errors":[{"code":"DENIED","message":"\u001b[2Jno \u0007 http://u:planted-password@h/?_state=planted-signature"}]}`

func hostiles(other string) []hostile {
	elsewhere := other + "/v2/x?X-Signature=" + signature
	empty := func(http.Header, []byte) []byte { return nil }
	return []hostile{
		{"none", func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) }, 0, 0},
		{"manifest of other bytes", changed(get(manifest), func(_ http.Header, b []byte) []byte { return append(b, ' ') }), 3, -1},
		{"manifest of another digest", changed(manifest, func(h http.Header, b []byte) []byte {
			h.Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
			return b
		}), 0, -1}, // the digest of what came is what counts
		{"digest that is a path", changed(manifest, func(h http.Header, b []byte) []byte {
			h.Set("Docker-Content-Digest", "sha256:../../etc/passwd")
			return b
		}), 0, -1},
		{"blob named as a path", replaced(`"digest":"sha256:`, `"digest":"sha256:../../`), 3, -1},
		{"blob of size -1", replaced(`"size":`, `"size":-1`), 3, -1},
		{"blob of huge size", replaced(`"size":`, `"size":922337203685477`), 3, -1},
		{"blob in MD5", replaced(`"digest":"sha256:`, `"digest":"md5:`), 3, -1},
		{"manifest without end", endless(get(manifest), `{"schemaVersion":2,"x":"`, "aaaaaaaaaaaaaaaa"), 3, -1},
		{"manifest of brackets", endless(get(manifest), "", "[[[[[[[["), 3, -1},
		{"empty manifest", changed(get(manifest), empty), 3, -1},
		{"manifest as a web page", answer(get(manifest), 200, map[string]string{"Content-Type": "text/html"}, "<html>sign in</html>"), 3, -1},
		{"web pages only", answer(all, 200, map[string]string{"Content-Type": "text/html"}, "<html>sign in</html>"), 3, -1},
		{"manifest of unknown type", changed(manifest, func(h http.Header, b []byte) []byte { h.Set("Content-Type", "text/plain"); return b }), 3, -1},
		{"manifest 404", answer(manifest, 404, nil, said), 4, -1},
		{"all 401", answer(all, 401, nil, said), 9, 9},
		{"all 403", answer(all, 403, nil, said), 9, 9},
		{"all 429, come tomorrow", answer(all, 429, map[string]string{"Retry-After": "86400"}, said), 9, 9},
		{"all 500", answer(all, 500, nil, said), 9, 9},
		{"all 503 and a long story", answer(all, 503, nil, strings.Repeat("\x1b]0;title\x07", 1<<20)), 9, 9},
		{"all 451", answer(all, 451, nil, said), 9, 9},
		{"all 204", answer(all, 204, nil, ""), -1, -1},
		{"realm on another host", answer(all, 401, map[string]string{"WWW-Authenticate": `Bearer realm="` + other + `/token",service="x"`}, ""), 9, 9},
		{"realm that is a file", answer(all, 401, map[string]string{"WWW-Authenticate": `Bearer realm="file:///etc/passwd"`}, ""), 9, 9},
		{"realm that is garbage", answer(all, 401, map[string]string{"WWW-Authenticate": "Bearer realm=\"\x01://\""}, ""), 9, 9},
		{"blob 404", answer(get(blob), 404, nil, said), 9, -1},
		{"blob of other bytes", changed(get(blob), func(_ http.Header, b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }), 3, -1},
		{"blob too long", changed(get(blob), func(_ http.Header, b []byte) []byte { return append(b, "more"...) }), 3, -1},
		{"blob without end", endless(get(blob), "", "aaaaaaaaaaaaaaaa"), 3, -1},
		{"blob empty", changed(get(blob), empty), 3, -1},
		{"blob 403 in the middle", once(1, get(blob), answer(all, 403, nil, said)), 9, -1},
		{"blob 503 once", once(1, get(blob), answer(all, 503, nil, said)), 0, 0},
		{"blob 429 once", once(1, get(blob), answer(all, 429, map[string]string{"Retry-After": "1"}, said)), 0, 0},
		{"blob cut once", once(1, get(blob), cut(all, 100)), 0, 0},
		{"blob cut for ever", cut(get(blob), 0), 9, -1},
		{"range that lies", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch {
			case !get(blob)(r):
				next.ServeHTTP(w, r)
			case r.Header.Get("Range") == "":
				cut(all, 1000)(w, r, next)
			default:
				changed(all, func(h http.Header, b []byte) []byte { h.Set("Content-Range", "bytes 0-9/10"); return b })(w, r, next)
			}
		}, -1, -1},
		{"redirect to another host", redirect(get(blob), elsewhere), 9, -1},
		{"redirect to itself", redirect(manifest, "?X-Signature="+signature), 9, 9},
		{"redirect to a file", redirect(get(blob), "file:///etc/passwd"), 9, -1},
		{"redirect to a socket", redirect(manifest, "gopher://127.0.0.1:1/?token="+token), 9, -1},
		{"redirect without a place", answer(manifest, 307, nil, ""), 9, 9},
		{"redirect of garbage", redirect(manifest, "http://[::1/\x7f"), 9, 9},
		{"upload to another host", answer(upload(http.MethodPost), 202, map[string]string{"Location": elsewhere}, ""), 0, 9},
		{"upload nowhere", answer(upload(http.MethodPost), 202, nil, ""), 0, 9},
		{"upload refused", answer(upload(http.MethodPost), 403, nil, said), 0, 9},
		{"upload too large", answer(upload(http.MethodPut), 413, nil, said), 0, 9},
		{"upload swallowed", answer(upload(http.MethodPut), 201, nil, ""), 0, 9},
		{"upload 500 once", once(1, upload(http.MethodPut), answer(all, 500, nil, said)), 0, 0},
		{"upload cut once", once(1, upload(http.MethodPut), cut(all, 0)), 0, 0},
		{"upload session lost for ever", answer(upload(http.MethodPut), 404, nil, said), 0, -1},
		{"manifest refused", answer(putManifest, 403, nil, said), 0, 9},
		{"manifest swallowed", answer(putManifest, 201, nil, ""), 0, -1},
		{"manifest stored as another", answer(putManifest, 201, map[string]string{"Docker-Content-Digest": "sha256:" + strings.Repeat("1", 64)}, ""), 0, 9},
	}
}

// checkpoint writes a small archive.
func checkpoint(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.tar.zst")
	out, err := archive.CreateFile(path, archive.FileOptions{Compression: archive.Zstd})
	if err == nil {
		_, err = archive.Copy(t.Context(), out, archivetest.Source(archivetest.Checkpoint()), archive.CopyOptions{})
	}
	if err == nil {
		err = out.Commit(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// basic is a handler that wants the planted password.
func basic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="planted"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// run runs ckarchive with a time limit and checks what holds for every run: little memory, no panic, no
// secrets and no control characters on the outputs, no result of a failure, nothing in TMPDIR.
func run(t *testing.T, dir string, limit time.Duration, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tmp := filepath.Join(dir, "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, env.Ckarchive(t), args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + tmp, "LC_ALL=C", "CKARCHIVE_ROOT=" + filepath.Join(dir, "root"),
		"CKARCHIVE_RUN=" + filepath.Join(dir, "run"), "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "auth.json"),
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v, %v\n%s", args, err, ctx.Err(), &errs)
	}
	what := fmt.Sprintf("ckarchive %s: status %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), &out, &errs)
	var own syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &own)) // which a child has at least, as it begins as a copy
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && usage.Maxrss > max(maxMemory, own.Maxrss) {
		t.Errorf("%d KiB of memory: %s", usage.Maxrss, what)
	}
	for _, secret := range []string{password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password)), token, signature, "_state=", "panic:", "goroutine "} {
		if strings.Contains(what, secret) {
			t.Errorf("%q is printed: %s", secret, what)
		}
	}
	if i := strings.IndexFunc(out.String()+errs.String(), func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }); i >= 0 {
		t.Errorf("a control character is printed: %q", what)
	}
	if status := cmd.ProcessState.ExitCode(); status != 0 && out.Len() > 0 {
		t.Errorf("a failed command printed a result: %s", what)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in TMPDIR: %v %v: %s", left, err, what)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestHostileRegistries(t *testing.T) {
	real := env.Registry(t, env.RegistryOptions{})
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: real.Host})
			p.Out.Host = p.In.Host // the registry makes its URLs from it
		},
		ErrorLog: log.New(io.Discard, "", 0), // clients that give up are meant to
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, header := range []string{"Authorization", "Cookie"} {
			if got := r.Header.Get(header); got != "" {
				t.Errorf("%s went to another host: %q", header, got)
			}
		}
		if r.URL.Query().Get("account") != "" || r.Method != http.MethodGet && r.Method != http.MethodHead {
			t.Errorf("another host was asked to %s %s", r.Method, r.URL)
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(other.Close)
	path := checkpoint(t)
	setup := t.TempDir()
	if status, _, said := run(t, setup, maxTime, "push", "--plain-http", path, real.Host+"/good:1"); status != 0 {
		t.Fatal(said)
	}
	for i, h := range hostiles(other.URL) {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := httptest.NewServer(basic(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.fault(w, r, proxy) })))
			t.Cleanup(s.Close)
			host := strings.TrimPrefix(s.URL, "http://")
			auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
			if err := os.WriteFile(filepath.Join(dir, "auth.json"), []byte(auth), 0o600); err != nil {
				t.Fatal(err)
			}
			h.check(t, dir, host, path, i)
			_, list, _ := run(t, dir, maxTime, "--root", filepath.Join(dir, "store0"), "--json", "list")
			if h.pull > 0 && strings.TrimSpace(list) != "[]" {
				t.Errorf("a failed pull left %s", list)
			}
		})
	}
}

// check runs the verbs that talk to registries.
func (h hostile) check(t *testing.T, dir, host, path string, i int) {
	t.Helper()
	file := filepath.Join(dir, "pulled.tar")
	good, mine := host+"/good:1", host+"/mine"+strconv.Itoa(i)+":1"
	// Each has a store of its own. The first one meets the faults that pass.
	for n, v := range []struct {
		args []string
		want int
	}{
		{[]string{"pull", "--plain-http", good}, h.pull},
		{[]string{"inspect", "--plain-http", good}, -1},
		{[]string{"verify", "--plain-http", good}, -1},
		{[]string{"check", "--plain-http", good}, -1},
		{[]string{"pull", "--plain-http", good, file}, -1},
		{[]string{"push", "--plain-http", path, mine}, h.push},
	} {
		began := time.Now()
		store := []string{"--root", filepath.Join(dir, "store"+strconv.Itoa(n))}
		status, _, said := run(t, dir, maxTime, append(store, v.args...)...)
		if v.want >= 0 && status != v.want || v.want < 0 && !slices.Contains([]int{0, 3, 4, 5, 9}, status) {
			t.Errorf("%v: status %d, want %d: %s", v.args, status, v.want, said)
		}
		if took := time.Since(began); took > maxTime/2 {
			t.Errorf("%v took %v", v.args, took)
		}
		if _, err := os.Stat(file); err == nil && status != 0 && slices.Contains(v.args, file) {
			t.Errorf("%v: a file was left", v.args)
		}
	}
}
