package pages

import (
	"context"
	"hash/maphash"
	"io"
	"maps"
	"slices"
)

// Memory is the memory of a checkpoint, for [Diff]. It is that of an index ([IndexedMemory]), of which nothing
// is read but what has to be compared, or that of pages files read as streams ([NewMemory]), of which 8 bytes
// are kept for each page.
type Memory struct {
	seed   maphash.Seed
	files  []File
	maps   []*Pagemap
	reader *Reader  // nil: of streams
	sums   []uint64 // of streams, by the number of the page
}

// NewMemory makes a memory to which [Memory.AddMap] and [Memory.AddFile] add what a checkpoint has. Pages are
// compared by their hashes with the seed, which is random: nobody can make two pages that are taken for one.
// Both sides of a comparison have the same.
func NewMemory(seed maphash.Seed) *Memory { return &Memory{seed: seed} }

// IndexedMemory makes a memory of an index. The reader is not closed.
func IndexedMemory(seed maphash.Seed, r *Reader) *Memory {
	return &Memory{seed: seed, reader: r, files: r.index.Files}
}

// AddMap adds a page map. Pages without one have no address and are not compared.
func (m *Memory) AddMap(pm *Pagemap) { m.maps = append(m.maps, pm) }

// Indexed tells whether the memory has all of its files.
func (m *Memory) Indexed() bool { return m.reader != nil }

// AddFile reads a pages file, called name in the archive, to its end. The reader is the caller's.
func (m *Memory) AddFile(ctx context.Context, name string, r io.Reader) error {
	b, first := newBlock(), int64(len(m.sums))
	for {
		err := b.read(ctx, r)
		if err != nil && err != io.EOF { //nolint:errorlint // its own
			return err
		}
		for i := range b.pages() {
			m.sums = append(m.sums, maphash.Bytes(m.seed, b.page(i)))
		}
		if err != nil {
			break
		}
	}
	if n := int64(len(m.sums)) - first; n > 0 {
		m.files = append(m.files, File{Name: name, Runs: []Run{{first, n}}})
	}
	return nil
}

// sum is the hash of a page.
func (m *Memory) sum(page int64) (uint64, error) {
	var content [PageBytes]byte
	switch {
	case page == zeroPages:
	case m.reader == nil:
		return m.sums[page], nil
	default:
		if err := m.reader.readPages(content[:], page); err != nil {
			return 0, err
		}
	}
	return maphash.Bytes(m.seed, content[:]), nil
}

// Change is what became of a page.
type Change uint8

// What becomes of pages.
const (
	Same    Change = iota
	Changed        // there in both, with different content
	Added          // in the second memory only
	Removed        // in the first memory only
)

// Difference is what became of consecutive pages.
type Difference struct {
	Map    string // name of the page map: pagemap-PID.img of a task, pagemap-shmem-ID.img of shared memory
	Addr   uint64 // of the first page, in bytes
	Pages  int64
	Change Change
}

// Diff compares memories page by page, at the same virtual addresses, and tells f of all pages in ascending
// order of maps and addresses. Of two indexes pages that lie in the same frame are not read.
func Diff(ctx context.Context, a, b *Memory, f func(Difference)) error {
	d := &differ{a: a, b: b, report: f}
	old, now := newMemory(a.files, a.maps), newMemory(b.files, b.maps)
	names := maps.Clone(old)
	maps.Copy(names, now)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := d.space(ctx, name, old[name], now[name]); err != nil {
			return err
		}
	}
	return nil
}

type differ struct {
	a, b   *Memory
	report func(Difference)
	last   Difference // not told yet

	// The last two frames that were held against each other.
	frameA, frameB int
	sameFrame      bool
	framesKnown    bool
}

// space compares two address spaces.
func (d *differ) space(ctx context.Context, name string, old, now []extent) error {
	d.last = Difference{Map: name}
	for len(old) > 0 || len(now) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].addr < now[0].addr:
			n := old[0].count
			if len(now) > 0 {
				n = min(n, pagesBetween(old[0].addr, now[0].addr))
			}
			d.tell(old[0].addr, n, Removed)
			old = behind(old, old[0].addr, n)
		case len(old) == 0 || now[0].addr < old[0].addr:
			n := now[0].count
			if len(old) > 0 {
				n = min(n, pagesBetween(now[0].addr, old[0].addr))
			}
			d.tell(now[0].addr, n, Added)
			now = behind(now, now[0].addr, n)
		default:
			n := min(old[0].count, now[0].count)
			if err := d.pages(ctx, old[0], now[0], n); err != nil {
				return err
			}
			old, now = behind(old, old[0].addr, n), behind(now, now[0].addr, n)
		}
	}
	d.flush()
	return nil
}

// behind takes n pages from the address off the extents. Pages that a malformed map names again are passed over.
func behind(e []extent, addr uint64, n int64) []extent {
	addr += uint64(n) * PageBytes //nolint:gosec // positive
	for len(e) > 0 && e[0].addr < addr {
		skip := min(e[0].count, pagesBetween(e[0].addr, addr))
		if skip == e[0].count {
			e = e[1:]
			continue
		}
		e[0].addr += uint64(skip) * PageBytes //nolint:gosec // positive
		e[0].count -= skip
		if e[0].page != zeroPages {
			e[0].page += skip
		}
	}
	return e
}

// pagesBetween is how many pages begin from one address on and before a higher one.
func pagesBetween(from, to uint64) int64 {
	return int64((to-from-1)/PageBytes + 1) //nolint:gosec // 2^52 at most
}

// pages compares n pages that are in both.
func (d *differ) pages(ctx context.Context, old, now extent, n int64) error {
	if old.page == zeroPages && now.page == zeroPages {
		d.tell(old.addr, n, Same)
		return nil
	}
	for i := range n {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p, q := old.page, now.page
		if p != zeroPages {
			p += i
		}
		if q != zeroPages {
			q += i
		}
		same, err := d.same(p, q)
		if err != nil {
			return err
		}
		change := Changed
		if same {
			change = Same
		}
		d.tell(old.addr+uint64(i)*PageBytes, 1, change)
	}
	return nil
}

// same compares two pages.
func (d *differ) same(p, q int64) (bool, error) {
	if p >= 0 && q >= 0 && d.a.reader != nil && d.b.reader != nil && d.sameStored(p, q) {
		return true, nil
	}
	s, err := d.a.sum(p)
	if err != nil {
		return false, err
	}
	t, err := d.b.sum(q)
	return s == t, err
}

// sameStored tells whether two pages are the same place of the same frame.
func (d *differ) sameStored(p, q int64) bool {
	l, m := d.a.reader.layout, d.b.reader.layout
	i, j := l.find(p), m.find(q)
	if p-l.places[i].first != q-m.places[j].first {
		return false
	}
	if !d.framesKnown || d.frameA != i || d.frameB != j {
		d.frameA, d.frameB, d.framesKnown = i, j, true
		d.sameFrame = sameFrame(l, i, m, j)
	}
	return d.sameFrame
}

// sameFrame tells whether two frames unpack to the same pages: their bytes are the same, and so are the base pages.
func sameFrame(l *layout, i int, m *layout, j int) bool {
	f, g := l.places[i].frame, m.places[j].frame
	if f.Sum != g.Sum || f.Length != g.Length || f.Pages != g.Pages || f.Raw != g.Raw || f.Sealed != g.Sealed || l.kind(i) != m.kind(j) {
		return false
	}
	if l.kind(i) == Literal {
		return true
	}
	first, second := basesOf(f), basesOf(g)
	return slices.EqualFunc(first, second, func(p, q int64) bool {
		i, j := l.find(p), m.find(q)
		return p-l.places[i].first == q-m.places[j].first && sameFrame(l, i, m, j) // of literal frames: it goes no deeper
	})
}

// basesOf gives the numbers of the base pages of a frame.
func basesOf(f *Frame) []int64 {
	all := make([]int64, 0, f.Pages)
	for _, r := range f.Bases {
		for i := range r.Count {
			all = append(all, r.Page+i)
		}
	}
	return all
}

// tell joins what is consecutive.
func (d *differ) tell(addr uint64, n int64, c Change) {
	if d.last.Pages > 0 && d.last.Change == c && d.last.Addr+uint64(d.last.Pages)*PageBytes == addr {
		d.last.Pages += n
		return
	}
	d.flush()
	d.last.Addr, d.last.Pages, d.last.Change = addr, n, c
}

func (d *differ) flush() {
	if d.last.Pages > 0 {
		d.report(d.last)
	}
	d.last.Pages = 0
}
