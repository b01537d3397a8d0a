package artifact

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/registry"
)

// reader is somebody who can read what is encrypted.
type reader struct {
	to   *crypt.Recipients
	opts OpenOptions
	id   *age.X25519Identity
}

func newRecipient(tb testing.TB) reader {
	tb.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "key")
	if err := os.WriteFile(path, []byte(id.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	to, err := crypt.ParseRecipients([]string{id.Recipient().String()}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	ids, err := crypt.ParseIdentities([]string{path}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return reader{to, OpenOptions{Decrypt: ids.Decrypt}, id}
}

func (r reader) open(tb testing.TB, from content.Fetcher, desc ocispec.Descriptor) *Native {
	tb.Helper()
	n, err := OpenNative(tb.Context(), from, desc, r.opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = n.Close() })
	return n
}

func (r reader) same(tb testing.TB, from content.Fetcher, desc ocispec.Descriptor, want []archivetest.File) {
	tb.Helper()
	got, err := archivetest.Read(tb.Context(), r.open(tb, from, desc))
	if err != nil {
		tb.Fatal(err)
	}
	archivetest.Equal(tb, got, want)
}

func TestSealedSink(t *testing.T) {
	alice := newRecipient(t)
	archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) {
		store := newStore(t)
		w, err := NewNativeWriter(t.Context(), store, NativeOptions{Tag: "host.test/c:1", Encrypt: alice.to})
		if err != nil {
			t.Fatal(err)
		}
		return w, func() ([]archivetest.File, error) {
			desc, err := store.Resolve(t.Context(), "host.test/c:1")
			if err != nil {
				return nil, err
			}
			return archivetest.Read(t.Context(), alice.open(t, store, desc))
		}
	})
}

func TestSealedSource(t *testing.T) {
	alice, store, want := newRecipient(t), newStore(t), archivetest.Checkpoint()
	desc := writeNative(t, store, want, NativeOptions{Encrypt: alice.to})
	archivetest.TestSource(t, func(t *testing.T) archive.Source { return alice.open(t, store, desc) }, want)
	n := alice.open(t, store, desc)
	for _, f := range want {
		if f.Dir {
			continue
		}
		blob, err := n.Open(t.Context(), f.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(blob, 0, blob.Size()))
		if err != nil || !bytes.Equal(got, f.Content) {
			t.Errorf("%s: %d bytes, %v, want %d", f.Name, len(got), err, len(f.Content))
		}
		_ = blob.Close()
	}
}

// TestSealedGenerations is the proof that encryption keeps a child small, and that who is left out of a later
// checkpoint cannot read it.
func TestSealedGenerations(t *testing.T) {
	alice, bob, store, l := newRecipient(t), newRecipient(t), newStore(t), newLife(2000)
	step := func(from *Native, to *crypt.Recipients) (ocispec.Descriptor, []archivetest.File) {
		files := l.checkpoint()
		desc := writeNative(t, store, files, NativeOptions{Parent: from, Encrypt: to})
		l.change(50)
		return desc, files
	}
	first, files := step(nil, alice.to)
	alice.same(t, store, first, files)
	second, files := step(alice.open(t, store, first), alice.to)
	n := alice.open(t, store, second)
	if n.Depth() != 1 || newBytes(t, n) > 120_000 || !n.Encrypted() {
		t.Errorf("second: depth %d, %d new bytes, encrypted %t", n.Depth(), newBytes(t, n), n.Encrypted())
	}
	alice.same(t, store, second, files)
	third, files := step(n, bob.to)
	bob.same(t, store, third, files)
	if n := bob.open(t, store, third); n.Depth() != 0 || bytes.Equal(n.keys.Frames, alice.open(t, store, second).keys.Frames) {
		t.Errorf("third: depth %d, want it whole and with a key of its own", n.Depth())
	}
	if _, err := OpenNative(t.Context(), store, third, alice.opts); !errors.Is(err, archive.ErrEncrypted) {
		t.Errorf("third: alice gets %v, want ErrEncrypted", err)
	}
	plain, files := step(bob.open(t, store, third), nil)
	same(t, store, plain, files)
	if n := openNative(t, store, plain); n.Depth() != 0 || n.Encrypted() {
		t.Errorf("in plain form: depth %d, want it whole", n.Depth())
	}
	last, files := step(openNative(t, store, plain), bob.to)
	bob.same(t, store, last, files)
	if n := bob.open(t, store, last); n.Depth() != 0 {
		t.Errorf("encrypted again: depth %d, want it whole", n.Depth())
	}
	for desc, want := range map[digest.Digest]bool{second.Digest: true, plain.Digest: false} {
		d, err := store.Resolve(t.Context(), desc.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Encrypted(t.Context(), store, d); err != nil || got != want {
			t.Errorf("Encrypted: got %t, %v, want %t", got, err, want)
		}
	}
	for name, opts := range map[string]OpenOptions{"no key": {}, "another key": newRecipient(t).opts} {
		if _, err := OpenCheckpoint(t.Context(), store, second, opts); !errors.Is(err, archive.ErrEncrypted) || errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrEncrypted", name, err)
		}
	}
}

// TestSealedTellsNothing looks for content in all blobs.
func TestSealedTellsNothing(t *testing.T) {
	alice, store, l := newRecipient(t), newStore(t), newLife(300)
	files := l.checkpoint()
	desc := writeNative(t, store, files, NativeOptions{Encrypt: alice.to})
	n := alice.open(t, store, desc)
	for _, d := range append([]ocispec.Descriptor{desc, n.manifest.Config}, n.manifest.Layers...) {
		raw, err := content.FetchAll(t.Context(), store, d)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			sum := digest.FromBytes(f.Content)
			for what, secret := range map[string][]byte{"content": f.Content[:min(len(f.Content), 64)], "digest": []byte(sum.Encoded())} {
				if len(secret) > 12 && bytes.Contains(raw, secret) {
					t.Errorf("%s holds the %s of %s", d.MediaType, what, f.Name)
				}
			}
		}
		// Of what compression hides, nothing can be unpacked.
		if bytes.Contains(raw, []byte{0x28, 0xb5, 0x2f, 0xfd}) && d.MediaType != nativePack || bytes.Contains(raw, []byte("CKPI")) {
			t.Errorf("%s holds something that is packed and not encrypted", d.MediaType)
		}
	}
}

// TestSealedByHand opens the metadata with age's own means, as docs/encryption.md says.
func TestSealedByHand(t *testing.T) {
	alice, store := newRecipient(t), newStore(t)
	desc := writeNative(t, store, archivetest.Checkpoint(), NativeOptions{Encrypt: alice.to})
	layers := alice.open(t, store, desc).layers
	fetch := func(d ocispec.Descriptor, id age.Identity) io.Reader {
		raw, err := content.FetchAll(t.Context(), store, d)
		if err != nil {
			t.Fatal(err)
		}
		r, err := age.Decrypt(bytes.NewReader(raw), id)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	var keys struct{ Meta string }
	if err := json.NewDecoder(fetch(*layers.keys, alice.id)).Decode(&keys); err != nil {
		t.Fatal(err)
	}
	id, err := age.ParseX25519Identity(keys.Meta)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := archive.NewReader(fetch(layers.meta, id), archive.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	if files, err := archivetest.Read(t.Context(), meta); err != nil || len(files) != len(archivetest.Checkpoint()) {
		t.Errorf("%d members, %v", len(files), err)
	}
}

// TestSealedForged lets somebody without keys, who can write to the registry, put other blobs in the place of
// those that are there, with the right digests: of the same checkpoint changed, of its parent, or of one of his own.
func TestSealedForged(t *testing.T) {
	alice, store, l := newRecipient(t), newStore(t), newLife(300)
	parent := writeNative(t, store, l.checkpoint(), NativeOptions{Encrypt: alice.to})
	l.change(20)
	desc := writeNative(t, store, l.checkpoint(), NativeOptions{Encrypt: alice.to, Parent: alice.open(t, store, parent)})
	stranger := writeNative(t, store, archivetest.Checkpoint(), NativeOptions{Encrypt: alice.to})
	plain := writeNative(t, store, archivetest.Checkpoint(), NativeOptions{})
	into := ignoring{store}
	push := func(mediaType string, raw []byte) ocispec.Descriptor {
		d := content.NewDescriptorFromBytes(mediaType, raw)
		if err := into.Push(t.Context(), d, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	read := func(m *ocispec.Manifest) error {
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		n, err := OpenNative(t.Context(), store, push(m.MediaType, raw), alice.opts)
		if err != nil {
			return err
		}
		defer n.Close()
		_, err = archivetest.Read(t.Context(), n)
		return err
	}
	manifest := func(d ocispec.Descriptor) *ocispec.Manifest {
		raw, err := content.FetchAll(t.Context(), store, d)
		if err != nil {
			t.Fatal(err)
		}
		m := &ocispec.Manifest{}
		if err := json.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	if err := read(manifest(desc)); err != nil {
		t.Fatal(err)
	}
	for i, layer := range manifest(desc).Layers {
		raw, err := content.FetchAll(t.Context(), store, layer)
		if err != nil {
			t.Fatal(err)
		}
		for name, changed := range map[string][]byte{"a bit": flipped(raw), "cut": raw[:len(raw)-1], "more": append(bytes.Clone(raw), 0)} {
			m := manifest(desc)
			m.Layers[i] = push(layer.MediaType, changed)
			if err := read(m); !errors.Is(err, archive.ErrRejected) {
				t.Errorf("%s of %s: got %v, want ErrRejected", name, layer.MediaType, err)
			}
		}
	}
	for name, other := range map[string]ocispec.Descriptor{"parent": parent, "stranger": stranger} {
		for _, kind := range []string{sealedKeys, sealedMeta, sealedIndex, sealedRootfs} {
			m := manifest(desc)
			of := func(list []ocispec.Descriptor) int {
				return slices.IndexFunc(list, func(d ocispec.Descriptor) bool { return d.MediaType == kind })
			}
			from := manifest(other)
			m.Layers[of(m.Layers)] = from.Layers[of(from.Layers)]
			if err := read(m); !errors.Is(err, archive.ErrRejected) && !errors.Is(err, archive.ErrEncrypted) {
				t.Errorf("%s of %s: got %v, want a refusal", kind, name, err)
			}
		}
	}
	// One part of the checkpoint in the place of another.
	m := manifest(desc)
	m.Layers[0].Digest, m.Layers[0].Size, m.Layers[3].Digest, m.Layers[3].Size = m.Layers[3].Digest, m.Layers[3].Size, m.Layers[0].Digest, m.Layers[0].Size
	if err := read(m); err == nil {
		t.Error("metadata and root file system exchanged: got nil, want a refusal")
	}
	// A layer in plain form, in an encrypted checkpoint.
	m = manifest(desc)
	m.Layers[0] = manifest(plain).Layers[0]
	if err := read(m); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("metadata in plain form: got %v, want ErrRejected", err)
	}
	m = manifest(desc)
	m.Layers[0].MediaType = nativeMeta
	if err := read(m); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("metadata that is called plain: got %v, want ErrRejected", err)
	}
	m = manifest(plain)
	m.Layers = append(m.Layers, *alice.open(t, store, desc).layers.keys)
	if err := read(m); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("keys of nothing: got %v, want ErrRejected", err)
	}
}

// TestSealedFrames has an encrypted index of frames in plain form: whoever pushed them thought that they were encrypted.
func TestSealedFrames(t *testing.T) {
	alice, store := newRecipient(t), newStore(t)
	n := openNative(t, store, writeNative(t, store, archivetest.Checkpoint(), NativeOptions{}))
	keys, err := newKeys(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys.RootfsContent = n.config.Rootfs
	push := func(mediaType string, raw []byte, err error) ocispec.Descriptor {
		if err != nil {
			t.Fatal(err)
		}
		desc, err := pushBytes(t.Context(), store, mediaType, raw)
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	seal := func(mediaType string, plain ocispec.Descriptor, key crypt.Key) ocispec.Descriptor {
		raw, err := content.FetchAll(t.Context(), store, plain)
		if err != nil {
			t.Fatal(err)
		}
		raw, err = sealBytes(raw, key.Encrypt)
		return push(mediaType, raw, err)
	}
	m := *n.manifest
	m.Layers = []ocispec.Descriptor{
		seal(sealedMeta, n.layers.meta, keys.Meta), seal(sealedIndex, n.layers.index, keys.Index), seal(sealedRootfs, *n.layers.rootfs, keys.Rootfs),
	}
	raw, err := keys.seal(alice.to)
	m.Layers = append(m.Layers, push(sealedKeys, raw, err))
	for _, d := range n.layers.packs {
		m.Layers = append(m.Layers, d)
	}
	config := *n.config
	config.Rootfs, config.Encryption = nil, &nativeEncryption{}
	raw, err = json.Marshal(config)
	m.Config = push(NativeConfig, raw, err)
	raw, err = json.Marshal(m)
	if _, err := OpenNative(t.Context(), store, push(m.MediaType, raw, err), alice.opts); !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), "memory is encrypted and the rest is not") {
		t.Errorf("got %v, want ErrRejected", err)
	}
}

func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-20] ^= 1
	return b
}

// TestSealedParentElsewhere has the parent in another store, and the child reads its packs.
func TestSealedParentElsewhere(t *testing.T) {
	alice, there, here, l := newRecipient(t), newStore(t), newStore(t), newLife(500)
	parent := writeNative(t, there, l.checkpoint(), NativeOptions{Encrypt: alice.to})
	l.change(50)
	files := l.checkpoint()
	desc := writeNative(t, here, files, NativeOptions{Parent: alice.open(t, there, parent), Encrypt: alice.to})
	alice.same(t, here, desc, files)
	if _, err := registry.Copy(t.Context(), newStore(t), "host.test/c:1", here, desc.Digest.String(), registry.CopyOptions{}); err != nil {
		t.Error(err)
	}
}
