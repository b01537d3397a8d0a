package artifact

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/registry"
)

// newStore opens a store in a directory.
func newStore(tb testing.TB) *registry.Store {
	tb.Helper()
	s, err := registry.OpenStore(tb.Context(), filepath.Join(tb.TempDir(), "store"), registry.StoreOptions{Create: true})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// writeNative writes a checkpoint under a name and gives its manifest.
func writeNative(tb testing.TB, store Ingester, files []archivetest.File, opts NativeOptions) ocispec.Descriptor {
	tb.Helper()
	w, err := NewNativeWriter(tb.Context(), store, opts)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	if _, err := archive.Copy(tb.Context(), w, archivetest.Source(files), archive.CopyOptions{}); err != nil {
		tb.Fatal(err)
	}
	if err := w.Commit(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return w.Descriptor()
}

func openNative(tb testing.TB, from content.Fetcher, desc ocispec.Descriptor) *Native {
	tb.Helper()
	n, err := OpenNative(tb.Context(), from, desc, OpenOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(n.Close(), n.Close()); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// same reads a checkpoint and compares it, in order and by its opener.
func same(tb testing.TB, from content.Fetcher, desc ocispec.Descriptor, want []archivetest.File) {
	tb.Helper()
	n := openNative(tb, from, desc)
	got, err := archivetest.Read(tb.Context(), n)
	if err != nil {
		tb.Fatal(err)
	}
	archivetest.Equal(tb, got, want)
}

func TestNativeSink(t *testing.T) {
	archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) {
		store := newStore(t)
		w, err := NewNativeWriter(t.Context(), store, NativeOptions{Tag: "host.test/c:1"})
		if err != nil {
			t.Fatal(err)
		}
		return w, func() ([]archivetest.File, error) {
			desc, err := store.Resolve(t.Context(), "host.test/c:1")
			if err != nil {
				return nil, err
			}
			return archivetest.Read(t.Context(), openNative(t, store, desc))
		}
	})
}

func TestNativeSource(t *testing.T) {
	want := archivetest.Checkpoint()
	large := archivetest.File{Name: "artifacts/large", Content: bytes.Repeat([]byte("more than is kept"), 100_000)}
	want = append(want, large)
	store := newStore(t)
	desc := writeNative(t, store, want, NativeOptions{})
	archivetest.TestSource(t, func(t *testing.T) archive.Source { return openNative(t, store, desc) }, want)
	t.Run("without random access", func(t *testing.T) {
		same(t, tampered{Fetcher: store}, desc, want)
	})
	got, err := OpenCheckpoint(t.Context(), store, desc, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if _, ok := got.(*Native); !ok || got.Descriptor().Digest != desc.Digest || got.Annotations()["org.criu.checkpoint.container.name"] != "one" {
		t.Errorf("OpenCheckpoint: got %T of %s", got, got.Descriptor().Digest)
	}
	mem := newMem()
	image := writeImage(t, mem, sample(t), WriterOptions{})
	if got, err := OpenCheckpoint(t.Context(), mem, image, OpenOptions{}); err != nil {
		t.Error(err)
	} else if _, ok := got.(*Image); !ok {
		t.Errorf("OpenCheckpoint: got %T for an image", got)
	}
	if _, err := OpenNative(t.Context(), mem, image, OpenOptions{}); !errors.Is(err, archive.ErrNotArchive) {
		t.Errorf("OpenNative of an image: got %v, want ErrNotArchive", err)
	}
}

// life is a task whose memory changes from checkpoint to checkpoint.
type life struct {
	rng    *rand.Rand
	memory []byte
}

func newLife(pages int) *life {
	l := &life{rng: rand.New(rand.NewPCG(1, 2)), memory: make([]byte, pages*4096)}
	for off := 0; off < len(l.memory); off += 8 {
		binary.LittleEndian.PutUint64(l.memory[off:], l.rng.Uint64())
	}
	return l
}

// change touches every nth page.
func (l *life) change(n int) {
	for off := l.rng.IntN(n) * 4096; off < len(l.memory); off += n * 4096 {
		l.memory[off+l.rng.IntN(4096)]++
	}
}

// checkpoint gives the members, with the memory in two pages files.
func (l *life) checkpoint() []archivetest.File {
	var files []archivetest.File
	half := len(l.memory) / 8192 * 4096
	for _, f := range archivetest.Checkpoint() {
		if f.Name == archive.MetadataFile {
			continue
		}
		if f.Name == archive.Image("pages-1.img") {
			f.Content = bytes.Clone(l.memory[:half])
			files = append(files,
				archivetest.File{Name: archive.Image("pagemap-1.img"), Content: pagemapImage(1, 0x10000, uint64(half/4096))},
				archivetest.File{Name: archive.Image("pagemap-shmem-7.img"), Content: pagemapImage(2, 0, uint64((len(l.memory)-half)/4096))}, f,
				archivetest.File{Name: archive.Image("pages-2.img"), Content: bytes.Clone(l.memory[half:])})
			continue
		}
		files = append(files, f)
	}
	const behindStatus = 3
	return append(files[:behindStatus:behindStatus], append([]archivetest.File{archivetest.Metadata(files)}, files[behindStatus:]...)...)
}

func pagemapImage(id uint32, addr, n uint64) []byte {
	img := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	img = binary.LittleEndian.AppendUint32(img, 0x56084025)
	for _, m := range []proto.Message{
		&pagemap.PagemapHead{PagesId: &id},
		&pagemap.PagemapEntry{Vaddr: &addr, CompatNrPages: proto.Uint32(uint32(n)), NrPages: &n, Flags: proto.Uint32(4)},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		img = append(binary.LittleEndian.AppendUint32(img, uint32(len(b))), b...)
	}
	return img
}

// kept is a checkpoint in a store.
type kept struct {
	desc  ocispec.Descriptor
	files []archivetest.File
	name  string
}

// generations writes checkpoints, each as the child of the one before.
func generations(tb testing.TB, store *registry.Store, l *life, n int) []kept {
	tb.Helper()
	var all []kept
	var parent *Native
	for i := range n {
		k := kept{files: l.checkpoint(), name: fmt.Sprintf("host.test/c:%d", i)}
		k.desc = writeNative(tb, store, k.files, NativeOptions{Tag: k.name, Parent: parent})
		all = append(all, k)
		parent = openNative(tb, store, k.desc)
		l.change(50)
	}
	return all
}

// newBytes is what a checkpoint added to the packs, as its annotation says.
func newBytes(tb testing.TB, n *Native) (bytes int64) {
	tb.Helper()
	if _, err := fmt.Sscan(n.Annotations()[AnnotationNewBytes], &bytes); err != nil {
		tb.Fatal(err)
	}
	return bytes
}

// TestNativeGenerations deletes every other checkpoint, the first among them, and the rest is whole: nobody breaks a child.
func TestNativeGenerations(t *testing.T) {
	store := newStore(t)
	all := generations(t, store, newLife(2000), 6)
	for i, k := range all {
		n := openNative(t, store, k.desc)
		if n.Depth() != i || i > 0 && (n.Annotations()[AnnotationParent] != all[i-1].desc.Digest.String() || newBytes(t, n) > 100_000) {
			t.Errorf("generation %d: depth %d, %d new bytes, %v", i, n.Depth(), newBytes(t, n), n.Annotations())
		}
	}
	for i := 0; i < len(all); i += 2 {
		if err := store.Untag(t.Context(), all[i].name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.GC(t.Context(), registry.GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenNative(t.Context(), store, all[0].desc, OpenOptions{}); err == nil {
		t.Error("the first checkpoint is still there")
	}
	for i := 1; i < len(all); i += 2 {
		same(t, store, all[i].desc, all[i].files)
		if report, err := archive.Verify(t.Context(), openNative(t, store, all[i].desc), archive.CopyOptions{}); err != nil || !report.Proven {
			t.Errorf("generation %d: %v, want it proven", i, err)
		}
	}
}

// TestNativeManifest is for what registries, copies and garbage collectors rely on.
func TestNativeManifest(t *testing.T) {
	store := newStore(t)
	all := generations(t, store, newLife(500), 2)
	raw, err := content.FetchAll(t.Context(), store, all[1].desc)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	if m.Subject != nil || m.ArtifactType != Type || m.Config.MediaType != NativeConfig {
		t.Errorf("subject %v, type %s, config %s", m.Subject, m.ArtifactType, m.Config.MediaType)
	}
	var types []string
	for _, l := range m.Layers {
		types = append(types, l.MediaType)
	}
	want := []string{nativeMeta, nativeIndex, ocispec.MediaTypeImageLayerZstd, nativePack, nativeDelta}
	if fmt.Sprint(types) != fmt.Sprint(want) {
		t.Errorf("layers %q, want %q", types, want)
	}
	// The same checkpoint with the same parent has the same digest, in any store.
	again := newStore(t)
	first := writeNative(t, again, all[0].files, NativeOptions{})
	second := writeNative(t, again, all[1].files, NativeOptions{Parent: openNative(t, again, first)})
	if first.Digest != all[0].desc.Digest || second.Digest != all[1].desc.Digest {
		t.Errorf("written again: got %s and %s, want %s and %s", first.Digest, second.Digest, all[0].desc.Digest, all[1].desc.Digest)
	}
}

// TestNativeParentElsewhere has the parent in another store: the packs that are needed come along.
func TestNativeParentElsewhere(t *testing.T) {
	there, here, l := newStore(t), newStore(t), newLife(500)
	parent := writeNative(t, there, l.checkpoint(), NativeOptions{})
	l.change(50)
	files := l.checkpoint()
	desc := writeNative(t, here, files, NativeOptions{Parent: openNative(t, there, parent)})
	same(t, here, desc, files)
	if n := openNative(t, here, desc); n.Depth() != 1 || newBytes(t, n) > 25_000 {
		t.Errorf("depth %d, %d new bytes, want a child", n.Depth(), newBytes(t, n))
	}
}

// TestNativeRebase ends a row of children: when it is long, and when it holds too much.
func TestNativeRebase(t *testing.T) {
	store, l := newStore(t), newLife(200)
	all := generations(t, store, l, MaxDepth+2)
	for i, want := range map[int]int{MaxDepth - 1: MaxDepth - 1, MaxDepth: MaxDepth, MaxDepth + 1: 0} {
		if n := openNative(t, store, all[i].desc); n.Depth() != want || n.Annotations()[AnnotationParent] != all[i-1].desc.Digest.String() {
			t.Errorf("generation %d: depth %d, want %d", i, n.Depth(), want)
		}
	}
	same(t, store, all[MaxDepth+1].desc, all[MaxDepth+1].files)
	// Half of the memory is new each time: the third checkpoint needs twice what the first did, less what nobody needs.
	big := newLife(400)
	first := writeNative(t, store, big.checkpoint(), NativeOptions{})
	copy(big.memory[200*4096:], newLife(200).memory)
	for i := range 100 * 4096 {
		big.memory[i] ^= byte(7 * i)
	}
	second := writeNative(t, store, big.checkpoint(), NativeOptions{Parent: openNative(t, store, first)})
	n := openNative(t, store, second)
	if got, full := n.Index().PackBytes(), openNative(t, store, first).Index().PackBytes(); !n.Rebase() || got <= full*3/2 {
		t.Errorf("%d bytes after %d at first: rebase is %t", got, full, n.Rebase())
	}
	if n := openNative(t, store, first); n.Rebase() {
		t.Error("the first of a row is to be followed by a whole one")
	}
	files := big.checkpoint()
	third := writeNative(t, store, files, NativeOptions{Parent: n})
	if n := openNative(t, store, third); n.Depth() != 0 || n.Rebase() {
		t.Errorf("third: depth %d, want a whole one", n.Depth())
	}
	same(t, store, third, files)
}

// TestNativeTampered changes each blob of an artifact, and reading finds it.
func TestNativeTampered(t *testing.T) {
	store := newStore(t)
	k := generations(t, store, newLife(300), 2)[1]
	n := openNative(t, store, k.desc)
	for _, desc := range append([]ocispec.Descriptor{k.desc, n.manifest.Config}, n.manifest.Layers...) {
		for name, change := range map[string]func([]byte) []byte{
			"changed": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"cut":     func(b []byte) []byte { return b[:len(b)-1] },
			"longer":  func(b []byte) []byte { return append(b, 0) },
		} {
			if name == "longer" && (desc.MediaType == nativePack || desc.MediaType == nativeDelta) {
				continue // what is behind the frames is never read
			}
			got, err := OpenNative(t.Context(), tampered{store, desc.Digest, change}, k.desc, OpenOptions{})
			if err == nil {
				_, err = archivetest.Read(t.Context(), got)
				got.Close()
			}
			// A small blob that is cut may be a connection that broke.
			if err == nil || name != "cut" && !errors.Is(err, archive.ErrRejected) {
				t.Errorf("%s %s: got %v, want ErrRejected", name, desc.MediaType, err)
			}
		}
	}
}

// TestNativeRejects has artifacts that are well-formed and make no sense.
func TestNativeRejects(t *testing.T) {
	store := newStore(t)
	k := generations(t, store, newLife(300), 2)[1]
	raw, err := content.FetchAll(t.Context(), store, k.desc)
	if err != nil {
		t.Fatal(err)
	}
	config := openNative(t, store, k.desc).config
	push := func(mediaType string, raw []byte) ocispec.Descriptor {
		desc, err := pushBytes(t.Context(), ignoring{store}, mediaType, raw)
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	other := func(edit func(*nativeConfig)) func(*ocispec.Manifest) {
		return func(m *ocispec.Manifest) {
			c := *config
			edit(&c)
			raw, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			m.Config = push(NativeConfig, raw)
		}
	}
	for name, tt := range map[string]struct {
		edit func(*ocispec.Manifest)
		want error
	}{
		"nothing":           {func(*ocispec.Manifest) {}, nil},
		"unknown layer":     {func(m *ocispec.Manifest) { m.Layers = append(m.Layers, push("text/plain", []byte("x"))) }, nil},
		"another type":      {func(m *ocispec.Manifest) { m.ArtifactType = "text/plain" }, archive.ErrNotArchive},
		"no metadata":       {func(m *ocispec.Manifest) { m.Layers = m.Layers[1:] }, archive.ErrRejected},
		"two indexes":       {func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[1]) }, archive.ErrRejected},
		"two roots":         {func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[2]) }, archive.ErrRejected},
		"no root":           {func(m *ocispec.Manifest) { m.Layers = append(m.Layers[:2:2], m.Layers[3:]...) }, archive.ErrRejected},
		"pack not named":    {func(m *ocispec.Manifest) { m.Layers = m.Layers[:len(m.Layers)-1] }, archive.ErrRejected},
		"pack of more":      {func(m *ocispec.Manifest) { m.Layers[3].Size++ }, archive.ErrRejected},
		"root of more":      {other(func(c *nativeConfig) { c.Rootfs = &nativeRootfs{c.Rootfs.Size + 1, c.Rootfs.DiffID} }), archive.ErrRejected},
		"root of less":      {other(func(c *nativeConfig) { c.Rootfs = &nativeRootfs{c.Rootfs.Size - 1, c.Rootfs.DiffID} }), archive.ErrRejected},
		"another root":      {other(func(c *nativeConfig) { c.Rootfs = &nativeRootfs{c.Rootfs.Size, digest.FromString("x")} }), archive.ErrRejected},
		"a later version":   {other(func(c *nativeConfig) { c.FormatVersion = 2 }), archive.ErrRejected},
		"negative depth":    {other(func(c *nativeConfig) { c.Depth = -1 }), archive.ErrRejected},
		"metadata is index": {func(m *ocispec.Manifest) { m.Layers[0] = m.Layers[1]; m.Layers[0].MediaType = nativeMeta }, archive.ErrRejected},
		"root that is a pack": {func(m *ocispec.Manifest) {
			m.Layers[2] = m.Layers[3]
			m.Layers[2].MediaType = ocispec.MediaTypeImageLayerZstd
		}, archive.ErrRejected},
		"index of another": {func(m *ocispec.Manifest) {
			empty := writeNative(t, store, archivetest.Checkpoint(), NativeOptions{})
			m.Layers = append(m.Layers, openNative(t, store, empty).manifest.Layers[3])
			m.Layers[0] = openNative(t, store, empty).manifest.Layers[0]
		}, archive.ErrRejected},
	} {
		t.Run(name, func(t *testing.T) {
			var m ocispec.Manifest
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			tt.edit(&m)
			changed, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			n, err := OpenNative(t.Context(), store, push(m.MediaType, changed), OpenOptions{})
			if err == nil {
				_, err = archivetest.Read(t.Context(), n)
				n.Close()
			}
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// ignoring is a store that does not mind what it has already.
type ignoring struct{ *registry.Store }

func (s ignoring) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if there, err := s.Exists(ctx, desc); err != nil || there {
		return err
	}
	return s.Store.Push(ctx, desc, r)
}

// TestNativeDamagedParent loses the parent's packs. The checkpoint is whole without them.
func TestNativeDamagedParent(t *testing.T) {
	store, l := newStore(t), newLife(300)
	parent := writeNative(t, store, l.checkpoint(), NativeOptions{})
	p := openNative(t, store, parent)
	for d := range p.layers.packs {
		if err := os.Remove(filepath.Join(store.Dir(), "blobs", "sha256", d.Encoded())); err != nil {
			t.Fatal(err)
		}
	}
	l.change(50)
	files := l.checkpoint()
	w, err := NewNativeWriter(t.Context(), store, NativeOptions{Parent: p})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := archive.Copy(t.Context(), w, archivetest.Source(files), archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := w.Stats(); s.Unreadable != 300 {
		t.Errorf("%+v, want 300 unreadable pages", s)
	}
	same(t, store, w.Descriptor(), files)
}

// asked is a fetcher that notes the types of what is fetched.
type asked struct {
	content.Fetcher
	types map[string]int
}

func (a asked) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	a.types[desc.MediaType]++
	return a.Fetcher.Fetch(ctx, desc)
}

// Who reads no memory fetches neither it nor the index of it, however large they are; everything else is there.
func TestNativeHead(t *testing.T) {
	store, files := newStore(t), archivetest.Checkpoint()
	desc := writeNative(t, store, files, NativeOptions{})
	from := asked{store, map[string]int{}}
	head, err := OpenNative(t.Context(), from, desc, OpenOptions{Head: true})
	if err != nil {
		t.Fatal(err)
	}
	defer head.Close()
	seen := 0
	for _, want := range files {
		e, r, err := head.Next(t.Context())
		if err != nil || e.Name != want.Name {
			t.Fatalf("got %q, %v, want %q", e.Name, err, want.Name)
		}
		if e.Kind == archive.KindDir {
			continue
		}
		got, err := io.ReadAll(r)
		if archive.IsPages(e.Name) {
			if seen++; err == nil || e.Size != archive.SizeUnknown {
				t.Errorf("%s: %d bytes, %v, want an unknown size and an error", e.Name, e.Size, err)
			}
			continue
		}
		if err != nil || !bytes.Equal(got, want.Content) {
			t.Errorf("%s: %d bytes, %v, want %d", e.Name, len(got), err, len(want.Content))
		}
	}
	if _, _, err := head.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	if seen == 0 {
		t.Fatal("there was no memory")
	}
	for _, kind := range []string{nativeIndex, nativePack, nativeDelta} {
		if n := from.types[kind]; n > 0 {
			t.Errorf("%d of type %s were fetched", n, kind)
		}
	}
}
