package pages_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// chain is a checkpoint and its child, which has pages of all kinds.
func chain(tb testing.TB, store *packStore) (parent, child *pages.Index, first, second *checkpoint) {
	tb.Helper()
	spaces := big(500)
	first = snapshot(tb, spaces, nil)
	parent, _ = write(tb, store, first, pages.WriterOptions{})
	for a, p := range spaces[0].pages {
		if a/pages.PageBytes%3 == 0 {
			spaces[0].pages[a] = append(bytes.Clone(p[:4090]), "change"...)
		}
	}
	second = snapshot(tb, spaces, nil)
	child, stats := write(tb, store, second, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(tb, parent, store), Maps: first.maps}})
	if stats.Changed == 0 || stats.Same == 0 {
		tb.Fatalf("%+v, want deltas", stats)
	}
	return parent, child, first, second
}

// TestDamagedPacks changes a byte of each frame, or cuts a pack off, and nothing of it is given.
func TestDamagedPacks(t *testing.T) {
	store := newStore()
	_, child, _, second := chain(t, store)
	name := second.names[0]
	for i := range child.Packs {
		sum := child.Packs[i].Sum
		whole := store.packs[sum]
		off := 0
		for j := range child.Packs[i].Frames {
			damaged := bytes.Clone(whole)
			damaged[off+child.Packs[i].Frames[j].Length/2] ^= 1
			off += child.Packs[i].Frames[j].Length
			store.packs[sum] = damaged
			if err := newReader(t, child, store).Rebuild(t.Context(), name, &file{}); !errors.Is(err, archive.ErrRejected) {
				t.Errorf("pack %d, frame %d damaged: got %v, want ErrRejected", i, j, err)
			}
		}
		store.packs[sum] = whole[:len(whole)-1]
		if err := newReader(t, child, store).Rebuild(t.Context(), name, &file{}); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("pack %d cut off: got %v, want ErrRejected", i, err)
		}
		delete(store.packs, sum)
		if err := newReader(t, child, store).Rebuild(t.Context(), name, &file{}); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("pack %d missing: got %v, want ErrNotFound", i, err)
		}
		store.packs[sum] = whole
	}
	verify(t, newReader(t, child, store), second, rand.New(rand.NewPCG(1, 1)))
}

// TestWrongIndex has an index that is well-formed and lies.
func TestWrongIndex(t *testing.T) {
	store := newStore()
	_, _, _, second := chain(t, store)
	name := second.names[0]
	var delta int
	for what, lie := range map[string]func(*pages.Index){
		"hash of the file": func(ix *pages.Index) { ix.Files[0].Sum[0]++ },
		"size of the file": func(ix *pages.Index) { ix.Files[0].Size-- },
		"another page":     func(ix *pages.Index) { ix.Files[0].Runs[0].Page++ },
		"another base": func(ix *pages.Index) {
			for i := range ix.Packs[delta].Frames[0].Bases {
				ix.Packs[delta].Frames[0].Bases[i].Page++
			}
		},
		"fewer pages": func(ix *pages.Index) { ix.Packs[0].Frames[0].Pages-- },
		"raw":         func(ix *pages.Index) { f := &ix.Packs[0].Frames[0]; f.Raw, f.Length = true, f.Pages*pages.PageBytes },
	} {
		t.Run(what, func(t *testing.T) {
			_, ix, _, _ := chain(t, store)
			for delta = 0; ix.Packs[delta].Kind != pages.Delta; delta++ {
			}
			lie(ix)
			if err := newReader(t, ix, store).Rebuild(t.Context(), name, &file{}); !errors.Is(err, archive.ErrRejected) {
				t.Errorf("got %v, want ErrRejected", err)
			}
		})
	}
}

// TestUnreadableParent loses the parent's packs: the child is whole, without it.
func TestUnreadableParent(t *testing.T) {
	store := newStore()
	parent, _, first, second := chain(t, store)
	gone := newStore()
	child, stats := write(t, store, second, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, parent, gone), Maps: first.maps}})
	if stats.Unreadable != 500 || stats.Stored != 500 {
		t.Errorf("%+v, want 500 unreadable pages that were stored", stats)
	}
	for i := range child.Packs {
		if child.Packs[i].Kind != pages.Literal {
			t.Error("deltas from a base that nobody has")
		}
	}
	verify(t, newReader(t, child, store), second, rand.New(rand.NewPCG(1, 1)))
}

var errFault = errors.New("fault of the test")

// TestWriterFaults breaks the input, the disk and the context.
func TestWriterFaults(t *testing.T) {
	c := snapshot(t, big(1000), nil)
	content := c.files[c.names[0]]
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errFault)
	for name, tt := range map[string]struct {
		ctx    context.Context
		r      io.Reader
		create func(*packStore) func(context.Context) (pages.PackWriter, error)
		want   error
	}{
		"input":         {r: io.MultiReader(bytes.NewReader(content), iotest.ErrReader(errFault)), want: errFault},
		"input cut":     {r: io.MultiReader(bytes.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF)), want: io.ErrUnexpectedEOF},
		"context":       {ctx: cancelled, want: errFault},
		"no pack":       {create: func(*packStore) func(context.Context) (pages.PackWriter, error) { return broken{}.none }, want: errFault},
		"pack write":    {create: func(s *packStore) func(context.Context) (pages.PackWriter, error) { return broken{s, true}.create }, want: errFault},
		"pack commit":   {create: func(s *packStore) func(context.Context) (pages.PackWriter, error) { return broken{s, false}.create }, want: errFault},
		"nothing wrong": {},
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore()
			opts := pages.WriterOptions{Create: store.create, PackBytes: 100 << 10}
			if tt.create != nil {
				opts.Create = tt.create(store)
			}
			w, err := pages.NewWriter(opts)
			if err != nil {
				t.Fatal(err)
			}
			ctx, r := tt.ctx, tt.r
			if ctx == nil {
				ctx = t.Context()
			}
			if r == nil {
				r = bytes.NewReader(content)
			}
			_, err = w.Put(ctx, c.names[0], r)
			if err == nil {
				_, err = w.Commit(ctx)
			}
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := w.Commit(ctx); err == nil {
				t.Error("Commit after the end: got nil, want an error")
			}
			if _, err := w.Put(ctx, "late", r); err == nil {
				t.Error("Put after the end: got nil, want an error")
			}
			if err := errors.Join(w.Close(), w.Close()); err != nil {
				t.Errorf("close: %v", err)
			}
			if store.opened != 0 {
				t.Errorf("%d packs left open", store.opened)
			}
		})
	}
}

// broken makes packs that fail: when they are written, or when they are committed.
type broken struct {
	store   *packStore
	writing bool
}

func (broken) none(context.Context) (pages.PackWriter, error) { return nil, errFault }

func (b broken) create(ctx context.Context) (pages.PackWriter, error) {
	p, err := b.store.create(ctx)
	return brokenPack{p, b.writing}, err
}

type brokenPack struct {
	pages.PackWriter
	writing bool
}

func (b brokenPack) Write(p []byte) (int, error) {
	if b.writing {
		return 0, errFault
	}
	return b.PackWriter.Write(p)
}

func (b brokenPack) Commit(context.Context, pages.Kind) (pages.Sum, error) {
	return pages.Sum{}, errFault
}

// TestReaderFaults cancels and closes readers.
func TestReaderFaults(t *testing.T) {
	store := newStore()
	_, child, _, second := chain(t, store)
	name := second.names[0]
	r := newReader(t, child, store)
	for _, err := range []error{
		func() error { _, err := r.Open("checkpoint/pages-9.img"); return err }(),
		func() error { _, err := r.Stream(t.Context(), "pages-1.img"); return err }(),
		r.Rebuild(t.Context(), "", &file{}),
	} {
		if !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errFault)
	if err := r.Rebuild(cancelled, name, &file{}); !errors.Is(err, errFault) {
		t.Errorf("cancelled: got %v, want the context's cause", err)
	}
	if err := r.Rebuild(t.Context(), name, brokenAt{}); !errors.Is(err, errFault) {
		t.Errorf("writer that fails: got %v, want its error", err)
	}
	s, err := r.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := s.Read(make([]byte, 10)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read after Close: got %v, want an error that is not io.EOF", err)
	}
	blob, err := r.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blob.ReadAt(make([]byte, 1), -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("negative offset: got %v, want an error", err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := pages.NewReader(cancelled, child, store).Open(name); err != nil {
		t.Error(err)
	}
	if err := r.Rebuild(t.Context(), name, &file{}); err == nil {
		t.Error("Rebuild after Close: got nil, want an error")
	}
}

type brokenAt struct{}

func (brokenAt) WriteAt([]byte, int64) (int, error) { return 0, errFault }
