package artifact

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/ckarchive/ckarchive/archive"
)

// The types of manifest, config and layers.
var (
	ofOCI    = [3]string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip}
	ofDocker = [3]string{dockerManifest, dockerConfig, dockerLayer}
)

// baseOf puts an image of layers with one file each into a store. edits may change what its config and manifest say.
func baseOf(t *testing.T, store *memStore, types [3]string, files []string, edits ...func(*ocispec.Image, *ocispec.Manifest)) ocispec.Descriptor {
	t.Helper()
	config, m := ocispec.Image{}, ocispec.Manifest{MediaType: types[0]}
	m.SchemaVersion = 2
	for _, name := range files {
		var plain, packed bytes.Buffer
		w := tar.NewWriter(&plain)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}), w.Close()); err != nil {
			t.Fatal(err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain.Bytes()))
		z := must(archive.Compress(&packed, archive.Gzip))
		if _, err := z.Write(plain.Bytes()); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, put(t, store, types[2], packed.Bytes()))
	}
	for _, edit := range edits {
		edit(&config, &m)
	}
	m.Config = put(t, store, types[1], must(json.Marshal(config)))
	return put(t, store, m.MediaType, must(json.Marshal(m)))
}

func put(t *testing.T, store *memStore, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	desc := content.NewDescriptorFromBytes(mediaType, b)
	if err := store.Push(t.Context(), desc, bytes.NewReader(b)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Fatal(err)
	}
	return desc
}

// layersOf gives the names of the files in the layers, in their order.
func layersOf(t *testing.T, b *Base) ([]string, error) {
	t.Helper()
	var names []string
	err := b.Layers(t.Context(), func(layer io.Reader) error {
		h, err := tar.NewReader(layer).Next()
		if err == nil {
			names = append(names, h.Name)
		}
		return err
	})
	return names, err
}

func TestBase(t *testing.T) {
	store, want := newMem(), []string{"lowest", "middle", "highest"}
	oci, docker := baseOf(t, store, ofOCI, want), baseOf(t, store, ofDocker, want)
	platform := func(d ocispec.Descriptor, arch string) ocispec.Descriptor {
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		return d
	}
	index := func(mediaType string, d ocispec.Descriptor) ocispec.Descriptor {
		other := baseOf(t, store, ofOCI, []string{"of another machine"})
		return put(t, store, mediaType, must(json.Marshal(ocispec.Index{MediaType: mediaType, Manifests: []ocispec.Descriptor{platform(other, "mips"), platform(d, runtime.GOARCH)}})))
	}
	for name, desc := range map[string]ocispec.Descriptor{
		"OCI": oci, "Docker": docker, "in an index": index(ocispec.MediaTypeImageIndex, oci), "in a manifest list": index(dockerManifestList, docker),
	} {
		b, err := OpenBase(t.Context(), store, desc)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := layersOf(t, b); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: layers %q, %v, want %q", name, got, err, want)
		}
	}
	b := must(OpenBase(t.Context(), store, oci))
	layers := []string{}
	for _, id := range b.config.RootFS.DiffIDs {
		layers = append(layers, id.String())
	}
	for name, tt := range map[string]struct {
		from archive.Base
		says string
	}{
		"not known":               {},
		"a name says nothing":     {archive.Base{Image: "x"}, ""},
		"its ID":                  {archive.Base{ImageID: b.ID().String()}, ""},
		"its ID as engines write": {archive.Base{ImageID: b.ID().Encoded()}, ""},
		"another ID":              {archive.Base{ImageID: strings.Repeat("1", 64)}, "its ID is"},
		"its layers, another ID":  {archive.Base{ImageID: strings.Repeat("1", 64), DiffIDs: layers}, ""},
		"its ID, other layers":    {archive.Base{ImageID: b.ID().String(), DiffIDs: layers[:2]}, "other layers"},
		"its manifest":            {archive.Base{Manifest: oci.Digest.String()}, ""},
		"another manifest":        {archive.Base{Manifest: docker.Digest.String()}, "its manifest is"},
	} {
		if got := b.Differs(tt.from); (tt.says == "") != (got == "") || !strings.Contains(got, tt.says) {
			t.Errorf("%s: it differs in %q, want %q", name, got, tt.says)
		}
	}
}

func TestBaseRejects(t *testing.T) {
	for name, edit := range map[string]func(*ocispec.Image, *ocispec.Manifest){
		"a layer that the config does not know": func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs[1] = i.RootFS.DiffIDs[0] },
		"a layer too few":                       func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers = m.Layers[:1] },
		"a layer that is no tar":                func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].MediaType = "text/plain" },
	} {
		store := newMem()
		b, err := OpenBase(t.Context(), store, baseOf(t, store, ofOCI, []string{"a", "b"}, edit))
		if err == nil {
			_, err = layersOf(t, b)
		}
		if !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: %v, want ErrRejected", name, err)
		}
	}
	store := newMem()
	other := [3]string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeEmptyJSON, ocispec.MediaTypeImageLayer}
	if _, err := OpenBase(t.Context(), store, baseOf(t, store, other, nil)); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("an artifact: %v, want ErrRejected", err)
	}
}
