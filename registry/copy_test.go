package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
)

// big is content that does not fit into one buffer of a connection.
func big(seed string, n int) string { return strings.Repeat(seed, n/len(seed)+1)[:n] }

// checkImage compares everything below desc in dst with src.
func checkImage(t *testing.T, dst, src oras.ReadOnlyTarget, desc ocispec.Descriptor) {
	t.Helper()
	all, err := graph(t.Context(), src, desc)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all.blobs {
		want, err := content.FetchAll(t.Context(), src, b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := content.FetchAll(t.Context(), dst, b); err != nil || !bytes.Equal(got, want) {
			t.Errorf("blob %s: %d bytes, %v, want %d", b.Digest, len(got), err, len(want))
		}
	}
}

func TestCopyEverywhere(t *testing.T) {
	ctx := t.Context()
	f := newFake(t)
	c, _ := newTestClient(ClientOptions{})
	src := newStore(t)
	desc := mustImage(t, src, big("one", 200_000), "two", "two")
	mustTag(t, src, desc, "host.test/a:1")

	repo := mustRepo(t, c, f.host()+"/team/a:1")
	var last Progress
	got, err := Copy(ctx, repo, "", src, "host.test/a:1", CopyOptions{OnProgress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if got.Descriptor.Digest != desc.Digest || got.Blobs != 3 || got.Skipped != 0 {
		t.Errorf("push: got %+v, want %s and 3 blobs", got, desc.Digest)
	}
	if last.Done != last.Total || last.Total == 0 || last.Skipped != 0 {
		t.Errorf("progress ended at %+v", last)
	}
	checkImage(t, repo, src, desc)
	if resolved, err := repo.Resolve(ctx, "1"); err != nil || resolved.Digest != desc.Digest || resolved.Size != desc.Size {
		t.Errorf("got %v, %v, want %v", resolved, err, desc)
	}

	f.forget()
	if got, err = Copy(ctx, repo, "2", src, "host.test/a:1", CopyOptions{}); err != nil || got.Blobs != 0 || got.Skipped != 3 {
		t.Errorf("push again: got %+v, %v, want everything skipped", got, err)
	}
	if n := f.count("POST"); n != 0 {
		t.Errorf("push again: %d uploads", n)
	}
	mounted := mustRepo(t, c, f.host()+"/other/b:1")
	if got, err = Copy(ctx, mounted, "", repo, "1", CopyOptions{}); err != nil || got.Mounted != 3 {
		t.Errorf("copy within a registry: got %+v, %v, want 3 mounted", got, err)
	}
	checkImage(t, mounted, src, desc)
	elsewhere := newFake(t)
	relayed := mustRepo(t, c, elsewhere.host()+"/b:1")
	if got, err = Copy(ctx, relayed, "", repo, "1", CopyOptions{}); err != nil || got.Blobs != 3 {
		t.Errorf("copy between registries: got %+v, %v, want 3 blobs", got, err)
	}
	checkImage(t, relayed, src, desc)

	pulled := newStore(t)
	if got, err = Copy(ctx, pulled, "host.test/pulled:1", repo, "", CopyOptions{Concurrency: 1}); err != nil || got.Blobs != 3 {
		t.Errorf("pull: got %+v, %v, want 3 blobs", got, err)
	}
	checkImage(t, pulled, src, desc)
	if got, err := pulled.Resolve(ctx, "host.test/pulled:1"); err != nil || got.Digest != desc.Digest {
		t.Errorf("pulled: got %v, %v, want %v", got.Digest, err, desc.Digest)
	}
	mem := memory.New()
	if _, err := Copy(ctx, mem, "x", repo, "", CopyOptions{}); err != nil {
		t.Errorf("copy to oras' own memory: %v", err)
	}
	if _, err := Copy(ctx, newStore(t), "y", mem, "x", CopyOptions{}); err != nil {
		t.Errorf("copy from oras' own memory: %v", err)
	}
}

func TestCopyIfAbsent(t *testing.T) {
	ctx := t.Context()
	f := newFake(t)
	c, _ := newTestClient(ClientOptions{})
	repo := mustRepo(t, c, f.host()+"/a:1")
	s := newStore(t)
	one, two := mustImage(t, s, "one"), mustImage(t, s, "two")
	mustTag(t, s, one, "one")
	mustTag(t, s, two, "two")
	for _, dst := range []oras.Target{repo, newStore(t)} {
		name := "1"
		if _, err := Copy(ctx, dst, name, s, "one", CopyOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := Copy(ctx, dst, name, s, "one", CopyOptions{IfAbsent: true}); err != nil {
			t.Errorf("same content: %v", err)
		}
		if _, err := Copy(ctx, dst, name, s, "two", CopyOptions{IfAbsent: true}); !errors.Is(err, ErrExists) {
			t.Errorf("other content: got %v, want ErrExists", err)
		}
		if got, err := dst.Resolve(ctx, name); err != nil || got.Digest != one.Digest {
			t.Errorf("got %v, %v, want %v", got.Digest, err, one.Digest)
		}
	}
}

// TestPushFaults breaks uploads; each fault happens the first times only.
func TestPushFaults(t *testing.T) {
	isPut := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/")
	}
	isPost := func(r *http.Request) bool { return r.Method == http.MethodPost }
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	tests := []struct {
		name  string
		match func(*http.Request) bool
		times int32
		fault http.HandlerFunc
		want  error // nil: the push succeeds
		text  string
	}{
		{"cut in the middle", isPut, 1, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 100_000)
			cut(w)
		}, nil, ""},
		{"cut four times", isPut, tries - 1, func(w http.ResponseWriter, _ *http.Request) { cut(w) }, nil, ""},
		{"cut for ever", isPut, 1000, func(w http.ResponseWriter, _ *http.Request) { cut(w) }, ErrUnreachable, "push blob"},
		{"session lost", isPut, 1, status(404), nil, ""},
		{"500 at the end", isPut, 2, status(500), nil, ""},
		{"503 at the beginning", isPost, 2, status(503), nil, ""},
		{"413", isPut, 1000, status(413), ErrRegistry, "refuses a body of this size"},
		{"403", isPost, 1000, status(403), ErrDenied, "log in"},
		{"401", isPost, 1000, status(401), ErrDenied, "log in"},
		{"repository unknown", isPost, 1000, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"create it first\u001b[2J"}]}`, 404)
		}, ErrNotFound, "name unknown create it first?[2J"},
		{"stored another digest", isPut, 1000, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", digest.FromString("other").String())
			w.WriteHeader(201)
		}, ErrRegistry, "instead of"},
		{"201 and nothing stored", isPut, 1000, status(201), ErrRegistry, "does not have it"},
		{"upload to another host", isPost, 1000, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://elsewhere.test/upload?_state=secret-state")
			w.WriteHeader(202)
		}, ErrRegistry, "another host"},
		{
			"manifest refused", func(r *http.Request) bool {
				return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
			}, 1000,
			status(403), ErrDenied, "blobs are in the registry",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			f := newFake(t)
			var left atomic.Int32
			left.Store(tt.times)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if tt.match(r) && left.Add(-1) >= 0 {
					tt.fault(w, r)
					return true
				}
				return false
			}
			var sum, end int64
			var fell bool
			c, _ := newTestClient(ClientOptions{})
			src := newStore(t)
			desc := mustImage(t, src, big("layer", 3_000_000))
			mustTag(t, src, desc, "x")
			repo := mustRepo(t, c, f.host()+"/a:1")
			_, err := Copy(ctx, repo, "", src, "x", CopyOptions{OnProgress: func(p Progress) {
				fell = fell || p.Done < sum
				sum, end = p.Done, p.Total
			}})
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				checkImage(t, repo, src, desc)
				if sum != end {
					t.Errorf("progress ended at %d of %d", sum, end)
				}
				return
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
			if strings.Contains(err.Error(), "secret-state") || strings.Contains(err.Error(), "digest=") {
				t.Errorf("error tells the query of a URL: %v", err)
			}
			if f.has("a@1") {
				t.Error("the name is there after a failed push")
			}
		})
	}
}

func TestPushChangedContent(t *testing.T) {
	ctx := t.Context()
	f := newFake(t)
	c, _ := newTestClient(ClientOptions{})
	src := newStore(t)
	layer := big("layer", 300_000)
	desc := mustImage(t, src, layer)
	mustTag(t, src, desc, "x")
	path, err := src.blobPath(digest.FromString(layer))
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string]string{"changed": layer[:299_999] + "X", "truncated": layer[:1000]} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Copy(ctx, mustRepo(t, c, f.host()+"/a:1"), "", src, "x", CopyOptions{})
		if !errors.Is(err, ErrContent) {
			t.Errorf("%s: got %v, want ErrContent", name, err)
		}
		if f.has("a@"+digest.FromString(layer).String()) || f.count("PUT /v2/a/manifests") != 0 {
			t.Errorf("%s: it was pushed", name)
		}
	}
}

// TestPullFaults breaks downloads of the one big layer of an image.
func TestPullFaults(t *testing.T) {
	layer := big("layer", 5_000_000)
	layerPath := "/blobs/" + digest.FromString(layer).String()
	// part answers with content from the requested offset up to end, then cuts.
	part := func(end int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var off int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off); err == nil {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(layer)-1, len(layer)))
				w.Header().Set("Content-Length", fmt.Sprint(len(layer)-off))
				w.WriteHeader(206)
			} else {
				w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
			}
			_, _ = io.WriteString(w, layer[off:max(end, off)])
		}
	}
	body := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	tests := []struct {
		name  string
		times int32
		fault http.HandlerFunc
		want  error
		text  string
	}{
		{"cut once", 1, part(2_000_000), nil, ""},
		{"cut without progress", 4, part(0), nil, ""},
		{"cut for ever", 1000, part(0), ErrUnreachable, ""},
		{"ranges ignored", 2, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				part(1_500_000)(w, r)
				return
			}
			body(layer)(w, r)
		}, nil, ""},
		{"416", 2, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				part(1_500_000)(w, r)
				return
			}
			w.WriteHeader(416)
		}, nil, ""},
		{"other bytes", 1000, body(strings.ToUpper(layer)), ErrContent, "does not match its digest"},
		{"longer", 1000, body(layer + "more"), ErrContent, "longer"},
		{"shorter, with a clean end", 1000, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Transfer-Encoding", "identity")
			_, _ = io.WriteString(w, layer[:100])
		}, ErrContent, "ends after 100"},
		{"missing", 1000, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, ErrRegistry, "named by the manifest and missing"},
		{"web page", 1000, body("<html>"), ErrContent, ""},
		{"503, then well", 2, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, nil, ""},
		{"500 for ever", 1000, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, ErrRegistry, "status 500"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			f := newFake(t)
			desc := f.put(t, "a", "1", layer)
			var left atomic.Int32
			left.Store(tt.times)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, layerPath) && left.Add(-1) >= 0 {
					tt.fault(w, r)
					return true
				}
				return false
			}
			c, _ := newTestClient(ClientOptions{})
			dst := newStore(t)
			var done, total int64
			_, err := Copy(ctx, dst, "x", mustRepo(t, c, f.host()+"/a:1"), "", CopyOptions{OnProgress: func(p Progress) { done, total = p.Done, p.Total }})
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				checkImage(t, dst, mustRepo(t, c, f.host()+"/a:1"), desc)
				if done != total {
					t.Errorf("progress ended at %d of %d", done, total)
				}
				return
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
			if errors.Is(err, ErrNotFound) {
				t.Errorf("%v is an ErrNotFound: the name itself is there", err)
			}
			if _, err := dst.Resolve(ctx, "x"); !errors.Is(err, ErrNotFound) {
				t.Errorf("the name is there after a failed pull: %v", err)
			}
			if there, _ := dst.Exists(ctx, content.NewDescriptorFromBytes("", []byte(layer))); there {
				t.Error("the damaged blob was kept")
			}
			if entries, _ := os.ReadDir(filepath.Join(dst.dir, tempDir)); len(entries) != 0 {
				t.Errorf("%d temporary files left", len(entries))
			}
		})
	}
}

// TestManifests has registries give manifests that must not be believed.
func TestManifests(t *testing.T) {
	image := ocispec.MediaTypeImageManifest
	one := `{"mediaType":"x","digest":"` + digest.FromString("x").String() + `","size":1}`
	valid := `{"schemaVersion":2,"mediaType":"` + image + `","config":` + one + `,"layers":[` + one + `]}`
	edit := func(from, to string) string { return strings.ReplaceAll(valid, from, to) }
	many := func(n int) string {
		return edit("["+one+"]", "["+strings.TrimSuffix(strings.Repeat(one+",", n), ",")+"]")
	}
	tests := []struct {
		name, contentType, raw string
		want                   error
	}{
		{"valid", image, valid, nil},
		{"as many layers as may be", image, many(MaxLayers), nil},
		{"too many layers", image, many(MaxLayers + 1), ErrContent},
		{"layers and manifests", image, edit(`"layers"`, `"manifests":[],"layers"`), ErrContent},
		{"index with layers", ocispec.MediaTypeImageIndex, edit(image, ocispec.MediaTypeImageIndex), ErrContent},
		{"calls itself something else", image, edit(image, dockerManifest), ErrContent},
		{"no config", image, `{"schemaVersion":2,"layers":[]}`, ErrContent},
		{"schema version 1", image, edit(`n":2`, `n":1`), ErrContent},
		{"negative size", image, edit(`"size":1`, `"size":-1`), ErrContent},
		{"no size", image, edit(`"size":1`, `"size":0`), ErrContent},
		{"largest size", image, edit(`"size":1`, `"size":9223372036854775807`), ErrContent},
		{"two sizes for one digest", image, edit(`"layers":[`+one, `"layers":[`+strings.ReplaceAll(one, `"size":1`, `"size":2`)), ErrContent},
		{"digest with a path", image, edit(digest.FromString("x").String(), "sha256:../../../x"), ErrContent},
		{"no JSON", image, "<html>", ErrContent},
		{"web page", "text/html", valid, ErrContent},
		{"helm chart", "application/json", valid, ErrContent},
		{"largest manifest", image, valid + strings.Repeat(" ", MaxManifestBytes-len(valid)), nil},
		{"too large", image, valid + strings.Repeat(" ", MaxManifestBytes-len(valid)+1), ErrContent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.manifests["a@1"] = fakeManifest{tt.contentType, []byte(tt.raw)}
			f.manifests["a@"+digest.FromString(tt.raw).String()] = f.manifests["a@1"]
			f.blobs["a@"+digest.FromString("x").String()] = []byte("x")
			c, _ := newTestClient(ClientOptions{})
			_, err := Copy(t.Context(), newStore(t), "x", mustRepo(t, c, f.host()+"/a:1"), "", CopyOptions{})
			if tt.want == nil && err != nil || !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if n := f.count("GET /v2/a/blobs/"); n > 1 {
				t.Errorf("one blob was fetched %d times", n)
			}
		})
	}
}

func TestEndlessManifest(t *testing.T) {
	f := newFake(t)
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		for r.Method == http.MethodGet && r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		return true
	}
	c, _ := newTestClient(ClientOptions{})
	if _, err := mustRepo(t, c, f.host()+"/a:1").Resolve(t.Context(), ""); !errors.Is(err, ErrContent) {
		t.Errorf("got %v, want ErrContent", err)
	}
}

func TestNestedIndexes(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	desc := mustImage(t, s, "layer")
	for depth := 1; depth <= MaxIndexDepth; depth++ {
		_, err := graph(ctx, s, desc)
		if err != nil {
			t.Errorf("depth %d: %v", depth, err)
		}
		raw := []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, desc.MediaType, desc.Digest, desc.Size))
		desc = content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, raw)
		if err := s.Push(ctx, desc, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := graph(ctx, s, desc); !errors.Is(err, ErrContent) {
		t.Errorf("too deep: got %v, want ErrContent", err)
	}
}

func TestCopyCancel(t *testing.T) {
	f := newFake(t)
	f.put(t, "a", "1", big("layer", 100_000))
	ctx, cancel := context.WithCancel(t.Context())
	f.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			cancel()
			<-r.Context().Done()
			return true
		}
		return false
	}
	c, _ := newTestClient(ClientOptions{})
	if _, err := Copy(ctx, newStore(t), "x", mustRepo(t, c, f.host()+"/a:1"), "", CopyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

func TestStoreArchive(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	desc := mustImage(t, s, big("layer", 100_000), "small")
	mustTag(t, s, desc, "host.test/a:1")
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if _, err := WriteStoreArchive(ctx, w, s, "host.test/a:1", "a:1"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same content gave other bytes")
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(file, first.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := OpenStoreArchive(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, name := range []string{"", "a:1", desc.Digest.String()} {
		if got, err := a.Resolve(ctx, name); err != nil || got.Digest != desc.Digest {
			t.Errorf("resolve %q: got %v, %v, want %v", name, got.Digest, err, desc.Digest)
		}
	}
	if _, err := a.Resolve(ctx, "b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if list, err := a.List(ctx); err != nil || len(list) != 1 || list[0].Name != "a:1" || list[0].Err != nil {
		t.Errorf("list: got %+v, %v", list, err)
	}
	dst := newStore(t)
	if _, err := Copy(ctx, dst, "x", a, "a:1", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	checkImage(t, dst, s, desc)
	blob, err := a.OpenBlob(ctx, content.NewDescriptorFromBytes("", []byte("small")))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := blob.ReadAt(got, 2); err != nil || string(got) != "all" {
		t.Errorf("got %q, %v, want \"all\"", got, err)
	}

	damaged := bytes.Replace(first.Bytes(), []byte("small"), []byte("smell"), 1)
	for name, raw := range map[string][]byte{"truncated": first.Bytes()[:first.Len()/2], "no tar": []byte("hello"), "empty": nil} {
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if a, err := OpenStoreArchive(ctx, file); !errors.Is(err, ErrContent) {
			t.Errorf("%s: got %v, %v, want ErrContent", name, a, err)
		}
	}
	if err := os.WriteFile(file, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err = OpenStoreArchive(ctx, file); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(ctx, newStore(t), "x", a, "", CopyOptions{}); !errors.Is(err, ErrContent) {
		t.Errorf("damaged blob: got %v, want ErrContent", err)
	}
}

func TestRanges(t *testing.T) {
	ctx := t.Context()
	layer := big("0123456789", 100_000)
	desc := content.NewDescriptorFromBytes("", []byte(layer))
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("credentials went to the storage: %v", r.Header)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(layer))
	}))
	t.Cleanup(storage.Close)
	tests := []struct {
		name   string
		before func(w http.ResponseWriter, r *http.Request) bool
		want   error
		gets   int // requests to the registry for two reads
	}{
		{"with ranges", nil, nil, 2},
		{"without ranges", func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Range")
			return false
		}, nil, 2},
		{"redirected", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, storage.URL+"/x?signature=secret", http.StatusTemporaryRedirect)
				return true
			}
			return false
		}, nil, 1},
		{"another range", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				w.Header().Set("Content-Range", "bytes 0-9/100000")
				w.WriteHeader(206)
				_, _ = io.WriteString(w, "0123456789")
				return true
			}
			return false
		}, ErrContent, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.blobs["a@"+desc.Digest.String()] = []byte(layer)
			f.before = tt.before
			c, _ := newTestClient(ClientOptions{})
			b, err := mustRepo(t, c, f.host()+"/a:1").OpenBlob(ctx, desc)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			p := make([]byte, 10)
			_, err = b.ReadAt(p, 5)
			if tt.want != nil {
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				return
			}
			if err != nil || string(p) != "5678901234" {
				t.Errorf("got %q, %v", p, err)
			}
			if n, err := b.ReadAt(p, b.Size()-4); n != 4 || err != io.EOF || string(p[:n]) != "6789" { //nolint:errorlint // io.ReaderAt wants io.EOF itself
				t.Errorf("at the end: got %q, %v, want 6789 and EOF", p[:n], err)
			}
			if n := f.count("GET /v2/a/blobs/"); n != tt.gets {
				t.Errorf("got %d requests to the registry, want %d", n, tt.gets)
			}
		})
	}
}
