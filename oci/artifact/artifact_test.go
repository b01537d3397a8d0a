package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"github.com/ckarchive/ckarchive/archive"
)

// memStore is an Ingester in memory.
type memStore struct {
	*memory.Store
	held int
}

func newMem() *memStore { return &memStore{Store: memory.New()} }

func (m *memStore) Ingest(context.Context) (BlobWriter, error) { return &memBlob{store: m}, nil }

func (m *memStore) Hold(context.Context) (io.Closer, error) {
	m.held++
	return closeFunc(func() error { m.held--; return nil }), nil
}

func (m *memStore) OpenBlob(ctx context.Context, desc ocispec.Descriptor) (interface {
	io.ReaderAt
	io.Closer
	Size() int64
}, error,
) {
	raw, err := content.FetchAll(ctx, m, desc)
	return memReader{bytes.NewReader(raw)}, err
}

type memReader struct{ *bytes.Reader }

func (memReader) Close() error { return nil }

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

type memBlob struct {
	bytes.Buffer
	store  *memStore
	closed bool
}

func (b *memBlob) Commit(ctx context.Context, mediaType string) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, b.Bytes())
	if there, err := b.store.Exists(ctx, desc); err != nil || there {
		return desc, err
	}
	return desc, b.store.Push(ctx, desc, bytes.NewReader(b.Bytes()))
}

func (b *memBlob) Close() error { b.closed = true; return nil }

// file is one member of a test checkpoint.
type file struct{ name, body string }

func testMetadata(t testing.TB) string {
	t.Helper()
	m := archive.Metadata{
		FormatVersion: 1, Format: archive.FormatCRIU, Tool: "ckarchive/test",
		Created: time.Date(2026, 11, 21, 6, 0, 0, 123456789, time.UTC),
		CRIU:    "4.2.1",
		Container: archive.Container{
			ID: strings.Repeat("a", 64), Name: "web", Engine: "podman",
			Runtime: archive.Runtime{Name: "runc", Version: "runc version 1.1.5"},
		},
		Host: archive.Host{Architecture: "amd64", Kernel: "6.18.0", CgroupVersion: "v1", Distribution: "debian", Version: "12"},
		Base: &archive.Base{Image: "host.test/base:1", ImageID: "sha256:" + strings.Repeat("b", 64), Manifest: "sha256:" + strings.Repeat("c", 64)},
	}
	raw, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func sample(t testing.TB) []file {
	return []file{
		{archive.ConfigDump, `{"id":"x","name":"other"}`},
		{archive.SpecDump, `{"annotations":{"io.kubernetes.cri.sandbox-name":"pod1"}}`},
		{archive.MetadataFile, testMetadata(t)},
		{"checkpoint/inventory.img", "inventory"},
		{"checkpoint/pages-1.img", strings.Repeat("page", 100_000)},
	}
}

func putAll(t testing.TB, sink archive.Sink, files []file) {
	t.Helper()
	for _, f := range files {
		e := archive.Entry{Name: f.name, Size: int64(len(f.body)), ModTime: time.Unix(1, 0)}
		if err := sink.Put(t.Context(), e, strings.NewReader(f.body)); err != nil {
			t.Fatal(err)
		}
	}
}

func writeImage(t testing.TB, store *memStore, files []file, opts WriterOptions) ocispec.Descriptor {
	t.Helper()
	w, err := NewWriter(t.Context(), store, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	putAll(t, w, files)
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w.Descriptor()
}

// readAll gives the members of a source as text.
func readAll(ctx context.Context, src archive.Source) (string, error) {
	var b strings.Builder
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
		fmt.Fprintf(&b, "%s %d\n", e.Name, e.Size)
		if r != nil {
			if _, err := io.Copy(&b, r); err != nil {
				return b.String(), err
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	ctx := t.Context()
	var plain bytes.Buffer
	tw := archive.NewWriter(&plain)
	putAll(t, tw, sample(t))
	if err := tw.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	src, err := archive.NewReader(bytes.NewReader(plain.Bytes()), archive.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := readAll(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	for _, compression := range archive.Compressions {
		t.Run(string(compression), func(t *testing.T) {
			store := newMem()
			desc := writeImage(t, store, sample(t), WriterOptions{Compression: compression, Tag: "host.test/web:1"})
			if again := writeImage(t, newMem(), sample(t), WriterOptions{Compression: compression}); again.Digest != desc.Digest {
				t.Errorf("written again: got %s, want %s", again.Digest, desc.Digest)
			}
			if store.held != 0 {
				t.Errorf("the store is still held %d times", store.held)
			}
			if got, err := store.Resolve(ctx, "host.test/web:1"); err != nil || got.Digest != desc.Digest {
				t.Errorf("tag: got %v, %v, want %v", got.Digest, err, desc.Digest)
			}
			img, err := Open(ctx, store, desc)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if got, err := readAll(ctx, img); err != nil || got != want {
				t.Errorf("members differ, or %v", err)
			}
			if got, want := img.Config().RootFS.DiffIDs[0], digest.FromBytes(plain.Bytes()); got != want {
				t.Errorf("diff ID: got %s, want that of the universal tar %s", got, want)
			}
			raw, err := content.FetchAll(ctx, store, img.Layer())
			if err != nil {
				t.Fatal(err)
			}
			unpacked, _, err := archive.Decompress(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(unpacked); err != nil || !bytes.Equal(got, plain.Bytes()) {
				t.Errorf("the layer is not the universal tar: %d bytes, %v, want %d", len(got), err, plain.Len())
			}
		})
	}
}

func TestAnnotations(t *testing.T) {
	store := newMem()
	img, err := Open(t.Context(), store, writeImage(t, store, sample(t), WriterOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"org.criu.checkpoint.container.name":                         "web",
		"org.criu.checkpoint.engine.name":                            "podman",
		"org.criu.checkpoint.criu.version":                           "40201",
		"org.criu.checkpoint.host.arch":                              "amd64",
		"org.criu.checkpoint.pod.name":                               "pod1",
		"org.criu.checkpoint.rootfsImageID":                          strings.Repeat("b", 64),
		"io.kubernetes.cri-o.annotations.checkpoint.name":            "web",
		"io.podman.annotations.checkpoint.runtime.name":              "runc",
		"io.podman.annotations.checkpoint.host.kernel":               "6.18.0",
		"io.podman.annotations.checkpoint.cgroups.version":           "v1",
		"io.podman.annotations.checkpoint.rootfsImageName":           "host.test/base:1",
		"org.opencontainers.image.base.digest":                       "sha256:" + strings.Repeat("c", 64),
		"org.opencontainers.image.created":                           "2026-11-21T06:00:00.123456789Z",
		"io.kubernetes.cri-o.annotations.checkpoint.rootfsImageName": "host.test/base:1",
	}
	for key, value := range want {
		if got := img.Annotations()[key]; got != value {
			t.Errorf("%s: got %q, want %q", key, got, value)
		}
	}
	if got := img.Config(); got.Architecture != "amd64" || got.OS != "linux" || !got.Created.Equal(time.Date(2026, 11, 21, 6, 0, 0, 123456789, time.UTC)) {
		t.Errorf("config: got %+v", got)
	}
}

// TestForeignMetadata makes an image of what another engine wrote.
func TestForeignMetadata(t *testing.T) {
	store := newMem()
	files := []file{
		{archive.ConfigDump, `{"id":"f00","name":"looper","runtime":"crun","rootfsImageName":"host.test/loop:2","rootfsImageID":"abc","checkpointedTime":"2026-01-02T03:04:05Z"}`},
		{archive.SpecDump, `{"annotations":{"io.container.manager":"libpod"}}`},
		{"checkpoint/inventory.img", "x"},
	}
	img, err := Open(t.Context(), store, writeImage(t, store, files, WriterOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		podmanName: "looper", podmanRuntimeName: "crun", podmanRootfsImageID: "abc",
		"org.criu.checkpoint.engine.name":  "podman",
		"org.opencontainers.image.created": "2026-01-02T03:04:05Z",
	} {
		if got := img.Annotations()[key]; got != value {
			t.Errorf("%s: got %q, want %q", key, got, value)
		}
	}
	if img, err = Open(t.Context(), store, writeImage(t, store, files[2:], WriterOptions{})); err != nil {
		t.Fatal(err)
	}
	for _, key := range recognise() {
		if img.Annotations()[key] == "" {
			t.Errorf("without any metadata: %s is missing", key)
		}
	}
}

func TestCRIUNumber(t *testing.T) {
	for version, want := range map[string]string{"4.2.1": "40201", "3.17": "31700", "40201": "40201", "": "", "4.x": "4.x", "4.2-rc1": "4.2-rc1", "1.100.1": "1.100.1"} {
		if got := criuNumber(version); got != want {
			t.Errorf("criuNumber(%q): got %q, want %q", version, got, want)
		}
	}
}

func TestWriterWithoutCommit(t *testing.T) {
	ctx := t.Context()
	store := newMem()
	w, err := NewWriter(ctx, store, WriterOptions{Tag: "x"})
	if err != nil {
		t.Fatal(err)
	}
	layer, _ := w.layer.blob.(*memBlob)
	putAll(t, w, sample(t))
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	if !layer.closed || store.held != 0 {
		t.Errorf("layer closed %v, store held %d times", layer.closed, store.held)
	}
	if _, err := store.Resolve(ctx, "x"); err == nil {
		t.Error("the name is there without Commit")
	}
	if err := w.Commit(ctx); err == nil {
		t.Error("commit after close succeeded")
	}
	for name, files := range map[string][]file{
		"damaged metadata": {{archive.MetadataFile, "{"}, {"checkpoint/inventory.img", "x"}},
		"duplicate keys":   {{archive.ConfigDump, `{"name":"a","Name":"b"}`}, {"checkpoint/inventory.img", "x"}},
		"no images":        {{archive.ConfigDump, `{"name":"a"}`}},
	} {
		if w, err = NewWriter(ctx, store, WriterOptions{Tag: "x"}); err != nil {
			t.Fatal(err)
		}
		putAll(t, w, files)
		if err := w.Commit(ctx); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrRejected", name, err)
		}
		if _, err := store.Resolve(ctx, "x"); err == nil {
			t.Errorf("%s: the name is there", name)
		}
	}
}

// image pushes a manifest made by hand.
func image(t testing.TB, store *memStore, edit func(*ocispec.Manifest, *ocispec.Image)) ocispec.Descriptor {
	t.Helper()
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Name: "config.dump", Size: 2, Mode: 0o600}), write(tw, "{}"), tw.Close()); err != nil {
		t.Fatal(err)
	}
	push := func(mediaType string, raw []byte) ocispec.Descriptor {
		desc := content.NewDescriptorFromBytes(mediaType, raw)
		if there, _ := store.Exists(t.Context(), desc); there {
			return desc
		}
		if err := store.Push(t.Context(), desc, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers:      []ocispec.Descriptor{push(ocispec.MediaTypeImageLayer, layer.Bytes())},
		Annotations: map[string]string{podmanName: "c1"},
	}
	config := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}}}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	edit(&m, &config)
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = push(m.Config.MediaType, raw)
	if raw, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return push(m.MediaType, raw)
}

func write(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

func TestOpen(t *testing.T) {
	type m = *ocispec.Manifest
	type c = *ocispec.Image
	tests := []struct {
		name string
		edit func(m, c)
		want error
		text string
	}{
		{"podman", func(m, c) {}, nil, ""},
		{"cri-o", func(m m, _ c) { m.Annotations = map[string]string{crioName: "c"} }, nil, ""},
		{"containerd", func(m m, _ c) { m.Annotations = map[string]string{"org.criu.checkpoint.container.name": "c"} }, nil, ""},
		{"own type without annotations", func(m m, _ c) { m.ArtifactType, m.Annotations = Type, nil }, nil, ""},
		{"empty config", func(m m, _ c) { m.Config.MediaType = ocispec.MediaTypeEmptyJSON }, nil, ""},
		{"ordinary image", func(m m, _ c) { m.Annotations = nil }, archive.ErrNotArchive, `not a checkpoint image (type "ordinary image")`},
		{
			"helm chart", func(m m, _ c) { m.Annotations, m.Config.MediaType = nil, "application/vnd.cncf.helm.config.v1+json" },
			archive.ErrNotArchive, `not a checkpoint image (type "application/vnd.cncf.helm.config.v1+json")`,
		},
		{"another artifact", func(m m, _ c) { m.ArtifactType = "application/x" }, archive.ErrNotArchive, `(type "application/x")`},
		{"two layers", func(m m, _ c) { m.Layers = append(m.Layers, m.Layers[0]) }, archive.ErrRejected, "this has 2"},
		{"no tar", func(m m, _ c) { m.Layers[0].MediaType = "text/plain" }, archive.ErrRejected, "which is no tar"},
		{"two diff IDs", func(_ m, c c) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, c.RootFS.DiffIDs[0]) }, archive.ErrRejected, "config lists 2"},
		{"another diff ID", func(_ m, c c) { c.RootFS.DiffIDs[0] = digest.FromString("x") }, archive.ErrRejected, "the config says"},
		{"type says gzip", func(m m, _ c) {
			m.Layers[0] = content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayerGzip, []byte("no gzip"))
		}, archive.ErrRejected, "holds none data"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			store := newMem()
			if err := store.Push(t.Context(), content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayerGzip, []byte("no gzip")), strings.NewReader("no gzip")); err != nil {
				t.Fatal(err)
			}
			img, err := Open(t.Context(), store, image(t, store, tt.edit))
			if err == nil {
				defer img.Close()
				_, err = readAll(t.Context(), img)
			}
			if tt.want == nil && err != nil || !errors.Is(err, tt.want) || tt.want != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestOpenIndex(t *testing.T) {
	ctx := t.Context()
	store := newMem()
	desc := image(t, store, func(*ocispec.Manifest, *ocispec.Image) {})
	other := desc
	other.Platform = &ocispec.Platform{OS: "plan9", Architecture: "mips"}
	index := func(descs ...ocispec.Descriptor) ocispec.Descriptor {
		raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: descs})
		if err != nil {
			t.Fatal(err)
		}
		d := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, raw)
		if err := store.Push(ctx, d, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	one := index(other, desc)
	two := index(one)
	for _, d := range []ocispec.Descriptor{one, two} {
		if img, err := Open(ctx, store, d); err != nil || img.Descriptor().Digest != desc.Digest {
			t.Errorf("got %v, want %s", err, desc.Digest)
		}
	}
	for name, d := range map[string]ocispec.Descriptor{"too deep": index(two), "none fits": index(other), "two fit": index(desc, desc)} {
		if _, err := Open(ctx, store, d); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrRejected", name, err)
		}
	}
}

// tampered gives other bytes for one digest.
type tampered struct {
	content.Fetcher
	digest digest.Digest
	change func([]byte) []byte
}

func (f tampered) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := f.Fetcher.Fetch(ctx, desc)
	if err != nil || desc.Digest != f.digest {
		return rc, err
	}
	raw, err := io.ReadAll(rc)
	return io.NopCloser(bytes.NewReader(f.change(raw))), err
}

func TestTamperedLayer(t *testing.T) {
	ctx := t.Context()
	for _, compression := range archive.Compressions {
		store := newMem()
		desc := writeImage(t, store, sample(t), WriterOptions{Compression: compression})
		img, err := Open(ctx, store, desc)
		if err != nil {
			t.Fatal(err)
		}
		layer := img.Layer().Digest
		for name, change := range map[string]func([]byte) []byte{
			"changed byte": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"truncated":    func(b []byte) []byte { return b[:len(b)-10] },
			"longer":       func(b []byte) []byte { return append(b, make([]byte, 512)...) },
		} {
			img, err := Open(ctx, tampered{store, layer, change}, desc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(ctx, img); !errors.Is(err, archive.ErrRejected) {
				t.Errorf("%s, %s: got %v, want ErrRejected", compression, name, err)
			}
			if err := errors.Join(img.Close(), img.Close()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if _, err := Open(ctx, tampered{store, desc.Digest, func(b []byte) []byte { return bytes.ToUpper(b) }}, desc); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("manifest: got %v, want ErrRejected", err)
		}
	}
}
