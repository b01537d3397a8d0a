package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
	"github.com/ckarchive/ckarchive/test/env"
)

// TestNativeTravels pushes three generations, deletes the first in the registry, collects its garbage and copies the
// last to a second registry with skopeo.
func TestNativeTravels(t *testing.T) {
	env.Require(t, "docker-registry", "skopeo")
	ctx := t.Context()
	one, two := env.Registry(t, env.RegistryOptions{}), env.Registry(t, env.RegistryOptions{})
	client := registry.NewClient(registry.ClientOptions{PlainHTTP: true})
	store, err := registry.OpenStore(ctx, filepath.Join(t.TempDir(), "store"), registry.StoreOptions{Create: true})
	must(t, err)

	rng := rand.New(rand.NewPCG(1, 2))
	memory := make([]byte, 24<<20)
	for off := 0; off < len(memory); off += 16 {
		binary.LittleEndian.PutUint64(memory[off:], rng.Uint64())
	}
	var parent *artifact.Native
	var files []archivetest.File
	var descs []ocispec.Descriptor
	for i := range 3 {
		files = archivetest.WithMemory(t, memory)
		name := fmt.Sprintf("%s/c:v%d", one.Host, i)
		w, err := artifact.NewNativeWriter(ctx, store, artifact.NativeOptions{Tag: name, Parent: parent})
		must(t, err)
		defer w.Close()
		_, err = archive.Copy(ctx, w, archivetest.Source(files), archive.CopyOptions{})
		must(t, err)
		must(t, w.Commit(ctx))
		descs = append(descs, w.Descriptor())
		repository, err := client.Repository(name)
		must(t, err)
		copied, err := registry.Copy(ctx, repository, "", store, name, registry.CopyOptions{})
		must(t, err)
		if i > 0 && copied.Bytes > 1<<20 || copied.Descriptor.Digest != w.Descriptor().Digest {
			t.Errorf("generation %d: %d bytes were sent as %s, want less than a megabyte as %s", i, copied.Bytes, copied.Descriptor.Digest, w.Descriptor().Digest)
		}
		parent, err = artifact.OpenNative(ctx, store, w.Descriptor(), artifact.OpenOptions{})
		must(t, err)
		defer parent.Close()
		for off := rng.IntN(100) * 4096; off < len(memory); off += 100 * 4096 {
			memory[off+rng.IntN(4096)]++
		}
	}

	one.Delete(t, "c", descs[0].Digest.String())
	one.CollectGarbage(t)
	last := fmt.Sprintf("%s/c:v2", one.Host)
	command(t, "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+last, "docker://"+two.Host+"/d:v2")

	repository, err := client.Repository(two.Host + "/d:v2")
	must(t, err)
	desc, err := repository.Resolve(ctx, "v2")
	must(t, err)
	if desc.Digest != descs[2].Digest {
		t.Errorf("skopeo made %s of %s", desc.Digest, descs[2].Digest)
	}
	there, err := artifact.OpenCheckpoint(ctx, repository, desc, artifact.OpenOptions{})
	must(t, err)
	defer there.Close()
	blob, err := there.(archive.Opener).Open(ctx, archive.Image("pages-1.img"))
	must(t, err)
	page, want := make([]byte, 4096), withContent(files, archive.Image("pages-1.img"))
	for range 20 {
		off := rng.IntN(len(want)/4096) * 4096
		if _, err := blob.ReadAt(page, int64(off)); err != nil || !bytes.Equal(page, want[off:off+4096]) {
			t.Errorf("page at %d: another one, or %v", off, err)
		}
	}
	got, err := archivetest.Read(ctx, there)
	must(t, err)
	archivetest.Equal(t, got, files)
}

// withContent gives the content of one member.
func withContent(files []archivetest.File, name string) []byte {
	for _, f := range files {
		if f.Name == name {
			return f.Content
		}
	}
	return nil
}
