package pages_test

import (
	"bytes"
	"hash/maphash"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive/pages"
)

// streamed is the memory of a checkpoint as a comparison reads it from a stream.
func streamed(t *testing.T, seed maphash.Seed, c *checkpoint) *pages.Memory {
	t.Helper()
	m := pages.NewMemory(seed)
	for _, name := range c.names {
		if err := m.AddFile(t.Context(), name, bytes.NewReader(c.files[name])); err != nil {
			t.Fatal(err)
		}
	}
	for _, pm := range c.maps {
		m.AddMap(pm)
	}
	return m
}

func stored(t *testing.T, seed maphash.Seed, store *packStore, ix *pages.Index, c *checkpoint) *pages.Memory {
	t.Helper()
	m := pages.IndexedMemory(seed, newReader(t, ix, store))
	for _, pm := range c.maps {
		m.AddMap(pm)
	}
	return m
}

func differences(t *testing.T, a, b *pages.Memory) []pages.Difference {
	t.Helper()
	var all []pages.Difference
	if err := pages.Diff(t.Context(), a, b, func(d pages.Difference) { all = append(all, d) }); err != nil {
		t.Fatal(err)
	}
	return all
}

func count(all []pages.Difference) (n [4]int64) {
	for _, d := range all {
		n[d.Change] += d.Pages
	}
	return n
}

// page is a page full of a letter.
func page(letter string) []byte { return []byte(strings.Repeat(letter, pages.PageBytes)) }

// TestDiff compares by address, whatever the order and the place in the files.
func TestDiff(t *testing.T) {
	seed := maphash.MakeSeed()
	zero := make([]byte, pages.PageBytes)
	before := snapshot(t, []*space{
		{"pagemap-1.img", 1, map[uint64][]byte{0x1000: page("a"), 0x2000: page("b"), 0x3000: zero, 0x9000: page("c")}},
		{"pagemap-7.img", 2, map[uint64][]byte{0x1000: page("x")}},
	}, nil)
	after := snapshot(t, []*space{
		{"pagemap-8.img", 3, map[uint64][]byte{0x1000: page("x")}},
		{"pagemap-1.img", 9, map[uint64][]byte{0x0000: page("n"), 0x1000: page("a"), 0x2000: page("B"), 0x3000: zero, 0x4000: page("d")}},
	}, nil)
	want := []pages.Difference{
		{Map: "pagemap-1.img", Addr: 0x0000, Pages: 1, Change: pages.Added},
		{Map: "pagemap-1.img", Addr: 0x1000, Pages: 1, Change: pages.Same},
		{Map: "pagemap-1.img", Addr: 0x2000, Pages: 1, Change: pages.Changed},
		{Map: "pagemap-1.img", Addr: 0x3000, Pages: 1, Change: pages.Same},
		{Map: "pagemap-1.img", Addr: 0x4000, Pages: 1, Change: pages.Added},
		{Map: "pagemap-1.img", Addr: 0x9000, Pages: 1, Change: pages.Removed},
		{Map: "pagemap-7.img", Addr: 0x1000, Pages: 1, Change: pages.Removed},
		{Map: "pagemap-8.img", Addr: 0x1000, Pages: 1, Change: pages.Added},
	}
	store := newStore()
	first, _ := write(t, store, before, pages.WriterOptions{})
	second, _ := write(t, store, after, pages.WriterOptions{})
	for name, got := range map[string][]pages.Difference{
		"streams":       differences(t, streamed(t, seed, before), streamed(t, seed, after)),
		"indexes":       differences(t, stored(t, seed, store, first, before), stored(t, seed, store, second, after)),
		"both":          differences(t, stored(t, seed, store, first, before), streamed(t, seed, after)),
		"the other way": differences(t, streamed(t, seed, before), stored(t, seed, store, second, after)),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// TestDiffFetches sees that of pages that a child shares with its parent nothing is read.
func TestDiffFetches(t *testing.T) {
	seed, store := maphash.MakeSeed(), newStore()
	parent, child, first, second := chain(t, store)
	want := count(differences(t, streamed(t, seed, first), streamed(t, seed, second)))
	if want[pages.Same] == 0 || want[pages.Changed] == 0 {
		t.Fatalf("%v, want pages that are the same and pages that changed", want)
	}
	if got := count(differences(t, stored(t, seed, store, parent, first), stored(t, seed, store, child, second))); got != want {
		t.Errorf("by index %v, by content %v", got, want)
	}
	// A grandchild without changes has the deltas of its parent, with other numbers of packs or not.
	grandchild, _ := write(t, store, second, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, child, store), Maps: second.maps}})
	store.reads = 0
	got := count(differences(t, stored(t, seed, store, child, second), stored(t, seed, store, grandchild, second)))
	if got[pages.Changed]+got[pages.Added]+got[pages.Removed] != 0 || got[pages.Same] == 0 || store.reads != 0 {
		t.Errorf("%v with %d reads, want the same without any", got, store.reads)
	}
	// Written whole on its own, it is found the same by its content.
	alone := newStore()
	whole, _ := write(t, alone, second, pages.WriterOptions{})
	got = count(differences(t, stored(t, seed, store, child, second), stored(t, seed, alone, whole, second)))
	if got[pages.Changed]+got[pages.Added]+got[pages.Removed] != 0 {
		t.Errorf("%v, want the same content", got)
	}
}

// TestDiffMalformed reads maps that overlap and that end at the top of the address space.
func TestDiffMalformed(t *testing.T) {
	seed := maphash.MakeSeed()
	side := func(ranges ...pages.Range) *pages.Memory {
		m := pages.NewMemory(seed)
		var n int64
		for _, r := range ranges {
			n += r.Pages
		}
		if err := m.AddFile(t.Context(), "checkpoint/pages-1.img", bytes.NewReader(make([]byte, n*pages.PageBytes))); err != nil {
			t.Fatal(err)
		}
		m.AddMap(&pages.Pagemap{Name: "pagemap-1.img", PagesID: 1, Ranges: ranges})
		return m
	}
	top := ^uint64(0) - 3*pages.PageBytes
	got := differences(t,
		side(pages.Range{Addr: 0x1000, Pages: 4}, pages.Range{Addr: 0x2000, Pages: 2}, pages.Range{Addr: 0x2800, Pages: 5}),
		side(pages.Range{Addr: 0x1000, Pages: 4}, pages.Range{Addr: top, Pages: 3}))
	want := []pages.Difference{
		{Map: "pagemap-1.img", Addr: 0x1000, Pages: 4, Change: pages.Same},
		{Map: "pagemap-1.img", Addr: 0x5800, Pages: 2, Change: pages.Removed},
		{Map: "pagemap-1.img", Addr: top, Pages: 3, Change: pages.Added},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
