package foreign_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

func opening(path string) foreign.OpenFunc {
	return func(context.Context) (archive.Source, error) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return archive.OpenDir(path, archive.DirOptions{})
		}
		return archive.OpenFile(path, archive.ReaderOptions{})
	}
}

func open(t *testing.T, path string, opts foreign.Options) archive.Source {
	t.Helper()
	src, err := foreign.Open(t.Context(), opening(path), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src
}

func metadataOf(t *testing.T, src archive.Source) *archive.Metadata {
	t.Helper()
	head, _, err := archive.Peek(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	m, err := archive.ParseMetadata(head[archive.MetadataFile])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEngines(t *testing.T) {
	const (
		baseID1 = "ae32e3d0002e062b80a8c40b7c291175cb9231e9451ba8d7c79b1fde681a87a1"
		baseID2 = "d1591b24492ebeeeea049ba4fb2b667ed09170791013ad2d844f6af5674e99d9"
	)
	for _, test := range []struct {
		file, engine, id, name string
		created                time.Time
		base                   archive.Base
		memory                 int64
		criu, arch             string
	}{
		{
			"podman-hostnet.tar.zst", foreign.Podman, "8c1661bf32943cfbe6adf4ba29a65f6f7c7f19a9c4efca8e1fec09597e6f3ca5", "hn",
			time.Date(2026, 11, 21, 6, 46, 50, 0, time.UTC),
			archive.Base{Image: "localhost/base:2", ImageID: baseID2},
			139264, "", "",
		},
		{
			"podman-volume.tar.zst", foreign.Podman, "5fdca688ad91c66c99dcae2bc41dd94532ccb6d5251672970a1c1886114bb4b4", "c1",
			time.Date(2026, 11, 21, 6, 9, 41, 0, time.UTC),
			archive.Base{Image: "localhost/base:1", ImageID: baseID1},
			139264, "", "",
		},
		{
			"crio.tar.zst", foreign.CRIO, "d5caae8591b9bef5c070b269545e5b1cd4d15e1ec120aacda982ace734379e53", "k8s_k1_q1_default_uid-q1_0",
			time.Date(2026, 11, 21, 6, 27, 17, 311494725, time.UTC),
			archive.Base{Image: "localhost/base:1", ImageID: baseID1},
			135168, "4.2.1", "amd64",
		},
		{
			"containerd-cri.tar.zst", foreign.Containerd, "58e4ce31375a4b7fe2d9027022699c5550ae64ba180322276d41fb4114cd1d58", "k1_p1_default_uid-p1_0",
			time.Date(2026, 11, 21, 6, 20, 21, 862486157, time.UTC),
			archive.Base{Image: "localhost/base:1", ImageID: baseID1},
			143360, "4.2.1", "amd64",
		},
	} {
		t.Run(test.file, func(t *testing.T) {
			m := metadataOf(t, open(t, filepath.Join("testdata", test.file), foreign.Options{}))
			c := m.Container
			if c.Engine != test.engine || c.ID != test.id || c.Name != test.name || c.Runtime.Name != "runc" || c.Processes != 2 || c.MemoryBytes != test.memory {
				t.Errorf("container: got %+v", c)
			}
			if !m.Created.Equal(test.created) || m.Tool != test.engine || m.Format != archive.FormatCRIU {
				t.Errorf("created %s by %s, format %s", m.Created, m.Tool, m.Format)
			}
			if m.Base == nil || m.Base.Image != test.base.Image || m.Base.ImageID != test.base.ImageID {
				t.Errorf("base: got %+v, want %+v", m.Base, test.base)
			}
			if m.CRIU != test.criu || m.Host.Architecture != test.arch {
				t.Errorf("criu %q on %q, want %q on %q", m.CRIU, m.Host.Architecture, test.criu, test.arch)
			}
			if m.Stats == nil || m.Stats.FrozenTime == 0 || m.Stats.PagesWritten == 0 {
				t.Errorf("stats: got %+v", m.Stats)
			}
			if m.Container.ID == "" || m.Container.Name == "" {
				t.Errorf("container: got %+v", m.Container)
			}
		})
	}
}

// Every engine's archive comes in the order of ours, whole, and proves itself only if it was
// given digests.
func TestOrder(t *testing.T) {
	files, err := filepath.Glob("testdata/*.tar.zst")
	if err != nil || len(files) < 4 {
		t.Fatalf("test data: %q, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			stored := map[string][]byte{}
			src, err := opening(file)(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			list, err := archivetest.Read(t.Context(), src)
			if err := errors.Join(err, src.Close()); err != nil {
				t.Fatal(err)
			}
			for _, f := range list {
				stored[f.Name] = f.Content
			}
			got, err := archivetest.Read(t.Context(), open(t, file, foreign.Options{}))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.IsSortedFunc(got, func(a, b archivetest.File) int {
				if archive.Less(a.Name, b.Name) {
					return -1
				}
				return 1
			}) {
				t.Error("the members are not in the archive's order")
			}
			for _, f := range got {
				want, ok := stored[f.Name]
				if ok && !bytes.Equal(f.Content, want) {
					t.Errorf("%s: %d bytes, want %d", f.Name, len(f.Content), len(want))
				}
				delete(stored, f.Name)
			}
			if len(stored) > 0 {
				t.Errorf("lost: %d members", len(stored))
			}
			for _, digests := range []bool{false, true} {
				rep, err := archive.Verify(t.Context(), open(t, file, foreign.Options{Digests: digests}), archive.CopyOptions{})
				if err != nil || rep.Proven != digests {
					t.Errorf("digests %v: proven %v, %v", digests, rep.Proven, err)
				}
			}
		})
	}
}

// sumOf is the digest of the archive that a source becomes.
func sumOf(t *testing.T, src archive.Source) [32]byte {
	t.Helper()
	h := sha256.New()
	w := archive.NewWriter(h)
	if _, err := archive.Copy(t.Context(), w, src, archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// The same checkpoint is the same archive: packed in another way, in another order, unpacked, and
// read once more from what it became.
func TestSameBytes(t *testing.T) {
	const file = "testdata/crio.tar.zst"
	want := sumOf(t, open(t, file, foreign.Options{Digests: true}))
	dir := filepath.Join(t.TempDir(), "dir")
	unpack(t, dir, open(t, file, foreign.Options{}))
	if err := os.Remove(filepath.Join(dir, archive.MetadataFile)); err != nil {
		t.Fatal(err)
	}
	if got := sumOf(t, open(t, dir, foreign.Options{Digests: true})); got != want {
		t.Errorf("from a directory: %x, want %x", got, want)
	}
	own := filepath.Join(t.TempDir(), "own.tar.gz")
	sink, err := archive.CreateFile(own, archive.FileOptions{Compression: archive.Gzip})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Copy(t.Context(), sink, open(t, file, foreign.Options{Digests: true}), archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Commit(t.Context()), sink.Close()); err != nil {
		t.Fatal(err)
	}
	if got := sumOf(t, open(t, own, foreign.Options{Digests: true})); got != want {
		t.Errorf("from what it became: %x, want %x", got, want)
	}
}

func unpack(t *testing.T, dir string, src archive.Source) {
	t.Helper()
	sink, err := archive.CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Copy(t.Context(), sink, src, archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Commit(t.Context()), sink.Close()); err != nil {
		t.Fatal(err)
	}
}

// Images without a container: runtimes' and Docker's directories are flat.
func TestBare(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole")
	unpack(t, whole, open(t, "testdata/podman-hostnet.tar.zst", foreign.Options{}))
	bare := filepath.Join(whole, archive.CheckpointDir)
	if _, err := foreign.Open(t.Context(), opening(bare), foreign.Options{}); !errors.Is(err, foreign.ErrBare) {
		t.Errorf("without a configuration: got %v, want ErrBare", err)
	}
	spec, err := os.ReadFile(filepath.Join(whole, archive.SpecDump))
	if err != nil {
		t.Fatal(err)
	}
	src := open(t, bare, foreign.Options{Known: foreign.Known{Name: "one", Spec: spec}})
	m := metadataOf(t, src)
	if m.Container.ID != "" || m.Container.Name != "one" || m.Container.Processes != 2 {
		t.Errorf("container: got %+v", m.Container)
	}
	if m.Base != nil && (m.Base.Image != "" || m.Base.ImageID != "") {
		t.Errorf("base: got %+v, want none", m.Base)
	}
	rep, err := archive.Verify(t.Context(), open(t, bare, foreign.Options{Known: foreign.Known{Spec: spec}, Digests: true}), archive.CopyOptions{})
	if err != nil || !rep.Proven {
		t.Errorf("verify: proven %v, %v", rep.Proven, err)
	}
}

func TestNoCheckpoint(t *testing.T) {
	for name, test := range map[string]struct {
		files []archivetest.File
		says  string
	}{
		"no images":      {[]archivetest.File{{Name: archive.ConfigDump, Content: []byte("{}")}}, "inventory.img"},
		"pre-checkpoint": {[]archivetest.File{{Name: "pre-checkpoint/inventory.img", Content: []byte("x")}, {Name: archive.ConfigDump, Content: []byte("{}")}}, "pre-checkpoint has no processes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := foreign.Open(t.Context(), func(context.Context) (archive.Source, error) { return archivetest.Source(test.files), nil }, foreign.Options{})
			if !errors.Is(err, archive.ErrNotArchive) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want ErrNotArchive that names %s", err, test.says)
			}
		})
	}
}

// Podman leaves a link to an earlier dump among the images.
func TestParentLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "link.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "config.dump", Typeflag: tar.TypeReg, Mode: 0o600},
		{Name: "checkpoint/parent", Typeflag: tar.TypeSymlink, Linkname: "../pre-checkpoint"},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(path, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := foreign.Open(t.Context(), opening(path), foreign.Options{})
	if !errors.Is(err, foreign.ErrPartial) || !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), "on top of an earlier one") {
		t.Errorf("got %v, want a rejection that explains the link", err)
	}
}

// What the two readings see must be the same.
func TestChanged(t *testing.T) {
	large := make([]byte, 2<<20)
	files := func(size int) []archivetest.File {
		return []archivetest.File{
			{Name: archive.Image(archive.Inventory), Content: []byte("x")},
			{Name: archive.Image("pages-1.img"), Content: large[:size]},
			{Name: archive.SpecDump, Content: []byte(`{"ociVersion":"1.0.2"}`)},
		}
	}
	calls := 0
	src, err := foreign.Open(t.Context(), func(context.Context) (archive.Source, error) {
		calls++
		return archivetest.Source(files(len(large) - calls)), nil
	}, foreign.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := archivetest.Read(t.Context(), src); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("got %v, want that it changed", err)
	}
}

// A checkpoint of ckarchive passes as it is.
func TestOwn(t *testing.T) {
	want := archivetest.Checkpoint()
	src, err := foreign.Open(t.Context(), func(context.Context) (archive.Source, error) { return archivetest.Source(want), nil }, foreign.Options{Digests: true})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got, err := archivetest.Read(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	archivetest.Equal(t, got, want)
}

// The contract of every source, of members larger than what is kept and in an order that is not
// the archive's.
func TestSourceContract(t *testing.T) {
	files := archivetest.Checkpoint()
	files = slices.DeleteFunc(files, func(f archivetest.File) bool { return f.Name == archive.MetadataFile })
	stored := slices.Clone(files)
	slices.Reverse(stored)
	fresh := func(t *testing.T) archive.Source {
		src, err := foreign.Open(t.Context(), func(context.Context) (archive.Source, error) { return archivetest.Source(stored), nil }, foreign.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	want, err := archivetest.Read(t.Context(), fresh(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.ContainsFunc(want, func(w archivetest.File) bool { return w.Name == f.Name && bytes.Equal(w.Content, f.Content) }) {
			t.Errorf("%s is not as it was stored", f.Name)
		}
	}
	archivetest.TestSource(t, fresh, want)
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"runtime":"io.containerd.runc.v2","rootfsImageRef":"a@sha256:b"}`), []byte(`{"annotations":{"io.container.manager":"libpod"}}`), []byte("\x19CVT00'P\x0a\x00\x00\x00"), []byte("(00.1) Version: 4.2.1 (gitid 0)\n"))
	f.Fuzz(func(t *testing.T, config, spec, tasks, log []byte) {
		files := []archivetest.File{
			{Name: archive.Image(archive.Inventory), Content: []byte("x")},
			{Name: archive.Image("pstree.img"), Content: tasks},
			{Name: archive.StatsDump, Content: tasks},
			{Name: archive.DumpLog, Content: log},
			{Name: archive.SpecDump, Content: spec},
			{Name: archive.ConfigDump, Content: config},
		}
		src, err := foreign.Open(t.Context(), func(context.Context) (archive.Source, error) { return archivetest.Source(files), nil }, foreign.Options{Digests: true})
		if err != nil {
			return
		}
		defer src.Close()
		// What is read as a checkpoint is one that proves itself.
		if rep, err := archive.Verify(t.Context(), src, archive.CopyOptions{}); err != nil || !rep.Proven {
			t.Errorf("proven %v, %v", rep.Proven, err)
		}
	})
}
