package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// partialPath is where a store keeps the beginning of a blob.
func partialPath(s *Store, content string) string {
	return filepath.Join(s.dir, tempDir, "sha256-"+digest.FromString(content).Encoded()+tempSuffix)
}

// TestPartial: what a killed pull has left of a blob is not fetched again, and never believed.
func TestPartial(t *testing.T) {
	layer := big("layer", 3_000_000)
	tests := []struct {
		name, left string
		gets       string // the ranges that are asked for
	}{
		{"nothing", "", "whole"},
		{"the beginning", layer[:2_000_000], "bytes=2000000-2999999"},
		{"all", layer, ""},
		{"more", layer + "more", ""},
		{"something else", strings.ToUpper(layer[:2_000_000]), "bytes=2000000-2999999 whole"},
		{"all of something else", strings.ToUpper(layer), "whole"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			f := newFake(t)
			desc := f.put(t, "a", "1", layer)
			var gets []string
			f.before = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, digest.FromString(layer).String()) {
					asked := r.Header.Get("Range")
					if asked == "" {
						asked = "whole"
					}
					gets = append(gets, asked)
				}
				return false
			}
			dst := newStore(t)
			if tt.left != "" {
				if err := os.WriteFile(partialPath(dst, layer), []byte(tt.left), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, _ := newTestClient(ClientOptions{PlainHTTP: true})
			repo := mustRepo(t, c, f.host()+"/a:1")
			var last Progress
			if _, err := Copy(ctx, dst, "x", repo, "", CopyOptions{OnProgress: func(p Progress) { last = p }}); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(gets, " "); got != tt.gets || last.Done != last.Total {
				t.Errorf("asked for %q, progress %+v, want %q", got, last, tt.gets)
			}
			f.before = nil
			checkImage(t, dst, repo, desc)
			if entries, err := os.ReadDir(filepath.Join(dst.dir, tempDir)); err != nil || len(entries) > 0 {
				t.Errorf("%d temporary files left, %v", len(entries), err)
			}
		})
	}
}

// TestPartialKept: the network and an interrupt leave what came so far, which GC removes; another fault leaves nothing.
func TestPartialKept(t *testing.T) {
	layer, other := big("layer", 3_000_000), big("other", 2_000_000)
	stop := errors.New("interrupted")
	tests := []struct {
		name  string
		fault func(t *testing.T, interrupt func(), w http.ResponseWriter, r *http.Request)
		want  error
		kept  bool
	}{
		{"network", func(_ *testing.T, _ func(), w http.ResponseWriter, _ *http.Request) { cut(w) }, ErrUnreachable, true},
		{"interrupt", func(_ *testing.T, interrupt func(), _ http.ResponseWriter, r *http.Request) {
			interrupt()
			<-r.Context().Done()
		}, stop, true},
		{"another blob", func(_ *testing.T, _ func(), w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.ToUpper(other))
		}, ErrContent, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			f := newFake(t)
			desc := f.put(t, "a", "1", layer, other)
			sent := make(chan struct{})
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.Method != http.MethodGet:
				case strings.HasSuffix(r.URL.Path, digest.FromString(layer).String()):
					_, _ = io.WriteString(w, layer[:2_000_000])
					_ = http.NewResponseController(w).Flush()
					if tt.name == "network" {
						cut(w)
					} else {
						<-r.Context().Done()
					}
					return true
				case strings.HasSuffix(r.URL.Path, digest.FromString(other).String()):
					<-sent
					tt.fault(t, func() { cancel(stop) }, w, r)
					return true
				}
				return false
			}
			c, _ := newTestClient(ClientOptions{PlainHTTP: true})
			repo, dst := mustRepo(t, c, f.host()+"/a:1"), newStore(t)
			came := sync.OnceFunc(func() { close(sent) })
			_, err := Copy(ctx, dst, "x", repo, "", CopyOptions{OnProgress: func(p Progress) {
				if p.Done > 1_000_000 {
					came()
				}
			}})
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			left, err := os.ReadFile(partialPath(dst, layer))
			if (err == nil) != tt.kept || !strings.HasPrefix(layer, string(left)) {
				t.Errorf("%d bytes were kept, %v, want some: %v", len(left), err, tt.kept)
			}
			if got, err := dst.GC(t.Context(), GCOptions{DryRun: true}); err != nil || got.TempFiles > 2 || (got.TempFiles > 0) != tt.kept {
				t.Errorf("GC would remove %+v, %v", got, err)
			}
			f.before = nil
			if _, err := Copy(t.Context(), dst, "x", repo, "", CopyOptions{}); err != nil {
				t.Fatal(err)
			}
			checkImage(t, dst, repo, desc)
		})
	}
}

// TestPartialTogether: a blob that another process is fetching is fetched beside it.
func TestPartialTogether(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	layer := big("layer", 300_000)
	src := newStore(t)
	desc := mustImage(t, src, layer)
	mustTag(t, src, desc, "x")
	f, err := lockPartial(partialPath(s, layer))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("of another process"); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(ctx, s, "x", src, "x", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	checkImage(t, s, src, desc)
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, []byte("of another process")) {
		t.Errorf("got %q, %v: it was touched", got, err)
	}
}
