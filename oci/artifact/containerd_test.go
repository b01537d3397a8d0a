package artifact_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

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
	if m.Container.Engine != foreign.Containerd || m.Container.Runtime.Name != "runc" || m.Container.ID != "" {
		t.Errorf("container: got %+v", m.Container)
	}
	if got, want := foreign.Missing(m), []string{"the container's ID", "the container's name"}; !slices.Equal(got, want) {
		t.Errorf("missing: got %q, want %q", got, want)
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
