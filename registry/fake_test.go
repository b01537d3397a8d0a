package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeRegistry is a small registry that tests can make misbehave.
type fakeRegistry struct {
	*httptest.Server
	mu        sync.Mutex
	blobs     map[string][]byte // by repository@digest
	manifests map[string]fakeManifest
	sessions  map[string]bool
	next      int
	log       []string // "METHOD path", in order
	// before sees every request first; true means that it has answered.
	before func(w http.ResponseWriter, r *http.Request) bool
}

type fakeManifest struct {
	mediaType string
	raw       []byte
}

func newFake(t testing.TB) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{blobs: map[string][]byte{}, manifests: map[string]fakeManifest{}, sessions: map[string]bool{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRegistry) host() string {
	return strings.TrimPrefix(strings.TrimPrefix(f.URL, "https://"), "http://")
}

// count is the number of requests whose log line has the prefix.
func (f *fakeRegistry) count(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, line := range f.log {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// has tells whether a blob (repository@digest) or a manifest (repository@tag) is there.
func (f *fakeRegistry) has(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, blob := f.blobs[key]
	_, manifest := f.manifests[key]
	return blob || manifest
}

func (f *fakeRegistry) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = nil
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.log = append(f.log, r.Method+" "+r.URL.Path)
	before := f.before
	f.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !ok:
		http.NotFound(w, r)
	case path == "":
		w.WriteHeader(http.StatusOK)
	case strings.Contains(path, "/blobs/uploads/"):
		f.upload(w, r, path)
	case strings.Contains(path, "/blobs/"):
		f.blob(w, r, path)
	case strings.Contains(path, "/manifests/"):
		f.manifest(w, r, path)
	case strings.HasSuffix(path, "/tags/list"):
		f.tags(w, strings.TrimSuffix(path, "/tags/list"))
	default:
		http.NotFound(w, r)
	}
}

// tags tells no tags, but whether there is such a repository.
func (f *fakeRegistry) tags(w http.ResponseWriter, repo string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.manifests {
		if strings.HasPrefix(key, repo+"@") {
			_, _ = io.WriteString(w, `{"tags":[]}`)
			return
		}
	}
	http.Error(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`, http.StatusNotFound)
}

func (f *fakeRegistry) upload(w http.ResponseWriter, r *http.Request, path string) {
	repo, session, _ := strings.Cut(path, "/blobs/uploads/")
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.Method {
	case http.MethodPost:
		if d, from := r.URL.Query().Get("mount"), r.URL.Query().Get("from"); d != "" {
			if raw, ok := f.blobs[from+"@"+d]; ok {
				f.blobs[repo+"@"+d] = raw
				w.WriteHeader(http.StatusCreated)
				return
			}
		}
		f.next++
		id := fmt.Sprint(f.next)
		f.sessions[id] = true
		w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id+"?_state=secret-state")
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		if !f.sessions[session] || r.URL.Query().Get("_state") != "secret-state" {
			http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		delete(f.sessions, session)
		raw, err := io.ReadAll(r.Body)
		d := r.URL.Query().Get("digest")
		if err != nil || digest.FromBytes(raw).String() != d {
			http.Error(w, `{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}`, http.StatusBadRequest)
			return
		}
		f.blobs[repo+"@"+d] = raw
		w.Header().Set("Docker-Content-Digest", d)
		w.WriteHeader(http.StatusCreated)
	}
}

func (f *fakeRegistry) blob(w http.ResponseWriter, r *http.Request, path string) {
	repo, d, _ := strings.Cut(path, "/blobs/")
	f.mu.Lock()
	raw, ok := f.blobs[repo+"@"+d]
	f.mu.Unlock()
	if !ok {
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(raw)))
}

func (f *fakeRegistry) manifest(w http.ResponseWriter, r *http.Request, path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	repo, id, _ := strings.Cut(path, "/manifests/")
	if r.Method == http.MethodPut {
		raw, _ := io.ReadAll(r.Body)
		m := fakeManifest{r.Header.Get("Content-Type"), raw}
		f.manifests[repo+"@"+id] = m
		f.manifests[repo+"@"+digest.FromBytes(raw).String()] = m
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(raw).String())
		w.WriteHeader(http.StatusCreated)
		return
	}
	m, ok := f.manifests[repo+"@"+id]
	if !ok {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.raw).String())
	w.Header().Set("Content-Length", fmt.Sprint(len(m.raw)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(m.raw)
	}
}

// put gives the registry an image.
func (f *fakeRegistry) put(t testing.TB, repo, tag string, layers ...string) ocispec.Descriptor {
	t.Helper()
	desc := mustImage(t, fakePusher{f, repo}, layers...)
	f.manifests[repo+"@"+tag] = f.manifests[repo+"@"+desc.Digest.String()]
	return desc
}

// fakePusher writes past HTTP.
type fakePusher struct {
	f    *fakeRegistry
	repo string
}

func (p fakePusher) Push(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
	raw, err := io.ReadAll(r)
	if isManifest(desc.MediaType) {
		p.f.manifests[p.repo+"@"+desc.Digest.String()] = fakeManifest{desc.MediaType, raw}
	} else {
		p.f.blobs[p.repo+"@"+desc.Digest.String()] = raw
	}
	return err
}

// sleeps notes what a client waits for instead of waiting.
type sleeps struct {
	mu sync.Mutex
	d  []time.Duration
}

func (s *sleeps) sleep(_ context.Context, d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.d = append(s.d, d)
	return nil
}

func newTestClient(opts ClientOptions) (*Client, *sleeps) {
	var s sleeps
	if opts.RuntimeDir == "" {
		opts.RuntimeDir = "/nonexistent"
	}
	c := NewClient(opts)
	c.patience.sleep = s.sleep
	return c, &s
}

func mustRepo(t testing.TB, c *Client, ref string) *Repository {
	t.Helper()
	r, err := c.Repository(ref)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// cut ends the connection of a request without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}
