package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// The layers of two checkpoints, of which the second is a child of the first.
const (
	sharedBytes = 400_000
	ownBytes    = 100_000
)

// family puts a parent and its child into a store as p and c, and gives the child and the layer that they share.
func family(t *testing.T, s *Store) (child ocispec.Descriptor, shared string) {
	t.Helper()
	shared = big("shared", sharedBytes)
	mustTag(t, s, mustImage(t, s, big("parent's", ownBytes), shared), "p")
	child = mustImage(t, s, big("child's", ownBytes), shared)
	mustTag(t, s, child, "c")
	return child, shared
}

// TestKnown: a push whose parent the registry has asks for nothing that is the parent's and for nothing new, unless
// it was begun before.
func TestKnown(t *testing.T) {
	ctx := t.Context()
	f := newFake(t)
	s := newStore(t)
	child, shared := family(t, s)
	c, _ := newTestClient(ClientOptions{PlainHTTP: true})
	push := func(src *Store, name, to string) Copied {
		t.Helper()
		f.forget()
		var last Progress
		got, err := Copy(ctx, mustRepo(t, c, f.host()+"/a:"+to), "", src, name, CopyOptions{OnProgress: func(p Progress) { last = p }})
		if err != nil {
			t.Fatal(err)
		}
		if last.Done != last.Total {
			t.Errorf("%s: progress ended at %+v", name, last)
		}
		return got
	}
	sharedPath, ownPath := "/v2/a/blobs/"+digest.FromString(shared).String(), "/v2/a/blobs/"+digest.FromString(big("child's", ownBytes)).String()
	push(s, "p", "1")
	if n := f.count("HEAD " + sharedPath); n != 1 {
		t.Errorf("the first push to a new repository asked %d times for a blob, want once after it was sent", n)
	}
	stranger := newStore(t)
	mustTag(t, stranger, mustImage(t, stranger, big("stranger's", ownBytes), shared), "s")
	if got := push(stranger, "s", "0"); got.Skipped != 1 || f.count("HEAD "+sharedPath) != 1 {
		t.Errorf("a store that knows nothing of the repository: got %+v, want 1 blob skipped because it was asked for", got)
	}

	if got := push(s, "c", "2"); got.Skipped != 1 || got.Blobs != 2 {
		t.Errorf("got %+v, want 1 blob skipped and 2 sent", got)
	}
	if n, m := f.count("HEAD "+sharedPath), f.count("HEAD "+ownPath); n != 0 || m != 1 {
		t.Errorf("asked %d times for the parent's blob and %d times for the new one, want never and once after it was sent", n, m)
	}
	checkImage(t, mustRepo(t, c, f.host()+"/a:2"), s, child)

	// The host that pulled the parent knows as much.
	other := newStore(t)
	if _, err := Copy(ctx, other, "p", mustRepo(t, c, f.host()+"/a:1"), "", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	mustTag(t, other, mustImage(t, other, big("another", ownBytes), shared), "other")
	if push(other, "other", "3"); f.count("HEAD "+sharedPath) != 0 {
		t.Error("asked for a blob of a parent that came from there")
	}

	// A parent that is there no more tells nothing: its blobs are asked for.
	grandchild := mustImage(t, s, big("grandchild's", ownBytes), big("child's", ownBytes))
	mustTag(t, s, grandchild, "g")
	f.mu.Lock()
	delete(f.manifests, "a@"+child.Digest.String())
	f.mu.Unlock()
	if got := push(s, "g", "4"); got.Blobs != 2 || got.Skipped != 1 || f.count("HEAD "+ownPath) != 1 {
		t.Errorf("got %+v, want 1 blob skipped because it was asked for", got)
	}
}

// TestKnownResumed: what an interrupted push has sent is not sent again, to a new repository or to that of the parent.
func TestKnownResumed(t *testing.T) {
	for _, parent := range []bool{true, false} {
		t.Run(fmt.Sprint("parent ", parent), func(t *testing.T) { testKnownResumed(t, parent) })
	}
}

func testKnownResumed(t *testing.T, parent bool) {
	ctx := t.Context()
	f := newFake(t)
	s := newStore(t)
	_, shared := family(t, s)
	later := big("later", ownBytes)
	desc := mustImage(t, s, big("first", ownBytes), later, shared)
	mustTag(t, s, desc, "x")
	c, _ := newTestClient(ClientOptions{PlainHTTP: true})
	repo := mustRepo(t, c, f.host()+"/a:1")
	if parent {
		if _, err := Copy(ctx, repo, "p", s, "p", CopyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && r.URL.Query().Get("digest") == digest.FromString(later).String() {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	if _, err := Copy(ctx, repo, "x", s, "x", CopyOptions{Concurrency: 1}); !errors.Is(err, ErrDenied) {
		t.Fatalf("got %v, want ErrDenied", err)
	}
	f.before = nil
	if got, err := Copy(ctx, repo, "x", s, "x", CopyOptions{}); err != nil || got.Blobs != 1 || got.Skipped != 3 {
		t.Errorf("again: got %+v, %v, want 1 blob sent and 3 skipped", got, err)
	}
	checkImage(t, repo, s, desc)
}

// TestNewRepository: a registry need not tell whether a repository is new. Who is not let in asks nothing more.
func TestNewRepository(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   error
		asks   bool // for the blobs before they are sent
	}{
		{404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`, nil, false},
		{404, "not found", nil, true},
		{200, `{"tags":null}`, nil, true},
		{403, "", nil, true},
		{405, "", nil, true},
		{401, "", ErrDenied, false},
	} {
		t.Run(fmt.Sprint(tt.status, tt.body), func(t *testing.T) {
			f := newFake(t)
			s := newStore(t)
			layer := big("layer", ownBytes)
			mustTag(t, s, mustImage(t, s, layer), "x")
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/tags/list") {
					return false
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
				return true
			}
			c, _ := newTestClient(ClientOptions{PlainHTTP: true})
			_, err := Copy(t.Context(), mustRepo(t, c, f.host()+"/a:1"), "", s, "x", CopyOptions{})
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if n := f.count("HEAD /v2/a/blobs/" + digest.FromString(layer).String()); err == nil && (n == 2) != tt.asks {
				t.Errorf("asked %d times for the blob, want before it is sent: %v", n, tt.asks)
			}
			if err != nil && f.count("") != 1 {
				t.Errorf("%d requests after it was refused", f.count("")-1)
			}
		})
	}
}

// TestKnownNothing: there may be nothing to send but a manifest.
func TestKnownNothing(t *testing.T) {
	ctx := t.Context()
	f := newFake(t)
	s := newStore(t)
	raw := []byte(`{"schemaVersion":2,"manifests":[]}`)
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, raw)
	if err := s.Push(ctx, desc, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	mustTag(t, s, desc, "x")
	c, _ := newTestClient(ClientOptions{PlainHTTP: true})
	if got, err := Copy(ctx, mustRepo(t, c, f.host()+"/a:1"), "", s, "x", CopyOptions{}); err != nil || got.Blobs != 0 || !f.has("a@1") {
		t.Errorf("got %+v, %v, want no blob and the name", got, err)
	}
}

// TestMountFromStore: what another repository of the registry has is taken from there, and where that fails it is sent.
func TestMountFromStore(t *testing.T) {
	isMount := func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("mount") }
	refuse := func(status int) func(*fakeRegistry, http.ResponseWriter, *http.Request) bool {
		return func(_ *fakeRegistry, w http.ResponseWriter, r *http.Request) bool {
			if isMount(r) {
				w.WriteHeader(status)
			}
			return isMount(r)
		}
	}
	tests := []struct {
		name    string
		before  func(*fakeRegistry, http.ResponseWriter, *http.Request) bool
		mounted int
		posts   int // for two new blobs and two of the parent
	}{
		{"mounted", nil, 2, 4},
		{"202 with a session", func(_ *fakeRegistry, _ http.ResponseWriter, r *http.Request) bool {
			if isMount(r) {
				r.URL.RawQuery = ""
			}
			return false
		}, 0, 4},
		{"201 and nothing there", refuse(http.StatusCreated), 0, 5},
		{"403", refuse(http.StatusForbidden), 0, 5},
		{"401", refuse(http.StatusUnauthorized), 0, 5},
		{"405", refuse(http.StatusMethodNotAllowed), 0, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			f := newFake(t)
			s := newStore(t)
			shared := []string{big("shared", sharedBytes), big("also", sharedBytes)}
			mustTag(t, s, mustImage(t, s, append([]string{big("parent's", ownBytes)}, shared...)...), "p")
			desc := mustImage(t, s, append([]string{big("child's", ownBytes)}, shared...)...)
			mustTag(t, s, desc, "c")
			c, _ := newTestClient(ClientOptions{PlainHTTP: true})
			if _, err := Copy(ctx, mustRepo(t, c, f.host()+"/from/a:1"), "", s, "p", CopyOptions{}); err != nil {
				t.Fatal(err)
			}
			f.forget()
			var sources []string
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if isMount(r) {
					f.mu.Lock()
					sources = append(sources, r.URL.Query().Get("from"))
					f.mu.Unlock()
				}
				return tt.before != nil && tt.before(f, w, r)
			}
			repo := mustRepo(t, c, f.host()+"/to/b:1")
			var last Progress
			got, err := Copy(ctx, repo, "", s, "c", CopyOptions{Concurrency: 1, OnProgress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if got.Mounted != tt.mounted || got.Blobs != 4-tt.mounted || last.Done != last.Total {
				t.Errorf("got %+v, progress %+v, want %d mounted of 4", got, last, tt.mounted)
			}
			if n := f.count("POST"); n != tt.posts {
				t.Errorf("%d uploads were begun, want %d", n, tt.posts)
			}
			if len(sources) == 0 || slices.ContainsFunc(sources, func(from string) bool { return from != "from/a" }) {
				t.Errorf("was asked to mount from %q, want from/a", sources)
			}
			f.before = nil
			checkImage(t, repo, s, desc)
		})
	}
}

// TestMountScope: the token is asked for with the right to read where the blob is, and one that has it not is no
// reason to give up.
func TestMountScope(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			ctx := t.Context()
			f := newFake(t)
			s := newStore(t)
			desc, _ := family(t, s)
			if err := s.noteSeen(ctx, seen{f.host() + "/from", digest.FromString("nothing that the store has")}); err != nil {
				t.Fatal(err)
			}
			parent, err := s.Resolve(ctx, "p")
			if err == nil {
				err = s.noteSeen(ctx, seen{f.host() + "/from", parent.Digest})
			}
			if err != nil {
				t.Fatal(err)
			}
			mustImage(t, fakePusher{f, "from"}, big("parent's", ownBytes), big("shared", sharedBytes))
			var mu sync.Mutex
			asked := map[string]bool{}
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if r.URL.Path == "/token" {
					scopes := strings.Join(r.URL.Query()["scope"], " ")
					asked[scopes] = true
					if !allowed && strings.Contains(scopes, "repository:from:") {
						scopes = "nothing"
					}
					_, _ = fmt.Fprintf(w, `{"token":%q}`, scopes)
					return true
				}
				need := "repository:to:pull"
				if r.Method == http.MethodPost || r.Method == http.MethodPut {
					need += ",push"
				}
				token := r.Header.Get("Authorization")
				if !strings.Contains(token, need) || r.URL.Query().Has("mount") && !strings.Contains(token, "repository:from:pull") {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, f.URL))
					w.WriteHeader(http.StatusUnauthorized)
					return true
				}
				return false
			}
			c, _ := newTestClient(ClientOptions{PlainHTTP: true})
			repo := mustRepo(t, c, f.host()+"/to:1")
			got, err := Copy(ctx, repo, "", s, "c", CopyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 1}[allowed]; got.Mounted != want || got.Blobs != 3-want {
				t.Errorf("got %+v, want %d mounted of 3", got, want)
			}
			if !asked["repository:from:pull repository:to:pull,push"] {
				t.Errorf("asked for tokens with the scopes %v", asked)
			}
			checkImage(t, repo, s, desc)
		})
	}
}

// TestGarbageRace: a registry removes blobs just before the manifest comes, that were there or were just sent.
func TestGarbageRace(t *testing.T) {
	tests := []struct {
		name, code string
		status     int
		times      int32
		want       error
	}{
		{"once", "MANIFEST_BLOB_UNKNOWN", 400, 1, nil},
		{"twice", "BLOB_UNKNOWN", 404, 2, nil},
		{"for ever", "MANIFEST_BLOB_UNKNOWN", 400, 1000, ErrRegistry},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			f := newFake(t)
			s := newStore(t)
			desc, shared := family(t, s)
			c, _ := newTestClient(ClientOptions{PlainHTTP: true})
			repo := mustRepo(t, c, f.host()+"/a:2")
			if _, err := Copy(ctx, repo, "1", s, "p", CopyOptions{}); err != nil {
				t.Fatal(err)
			}
			var left atomic.Int32
			left.Store(tt.times)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") || left.Add(-1) < 0 {
					return false
				}
				f.mu.Lock()
				delete(f.blobs, "a@"+digest.FromString(shared).String())
				delete(f.blobs, "a@"+digest.FromString(big("child's", ownBytes)).String())
				f.mu.Unlock()
				w.WriteHeader(tt.status)
				_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"blob unknown to registry"}]}`, tt.code)
				return true
			}
			var last Progress
			got, err := Copy(ctx, repo, "", s, "c", CopyOptions{OnProgress: func(p Progress) { last = p }})
			if tt.want != nil {
				if !errors.Is(err, tt.want) || f.has("a@2") {
					t.Errorf("got %v, want %v and no name", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := 2 * int(tt.times); got.Resent != want || last.Done != last.Total {
				t.Errorf("got %+v, progress %+v, want %d sent again", got, last, want)
			}
			checkImage(t, repo, s, desc)
		})
	}
}

// TestSeen: what a store remembers of registries is bounded, and no damage to it does any harm.
func TestSeen(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	one := seen{"host.test/a", digest.FromString("one")}
	var full []seen
	for i := range maxSeen {
		full = append(full, seen{"host.test/a", digest.FromString(fmt.Sprint(i))})
	}
	raw, err := json.Marshal(full)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, seenFile), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.noteSeen(ctx, full[100]); err != nil {
			t.Fatal(err)
		}
		if err := s.noteSeen(ctx, one); err != nil {
			t.Fatal(err)
		}
	}
	list := s.seenAll()
	if len(list) != maxSeen || list[0] != one || list[1] != full[100] || slices.Contains(list[2:], one) || slices.Contains(list, full[0]) {
		t.Errorf("%d are remembered, the last are %v, want %d with %v at the end, once", len(list), list[:2], maxSeen, one)
	}
	f := newFake(t)
	desc, _ := family(t, s)
	c, _ := newTestClient(ClientOptions{PlainHTTP: true})
	for i, text := range []string{
		"", "{", `[{"repository":"../..","manifest":"x"}]`,
		fmt.Sprintf(`[{"repository":%q,"manifest":"sha256:../../etc/passwd"}]`, f.host()+"/a"),
		fmt.Sprintf(`[{"repository":%q,"manifest":%q}]`, f.host()+"/a", digest.FromString("gone")),
		fmt.Sprintf(`[{"repository":%q,"manifest":%q}]`, f.host()+"/a", digest.FromString(big("shared", sharedBytes))), // no manifest
	} {
		if err := os.WriteFile(filepath.Join(s.dir, seenFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		repo := mustRepo(t, c, fmt.Sprintf("%s/a:%d", f.host(), i))
		if _, err := Copy(ctx, repo, "", s, "c", CopyOptions{}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		checkImage(t, repo, s, desc)
	}
}

// TestListShared: what is shared is what GC does not free when a name goes.
func TestListShared(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	child, _ := family(t, s)
	mustTag(t, s, child, "b")
	list, err := s.List(ctx)
	if err != nil || len(list) != 3 {
		t.Fatalf("got %+v, %v", list, err)
	}
	for _, n := range list {
		if n.Shared != sharedBytes {
			t.Errorf("%s: %d bytes are shared, want %d", n.Name, n.Shared, sharedBytes)
		}
	}
	parent := list[2]
	if err := s.Untag(ctx, parent.Name); err != nil {
		t.Fatal(err)
	}
	if freed, err := s.GC(ctx, GCOptions{}); err != nil || freed.Bytes != parent.Bytes-parent.Shared+parent.Descriptor.Size {
		t.Errorf("%s: %d bytes are freed, %v, want %d and the manifest of %d", parent.Name, freed.Bytes, err, parent.Bytes-parent.Shared, parent.Descriptor.Size)
	}
	if list, err := s.List(ctx); err != nil || len(list) != 2 || list[0].Shared != 0 || list[1].Shared != 0 {
		t.Errorf("alone: got %+v, %v, want nothing shared", list, err)
	}
}

// TestLimitRate: all transfers together stay below the rate, and waiting for it is no stall.
func TestLimitRate(t *testing.T) {
	const perSecond = 256 << 10
	ctx := t.Context()
	f := newFake(t)
	src := newStore(t)
	layers := []string{"a", "b", "c", "d"}
	for i := range layers {
		layers[i] = big(layers[i], rateBurst)
	}
	mustTag(t, src, mustImage(t, src, layers...), "x")
	c, _ := newTestClient(ClientOptions{PlainHTTP: true, LimitRate: perSecond})
	c.limits.idle, c.limits.least = 50*time.Millisecond, 1
	repo := mustRepo(t, c, f.host()+"/a:1")
	// What goes at once is one burst.
	want := time.Second * time.Duration((len(layers)-1)*rateBurst) / perSecond
	for _, step := range []struct {
		name     string
		transfer func() (Copied, error)
	}{
		{"push", func() (Copied, error) { return Copy(ctx, repo, "", src, "x", CopyOptions{}) }},
		{"pull", func() (Copied, error) { return Copy(ctx, newStore(t), "x", repo, "", CopyOptions{}) }},
	} {
		began := time.Now()
		if _, err := step.transfer(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < want {
			t.Errorf("%s took %v, want at least %v", step.name, took, want)
		}
	}

	// A transfer that is given up does not wait for its turn.
	ending, cancel := context.WithCancel(ctx)
	body := &ratedBody{ReadCloser: io.NopCloser(strings.NewReader("ab")), ctx: ending, limiter: newRates(1).down}
	if n, err := body.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("got %d bytes, %v, want the one that may go at once", n, err)
	}
	cancel()
	if _, err := body.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}
