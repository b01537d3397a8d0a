package artifact_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
)

const ctrFile = "testdata/ctr-checkpoint.tar"

// openContainerd opens the checkpoint that containerd's client made.
func openContainerd(t *testing.T) *artifact.Containerd {
	t.Helper()
	from, err := registry.OpenStoreArchive(t.Context(), ctrFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.Close() })
	desc, err := from.Resolve(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.Open(t.Context(), from, desc); !errors.Is(err, artifact.ErrContainerd) {
		t.Fatalf("Open: got %v, want ErrContainerd", err)
	}
	src, err := artifact.OpenContainerd(t.Context(), from, desc)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestContainerdClient(t *testing.T) {
	src, err := foreign.Open(t.Context(), func(context.Context) (archive.Source, error) { return openContainerd(t), nil }, foreign.Options{Digests: true})
	if err != nil {
		t.Fatal(err)
	}
	files, err := archivetest.Read(t.Context(), src)
	if err := errors.Join(err, src.Close()); err != nil {
		t.Fatal(err)
	}
	at := func(name string) archivetest.File {
		i := slices.IndexFunc(files, func(f archivetest.File) bool { return f.Name == name })
		if i < 0 {
			t.Fatalf("no %s", name)
		}
		return files[i]
	}
	if spec := string(at(archive.SpecDump).Content); !strings.HasPrefix(spec, `{"ociVersion":"1.3.0"`) {
		t.Errorf("spec: %.60s", spec)
	}
	if got, want := len(at(archive.Image("pages-1.img")).Content), 77824; got != want {
		t.Errorf("pages: got %d bytes, want %d", got, want)
	}
	if got, want := len(at(archive.RootfsDiff).Content), 271; got != want {
		t.Errorf("root file system: got %d bytes, want %d", got, want)
	}
	m, err := archive.ParseMetadata(at(archive.MetadataFile).Content)
	if err != nil {
		t.Fatal(err)
	}
	want := archive.Base{
		Image:    "localhost/base:2",
		ImageID:  "d1591b24492ebeeeea049ba4fb2b667ed09170791013ad2d844f6af5674e99d9",
		Manifest: "sha256:b1177a5004e27d70a92614e944b062f5bb66095f61f4433f02e2fc06f7a668c4",
	}
	if m.Base == nil || m.Base.Image != want.Image || m.Base.ImageID != want.ImageID || m.Base.Manifest != want.Manifest {
		t.Errorf("base: got %+v, want %+v", m.Base, want)
	}
	if m.Container.Engine != foreign.Containerd || m.Container.Runtime.Name != "runc" || m.Container.ID != "" || m.Container.Name != "" {
		t.Errorf("container: got %+v", m.Container)
	}
}

func TestContainerdContract(t *testing.T) {
	src := openContainerd(t)
	want, err := archivetest.Read(t.Context(), src)
	if err := errors.Join(err, src.Close()); err != nil {
		t.Fatal(err)
	}
	archivetest.TestSource(t, func(t *testing.T) archive.Source { return openContainerd(t) }, want)
}

// An index for containerd's client has all that the client's own has, and the universal image.
func TestContainerdWriter(t *testing.T) {
	store, err := registry.OpenStore(t.Context(), t.TempDir(), registry.StoreOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func() ocispec.Descriptor {
		w, err := artifact.NewContainerdWriter(t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		known := foreign.Known{ID: "c7", Name: "seven"}
		src, err := foreign.Convert(t.Context(), func(ctx context.Context) (archive.Source, error) {
			return foreign.Open(ctx, func(context.Context) (archive.Source, error) { return openContainerd(t), nil }, foreign.Options{Known: known, Digests: true})
		}, foreign.ConvertOptions{Target: foreign.ForAll, Known: known})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Copy(t.Context(), w, src, archive.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(src.Close(), w.Commit(t.Context()), w.Close()); err != nil {
			t.Fatal(err)
		}
		return w.Descriptor()
	}
	desc := write()
	if again := write(); again.Digest != desc.Digest {
		t.Errorf("written twice: %s and %s", desc.Digest, again.Digest)
	}
	raw, err := content.FetchAll(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	types := []string{}
	for _, d := range index.Manifests {
		types = append(types, d.MediaType)
	}
	if want := []string{
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageLayerGzip,
		"application/vnd.containerd.container.criu.checkpoint.criu.tar",
		"application/vnd.containerd.container.checkpoint.config.v1+proto",
	}; !slices.Equal(types, want) {
		t.Errorf("parts: got %q, want %q", types, want)
	}
	for key, want := range map[string]string{
		"io.containerd.checkpoint.runtime": "io.containerd.runc.v2", "io.containerd.checkpoint.snapshotter": "overlayfs",
		"org.opencontainers.image.ref.name": "localhost/base:2", "org.criu.checkpoint.container.name": "seven",
	} {
		if got := index.Annotations[key]; got != want {
			t.Errorf("annotation %s: got %q, want %q", key, got, want)
		}
	}
	// The universal image is found in it.
	image, err := artifact.Open(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := archive.Verify(t.Context(), image, archive.CopyOptions{}); err != nil || !rep.Proven || rep.Metadata.Container.Name != "seven" {
		t.Errorf("universal image: %+v, %v", rep, err)
	}
	// And so is the client's own reading of it, without what makes it universal.
	index.Annotations = map[string]string{"org.opencontainers.image.ref.name": "localhost/base:2", "io.containerd.checkpoint.runtime": "io.containerd.runc.v2"}
	index.Manifests = index.Manifests[1:]
	raw, err = json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	plain := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, raw)
	if err := store.Push(t.Context(), plain, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	client, err := artifact.OpenContainerd(t.Context(), store, plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := archivetest.Read(t.Context(), client)
	if err := errors.Join(err, client.Close()); err != nil {
		t.Fatal(err)
	}
	original := openContainerd(t)
	want, err := archivetest.Read(t.Context(), original)
	if err := errors.Join(err, original.Close()); err != nil {
		t.Fatal(err)
	}
	for _, f := range want {
		if !strings.HasPrefix(f.Name, archive.CheckpointDir+"/") {
			continue
		}
		if !slices.ContainsFunc(got, func(g archivetest.File) bool { return g.Name == f.Name && bytes.Equal(g.Content, f.Content) }) {
			t.Errorf("%s is not what it was", f.Name)
		}
	}
}
