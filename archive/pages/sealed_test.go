package pages_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	mrand "math/rand/v2"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

func newKey() []byte {
	key := make([]byte, pages.KeyBytes)
	_, _ = rand.Read(key)
	return key
}

func sealedReader(tb testing.TB, ix *pages.Index, store *packStore, key []byte) *pages.Reader {
	tb.Helper()
	r, err := pages.NewSealedReader(tb.Context(), ix, store, key)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.Close() })
	return r
}

// TestSealed has checkpoints and their children in encrypted frames: as small as in plain ones, and
// without a trace of the content.
func TestSealed(t *testing.T) {
	for seed := range uint64(4) {
		w, key := newWorld(seed), newKey()
		sealed, plain := newStore(), newStore()
		var parent, plainParent *pages.Parent
		for range 4 {
			c := snapshot(t, w.spaces, w.rng)
			ix, stats := write(t, sealed, c, pages.WriterOptions{Parent: parent, Key: key})
			plainIndex, want := write(t, plain, c, pages.WriterOptions{Parent: plainParent})
			frames := 0
			for i := range ix.Packs {
				frames += len(ix.Packs[i].Frames)
			}
			if stats.Stored != want.Stored || stats.Same != want.Same || stats.Changed != want.Changed || stats.NewBytes > want.NewBytes+int64(28*frames) {
				t.Errorf("sealed %+v, in plain form %+v", stats, want)
			}
			if frames > 0 && !ix.Sealed() || plainIndex.Sealed() {
				t.Error("the index does not tell what is encrypted")
			}
			reader := sealedReader(t, ix, sealed, key)
			verify(t, reader, c, w.rng)
			parent = &pages.Parent{Reader: reader, Maps: c.maps}
			plainParent = &pages.Parent{Reader: newReader(t, plainIndex, plain), Maps: c.maps}
			w.change()
		}
	}
	secret := []byte("the secret that was in memory")
	c := &checkpoint{names: []string{"checkpoint/pages-1.img"}, files: map[string][]byte{"checkpoint/pages-1.img": bytes.Repeat(append(secret, newKey()...), 300)}}
	store := newStore()
	write(t, store, c, pages.WriterOptions{Key: newKey()})
	for _, pack := range store.packs {
		if bytes.Contains(pack, secret) {
			t.Error("the packs hold the secret")
		}
	}
}

// TestSealedKey has no key or another one, and a key of no use.
func TestSealedKey(t *testing.T) {
	store, key := newStore(), newKey()
	c := snapshot(t, big(200), nil)
	ix, _ := write(t, store, c, pages.WriterOptions{Key: key})
	if err := newReader(t, ix, store).Rebuild(t.Context(), c.names[0], &file{}); !errors.Is(err, archive.ErrEncrypted) {
		t.Errorf("no key: got %v, want ErrEncrypted", err)
	}
	if err := sealedReader(t, ix, store, newKey()).Rebuild(t.Context(), c.names[0], &file{}); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("another key: got %v, want ErrRejected", err)
	}
	if _, err := pages.NewSealedReader(t.Context(), ix, store, key[1:]); err == nil {
		t.Error("a short key is taken")
	}
	if _, err := pages.NewWriter(pages.WriterOptions{Key: key[1:]}); err == nil {
		t.Error("a short key is taken")
	}
	parent := &pages.Parent{Reader: sealedReader(t, ix, store, key), Maps: c.maps}
	if _, err := pages.NewWriter(pages.WriterOptions{Parent: parent}); err == nil {
		t.Error("a child in plain form would mix both")
	}
}

// TestSealedForgery lets somebody change packs and hashes, who has all but the key: hashes alone would not tell.
func TestSealedForgery(t *testing.T) {
	key := newKey()
	c := snapshot(t, big(300), nil)
	for what, forge := range map[string]func(frames [][]byte){
		"a bit":      func(f [][]byte) { f[0][len(f[0])/2] ^= 1 },
		"nonce":      func(f [][]byte) { f[0][0] ^= 1 },
		"cut":        func(f [][]byte) { f[1] = f[1][:len(f[1])-1] },
		"only nonce": func(f [][]byte) { f[1] = f[1][:28] },
	} {
		t.Run(what, func(t *testing.T) {
			store := newStore()
			ix, _ := write(t, store, c, pages.WriterOptions{Key: key})
			p := &ix.Packs[0]
			var frames [][]byte
			for i, rest := 0, bytes.Clone(store.packs[p.Sum]); i < len(p.Frames); i++ {
				frames, rest = append(frames, rest[:p.Frames[i].Length]), rest[p.Frames[i].Length:]
			}
			forge(frames)
			pack := bytes.Join(frames, nil)
			p.Sum = sha256.Sum256(pack)
			store.packs[p.Sum] = pack
			for i := range frames {
				p.Frames[i].Length, p.Frames[i].Sum = len(frames[i]), sha256.Sum256(frames[i])
			}
			err := sealedReader(t, ix, store, key).Rebuild(t.Context(), c.names[0], &file{})
			if !errors.Is(err, archive.ErrRejected) {
				t.Errorf("got %v, want ErrRejected", err)
			}
		})
	}
	// A frame of the same key in another place, or of an earlier checkpoint, is not what the index says.
	store := newStore()
	ix, _ := write(t, store, c, pages.WriterOptions{Key: key})
	again := snapshot(t, big(300), mrand.New(mrand.NewPCG(1, 2)))
	other, _ := write(t, store, again, pages.WriterOptions{Key: key})
	whole := store.packs[ix.Packs[0].Sum]
	a, b := ix.Packs[0].Frames[0].Length, ix.Packs[0].Frames[1].Length
	swapped := append(append(bytes.Clone(whole[a:a+b]), whole[:a]...), whole[a+b:]...)
	for what, pack := range map[string][]byte{"swapped": swapped, "another pack": store.packs[other.Packs[0].Sum]} {
		store.packs[ix.Packs[0].Sum] = pack
		if err := sealedReader(t, ix, store, key).Rebuild(t.Context(), c.names[0], &file{}); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrRejected", what, err)
		}
	}
}
