package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
)

const testTagsEnv = "CKARCHIVE_TEST_TAG_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(testTagsEnv); dir != "" {
		os.Exit(tagMany(dir, os.Getenv(testTagsEnv+"_PREFIX")))
	}
	os.Exit(m.Run())
}

const childTags = 50

// tagMany is what the child processes of TestStoreProcesses do.
func tagMany(dir, prefix string) int {
	ctx := context.Background()
	s, err := OpenStore(ctx, dir, StoreOptions{Create: true})
	for i := 0; err == nil && i < childTags; i++ {
		var desc ocispec.Descriptor
		if desc, err = pushImage(ctx, s, fmt.Sprintf("%s %d", prefix, i)); err == nil {
			err = s.Tag(ctx, desc, fmt.Sprintf("host.test/%s:%d", prefix, i))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// pusher is what test images are written to.
type pusher interface {
	Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error
}

// pushImage pushes an image manifest with one layer per text.
func pushImage(ctx context.Context, dst pusher, layers ...string) (ocispec.Descriptor, error) {
	push := func(mediaType string, raw []byte) (ocispec.Descriptor, error) {
		desc := content.NewDescriptorFromBytes(mediaType, raw)
		if err := dst.Push(ctx, desc, bytes.NewReader(raw)); err != nil && !errors.Is(err, ErrExists) {
			return desc, err
		}
		return desc, nil
	}
	config, err := push(ocispec.MediaTypeImageConfig, []byte(`{"of":"`+strings.Join(layers, ",")[:min(8, len(layers[0]))]+`"}`))
	if err != nil {
		return config, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Annotations: map[string]string{"org.example": "yes"},
	}
	for _, l := range layers {
		desc, err := push(ocispec.MediaTypeImageLayer, []byte(l))
		if err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, desc)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return push(m.MediaType, raw)
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := OpenStore(t.Context(), filepath.Join(t.TempDir(), "store"), StoreOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustImage(t testing.TB, dst pusher, layers ...string) ocispec.Descriptor {
	t.Helper()
	desc, err := pushImage(t.Context(), dst, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func mustTag(t testing.TB, s *Store, desc ocispec.Descriptor, name string) {
	t.Helper()
	if err := s.Tag(t.Context(), desc, name); err != nil {
		t.Fatal(err)
	}
}

func TestOpenStore(t *testing.T) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := OpenStore(ctx, dir, StoreOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("open what is not there: got %v, want ErrNotFound", err)
	}
	if _, err := OpenStore(ctx, dir, StoreOptions{Create: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(ctx, dir, StoreOptions{}); err != nil {
		t.Errorf("open again: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got mode %v, %v, want 0700", info.Mode(), err)
	}
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "letter.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(ctx, used, StoreOptions{Create: true}); err == nil {
		t.Error("made a store in a directory of other things")
	}
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"2.0.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(ctx, dir, StoreOptions{Create: true}); !errors.Is(err, ErrContent) {
		t.Errorf("unknown layout version: got %v, want ErrContent", err)
	}
}

func TestStoreNames(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	a, b := mustImage(t, s, "layer a"), mustImage(t, s, "layer b")
	if _, err := s.Resolve(ctx, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("empty store: got %v, want ErrNotFound", err)
	}
	mustTag(t, s, a, "host.test/x:1")
	if got, err := s.Resolve(ctx, ""); err != nil || got.Digest != a.Digest {
		t.Errorf("only name: got %v, %v, want %v", got.Digest, err, a.Digest)
	}
	mustTag(t, s, b, "host.test/x:2")
	mustTag(t, s, b, "host.test/x:1")
	if _, err := s.Resolve(ctx, ""); !errors.Is(err, ErrReference) {
		// Both names lead to b, so the store has one manifest.
		if got, _ := s.Resolve(ctx, ""); got.Digest != b.Digest {
			t.Errorf("got %v, want %v", got.Digest, b.Digest)
		}
	}
	if err := s.TagNew(ctx, a, "host.test/x:1"); !errors.Is(err, ErrExists) {
		t.Errorf("move a name with TagNew: got %v, want ErrExists", err)
	}
	if err := s.TagNew(ctx, b, "host.test/x:1"); err != nil {
		t.Errorf("same content with TagNew: %v", err)
	}
	mustTag(t, s, a, "host.test/x:3")
	if _, err := s.Resolve(ctx, ""); !errors.Is(err, ErrReference) {
		t.Errorf("no tag among several: got %v, want ErrReference", err)
	}
	for _, name := range []string{"host.test/x:3", a.Digest.String()} {
		if got, err := s.Resolve(ctx, name); err != nil || got.Digest != a.Digest || got.Size != a.Size || got.MediaType != a.MediaType {
			t.Errorf("resolve %s: got %+v, %v, want %+v", name, got, err, a)
		}
	}
	list, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range list {
		names = append(names, n.Name)
		if n.Err != nil || n.Annotations["org.example"] != "yes" || n.Bytes == 0 {
			t.Errorf("list: got %+v", n)
		}
	}
	if got, want := strings.Join(names, " "), "host.test/x:1 host.test/x:2 host.test/x:3"; got != want {
		t.Errorf("list: got %s, want %s", got, want)
	}
	if err := s.Untag(ctx, "host.test/x:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Untag(ctx, "host.test/x:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove twice: got %v, want ErrNotFound", err)
	}
	if err := s.Untag(ctx, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove nothing: got %v, want ErrNotFound", err)
	}
	gone := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, []byte("{}"))
	if err := s.Tag(ctx, gone, "host.test/y:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("tag without content: got %v, want ErrNotFound", err)
	}
}

func TestCheckName(t *testing.T) {
	tests := []struct {
		name string
		ok   bool
	}{
		{"1", true},
		{"host.test:5000/a/b:1", true},
		{"host.test/a@sha256:" + strings.Repeat("0", 64), true},
		{strings.Repeat("a", maxNameBytes), true},
		{strings.Repeat("a", maxNameBytes+1), false},
		{"", false},
		{"-x", false},
		{"a b", false},
		{"a\nb", false},
		{"ä", false},
		{"sha256:" + strings.Repeat("0", 64), false},
	}
	for _, tt := range tests {
		if err := CheckName(tt.name); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrReference) {
			t.Errorf("CheckName(%q): got %v, want ok %v", tt.name, err, tt.ok)
		}
	}
}

func TestStorePush(t *testing.T) {
	ctx := t.Context()
	good := []byte("the content")
	desc := content.NewDescriptorFromBytes("text/plain", good)
	with := func(change func(*ocispec.Descriptor)) ocispec.Descriptor {
		d := desc
		change(&d)
		return d
	}
	tests := []struct {
		name string
		desc ocispec.Descriptor
		body string
		want error
	}{
		{"good", desc, "the content", nil},
		{"other bytes", desc, "the c0ntent", ErrContent},
		{"longer", desc, "the content and more", ErrContent},
		{"shorter", desc, "the cont", ErrContent},
		{"negative size", with(func(d *ocispec.Descriptor) { d.Size = -1 }), "the content", ErrContent},
		{"zero size", with(func(d *ocispec.Descriptor) { d.Size = 0 }), "", ErrContent},
		{"largest size", with(func(d *ocispec.Descriptor) { d.Size = 1<<63 - 1 }), "the content", ErrContent},
		{"digest is a path", with(func(d *ocispec.Descriptor) { d.Digest = "sha256:../../x" }), "the content", ErrContent},
		{"digest is short", with(func(d *ocispec.Descriptor) { d.Digest = desc.Digest[:70] }), "the content", ErrContent},
		{"digest in capitals", with(func(d *ocispec.Descriptor) {
			d.Digest = digest.Digest("sha256:" + strings.ToUpper(desc.Digest.Encoded()))
		}), "the content", ErrContent},
		{"unknown algorithm", with(func(d *ocispec.Descriptor) { d.Digest = "md5:" + digest.Digest(strings.Repeat("0", 32)) }), "the content", ErrContent},
		{"sha512", with(func(d *ocispec.Descriptor) { d.Digest = digest.SHA512.FromBytes(good) }), "the content", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			err := s.Push(ctx, tt.desc, strings.NewReader(tt.body))
			if tt.want == nil && err != nil || !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if entries, _ := os.ReadDir(filepath.Join(s.dir, tempDir)); len(entries) != 0 {
				t.Errorf("%d temporary files left", len(entries))
			}
			if tt.want != nil {
				return
			}
			if err := s.Push(ctx, tt.desc, strings.NewReader("unread")); !errors.Is(err, ErrExists) {
				t.Errorf("push again: got %v, want ErrExists", err)
			}
			if got, err := content.FetchAll(ctx, s, tt.desc); err != nil || string(got) != tt.body {
				t.Errorf("got %q, %v, want %q", got, err, tt.body)
			}
		})
	}
}

func TestStoreDamage(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	raw := []byte("0123456789")
	desc := content.NewDescriptorFromBytes("text/plain", raw)
	if err := s.Push(ctx, desc, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	path, err := s.blobPath(desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("0123x56789"), 0o600); err != nil {
		t.Fatal(err)
	}
	rc, err := s.Fetch(ctx, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadAll(rc); !errors.Is(err, ErrContent) {
		t.Errorf("changed blob: got %v, want ErrContent", err)
	}
	if err := os.WriteFile(path, []byte("0123"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(ctx, desc); !errors.Is(err, ErrContent) {
		t.Errorf("truncated blob: got %v, want ErrContent", err)
	}
	if there, err := s.Exists(ctx, desc); err != nil || there {
		t.Errorf("truncated blob exists: got %v, %v, want false", there, err)
	}
	if err := s.Push(ctx, desc, bytes.NewReader(raw)); err != nil {
		t.Errorf("mend: %v", err)
	}
	if got, err := content.FetchAll(ctx, s, desc); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("mended: got %q, %v", got, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(ctx, desc); err == nil {
		t.Error("followed a link out of the store")
	}
}

func TestIngest(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	for range 2 { // the second finds the blob there
		in, err := s.Ingest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "streamed"); err != nil {
			t.Fatal(err)
		}
		desc, err := in.Commit(ctx, "text/plain")
		if want := content.NewDescriptorFromBytes("text/plain", []byte("streamed")); err != nil || !content.Equal(desc, want) {
			t.Fatalf("got %v, %v, want %v", desc, err, want)
		}
		if err := errors.Join(in.Close(), in.Close()); err != nil {
			t.Errorf("close after commit: %v", err)
		}
		if got, err := content.FetchAll(ctx, s, desc); err != nil || string(got) != "streamed" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	in, err := s.Ingest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(ctx, GCOptions{}); !errors.Is(err, ErrBusy) {
		t.Errorf("clean up while a blob is written: got %v, want ErrBusy", err)
	}
	if err := errors.Join(in.Close(), in.Close()); err != nil {
		t.Error(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	if in, err = s.Ingest(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := in.Commit(cancelled, "text/plain"); !errors.Is(err, context.Canceled) {
		t.Errorf("commit after the end: got %v, want Canceled", err)
	}
	result, err := s.GC(ctx, GCOptions{})
	if err != nil || result.TempFiles != 0 || result.Blobs != 1 {
		t.Errorf("got %+v, %v, want one blob and no temporary files", result, err)
	}
}

func TestGC(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	kept, dropped := mustImage(t, s, "kept", "shared"), mustImage(t, s, "dropped", "shared")
	mustTag(t, s, kept, "host.test/kept:1")
	mustTag(t, s, dropped, "host.test/dropped:1")
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{mustImage(t, s, "in an index")},
	})
	if err != nil {
		t.Fatal(err)
	}
	indexDesc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, index)
	if err := s.Push(ctx, indexDesc, bytes.NewReader(index)); err != nil {
		t.Fatal(err)
	}
	mustTag(t, s, indexDesc, "host.test/index:1")
	stale := filepath.Join(s.dir, tempDir, "blob-1.tmp")
	if err := os.WriteFile(stale, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(s.dir, "blobs", "sha256", "README")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.GC(ctx, GCOptions{MinAge: time.Hour}); err != nil || got != (GCResult{}) {
		t.Errorf("young files: got %+v, %v, want nothing", got, err)
	}
	if err := s.Untag(ctx, "host.test/dropped:1"); err != nil {
		t.Fatal(err)
	}
	dry, err := s.GC(ctx, GCOptions{DryRun: true})
	if err != nil || dry.Blobs != 3 || dry.TempFiles != 1 { // manifest, config, "dropped"
		t.Errorf("dry run: got %+v, %v, want 3 blobs and 1 file", dry, err)
	}
	if _, err := os.Stat(stale); err != nil {
		t.Errorf("dry run removed a file: %v", err)
	}
	if got, err := s.GC(ctx, GCOptions{}); err != nil || got != dry {
		t.Errorf("got %+v, %v, want %+v", got, err, dry)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("removed what is no blob: %v", err)
	}
	for _, desc := range []ocispec.Descriptor{kept, indexDesc} {
		nodes, err := graph(ctx, s, desc)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range nodes.blobs {
			if _, err := content.FetchAll(ctx, s, b); err != nil {
				t.Error(err)
			}
		}
	}
	path, err := s.blobPath(kept.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), int(kept.Size)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(ctx, GCOptions{}); !errors.Is(err, ErrContent) {
		t.Errorf("damaged manifest: got %v, want ErrContent", err)
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 2 || list[1].Err == nil {
		t.Errorf("list with a damaged manifest: got %+v, %v", list, err)
	}
}

func TestStoreProcesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	var running []*exec.Cmd
	for _, prefix := range []string{"a", "b"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), testTagsEnv+"="+dir, testTagsEnv+"_PREFIX="+prefix)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	s, err := OpenStore(t.Context(), dir, StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 2*childTags {
		t.Errorf("got %d names, %v, want %d", len(list), err, 2*childTags)
	}
	for _, n := range list {
		if n.Err != nil {
			t.Error(n.Err)
		}
	}
	// Another implementation reads the same layout.
	other, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Resolve(t.Context(), "host.test/a:49"); err != nil {
		t.Error(err)
	}
}
