package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
)

// tarOf is a layer with one file of the name.
func tarOf(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// testBase is an ordinary image in a store, and the way to change it before it is there.
type testBase struct {
	t        *testing.T
	store    *memStore
	config   ocispec.Image
	manifest ocispec.Manifest
}

func newTestBase(t *testing.T) *testBase {
	t.Helper()
	b := &testBase{t: t, store: newMem(), manifest: ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}}
	for i, name := range []string{"low", "top"} {
		plain := tarOf(t, name)
		packed, kind := plain, ocispec.MediaTypeImageLayer
		if i == 0 {
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			_, err := w.Write(plain)
			if err := errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			packed, kind = z.Bytes(), "application/vnd.docker.image.rootfs.diff.tar.gzip"
		}
		b.manifest.Layers = append(b.manifest.Layers, b.push(kind, packed))
		b.config.RootFS.DiffIDs = append(b.config.RootFS.DiffIDs, digest.FromBytes(plain))
	}
	return b
}

func (b *testBase) push(kind string, raw []byte) ocispec.Descriptor {
	b.t.Helper()
	desc := content.NewDescriptorFromBytes(kind, raw)
	if err := b.store.Push(b.t.Context(), desc, bytes.NewReader(raw)); err != nil {
		b.t.Fatal(err)
	}
	return desc
}

func (b *testBase) json(kind string, v any) ocispec.Descriptor {
	b.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.push(kind, raw)
}

func TestBaseImage(t *testing.T) {
	for name, kinds := range map[string][3]string{
		"OCI":    {ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex},
		"Docker": {dockerConfig, dockerManifest, dockerList},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestBase(t)
			b.manifest.Config = b.json(kinds[0], b.config)
			manifest := b.json(kinds[1], b.manifest)
			manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
			other := manifest
			other.Platform = &ocispec.Platform{OS: "linux", Architecture: "none"}
			index := b.json(kinds[2], ocispec.Index{Manifests: []ocispec.Descriptor{other, manifest}})
			for _, desc := range []ocispec.Descriptor{manifest, index} {
				image, err := OpenBase(t.Context(), b.store, desc)
				if err != nil {
					t.Fatal(err)
				}
				want := archive.Base{ImageID: b.manifest.Config.Digest.String(), Manifest: manifest.Digest.String()}
				if got := image.Base(); !want.Same(got) || got.Manifest != want.Manifest || len(got.DiffIDs) != 2 {
					t.Errorf("base %+v, want %+v with two layers", got, want)
				}
				if got, want := layersOf(t, image), []string{"low", "top"}; !slices.Equal(got, want) {
					t.Errorf("layers hold %q, want %q", got, want)
				}
			}
		})
	}
}

// layersOf reads the first entry of each layer and leaves the rest.
func layersOf(t *testing.T, image *BaseImage) []string {
	t.Helper()
	var names []string
	err := image.Layers(t.Context(), func(_ context.Context, r io.Reader) error {
		h, err := tar.NewReader(r).Next()
		if err == nil {
			names = append(names, h.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestBaseImageRejects(t *testing.T) {
	for name, change := range map[string]func(*testBase){
		"a checkpoint": func(b *testBase) { b.manifest.ArtifactType = Type },
		"a checkpoint of an engine": func(b *testBase) {
			b.manifest.Annotations = map[string]string{recognise()[0]: "x"}
		},
		"a layer without a digest": func(b *testBase) { b.config.RootFS.DiffIDs = b.config.RootFS.DiffIDs[:1] },
		"no layers":                func(b *testBase) { b.config.RootFS.DiffIDs, b.manifest.Layers = nil, nil },
		"no digest":                func(b *testBase) { b.config.RootFS.DiffIDs[1] = "sha256:x" },
		"other content":            func(b *testBase) { b.config.RootFS.DiffIDs[1] = digest.FromString("x") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestBase(t)
			change(b)
			b.manifest.Config = b.json(ocispec.MediaTypeImageConfig, b.config)
			image, err := OpenBase(t.Context(), b.store, b.json(ocispec.MediaTypeImageManifest, b.manifest))
			if err == nil {
				err = image.Layers(t.Context(), func(context.Context, io.Reader) error { return nil })
			}
			if !errors.Is(err, archive.ErrRejected) {
				t.Errorf("error %v, want %v", err, archive.ErrRejected)
			}
		})
	}
}

func TestBaseImageLayerError(t *testing.T) {
	b := newTestBase(t)
	b.manifest.Config = b.json(ocispec.MediaTypeImageConfig, b.config)
	image, err := OpenBase(t.Context(), b.store, b.json(ocispec.MediaTypeImageManifest, b.manifest))
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	if err := image.Layers(t.Context(), func(context.Context, io.Reader) error { return full }); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
}
