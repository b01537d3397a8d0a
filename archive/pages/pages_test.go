package pages_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// packStore keeps packs in memory.
type packStore struct {
	mu     sync.Mutex
	packs  map[pages.Sum][]byte
	kinds  map[pages.Sum]pages.Kind
	opened int // pack writers that were neither committed nor closed
	reads  int // of packs
}

func newStore() *packStore {
	return &packStore{packs: map[pages.Sum][]byte{}, kinds: map[pages.Sum]pages.Kind{}}
}

func (s *packStore) create(context.Context) (pages.PackWriter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	return &memPack{store: s}, nil
}

func (s *packStore) OpenPack(_ context.Context, p *pages.Pack) (archive.Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.packs[p.Sum]
	if !ok {
		return nil, fmt.Errorf("pack %x: %w", p.Sum, archive.ErrNotFound)
	}
	return &memBlob{Reader: bytes.NewReader(b), store: s}, nil
}

type memBlob struct {
	*bytes.Reader
	store *packStore
}

func (b *memBlob) ReadAt(p []byte, off int64) (int, error) {
	b.store.mu.Lock()
	b.store.reads++
	b.store.mu.Unlock()
	return b.Reader.ReadAt(p, off)
}

func (b *memBlob) Close() error { return nil }

type memPack struct {
	bytes.Buffer
	store *packStore
	done  bool
}

func (p *memPack) Commit(_ context.Context, kind pages.Kind) (pages.Sum, error) {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	sum := sha256.Sum256(p.Bytes())
	p.store.packs[sum], p.store.kinds[sum] = p.Bytes(), kind
	return sum, p.end()
}

func (p *memPack) end() error {
	if !p.done {
		p.done = true
		p.store.opened--
	}
	return nil
}

func (p *memPack) Close() error {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	return p.end()
}

// space is the memory of a task, or a shared one: pages by their addresses.
type space struct {
	name  string // of the page map
	id    uint32
	pages map[uint64][]byte
}

// image gives the pages file and the page map image, of entries as CRIU makes them.
func (s *space) image(rng *rand.Rand) (content, pagemapImage []byte) {
	addrs := make([]uint64, 0, len(s.pages))
	for a := range s.pages {
		addrs = append(addrs, a)
	}
	slices.Sort(addrs)
	img := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	img = binary.LittleEndian.AppendUint32(img, 0x56084025)
	entry := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		img = append(binary.LittleEndian.AppendUint32(img, uint32(len(b))), b...)
	}
	entry(&pagemap.PagemapHead{PagesId: &s.id})
	for i := 0; i < len(addrs); {
		n := 1
		for i+n < len(addrs) && addrs[i+n] == addrs[i]+uint64(n)*pages.PageBytes && (rng == nil || rng.IntN(300) > 0) {
			n++
		}
		for _, a := range addrs[i : i+n] {
			content = append(content, s.pages[a]...)
		}
		e := &pagemap.PagemapEntry{Vaddr: &addrs[i], CompatNrPages: proto.Uint32(uint32(n)), Flags: proto.Uint32(4)}
		if rng != nil && rng.IntN(2) == 0 {
			e.NrPages = proto.Uint64(uint64(n))
		}
		entry(e)
		if rng != nil && rng.IntN(10) == 0 {
			// Pages that the file does not have: in a parent of CRIU's.
			entry(&pagemap.PagemapEntry{Vaddr: &addrs[i], CompatNrPages: proto.Uint32(7), Flags: proto.Uint32(1)})
		}
		i += n
	}
	return content, img
}

// checkpoint is the memory of a container at a time.
type checkpoint struct {
	files map[string][]byte
	names []string
	maps  []*pages.Pagemap
}

func snapshot(tb testing.TB, spaces []*space, rng *rand.Rand) *checkpoint {
	tb.Helper()
	c := &checkpoint{files: map[string][]byte{}}
	for _, s := range spaces {
		content, img := s.image(rng)
		m, err := pages.ReadPagemap("checkpoint/"+s.name, bytes.NewReader(img))
		if err != nil {
			tb.Fatal(err)
		}
		name := "checkpoint/" + m.PagesFile()
		c.files[name] = content
		c.names = append(c.names, name)
		c.maps = append(c.maps, m)
	}
	return c
}

// write stores a checkpoint and gives its index as a reader gets it.
func write(tb testing.TB, store *packStore, c *checkpoint, opts pages.WriterOptions) (*pages.Index, pages.Stats) {
	tb.Helper()
	opts.Create = store.create
	w, err := pages.NewWriter(opts)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	for _, m := range c.maps {
		w.Map(m)
	}
	for _, name := range c.names {
		n, err := w.Put(tb.Context(), name, bytes.NewReader(c.files[name]))
		if err != nil || n != int64(len(c.files[name])) {
			tb.Fatalf("%s: took %d bytes of %d, %v", name, n, len(c.files[name]), err)
		}
	}
	ix, err := w.Commit(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil || store.opened != 0 {
		tb.Errorf("close: %v, %d packs left open", err, store.opened)
	}
	b, err := ix.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := pages.ParseIndex(b)
	if err != nil {
		tb.Fatal(err)
	}
	if again, err := parsed.Marshal(); err != nil || !bytes.Equal(again, b) {
		tb.Errorf("the index that was read is written as %d bytes, %v, want the same %d", len(again), err, len(b))
	}
	return parsed, w.Stats()
}

func newReader(tb testing.TB, ix *pages.Index, store *packStore) *pages.Reader {
	tb.Helper()
	r := pages.NewReader(tb.Context(), ix, store)
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// file is an io.WriterAt in memory.
type file struct {
	mu sync.Mutex
	b  []byte
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := off + int64(len(p)); n > int64(len(f.b)) {
		f.b = append(f.b, make([]byte, n-int64(len(f.b)))...)
	}
	return copy(f.b[off:], p), nil
}

// verify rebuilds every file in all ways.
func verify(tb testing.TB, r *pages.Reader, want *checkpoint, rng *rand.Rand) {
	tb.Helper()
	if got := len(r.Index().Files); got != len(want.names) {
		tb.Errorf("%d files, want %d", got, len(want.names))
	}
	for _, name := range want.names {
		content := want.files[name]
		var f file
		if err := r.Rebuild(tb.Context(), name, &f); err != nil || !bytes.Equal(f.b, content) {
			tb.Errorf("%s: rebuilt %d bytes, %v, that are not the %d wanted", name, len(f.b), err, len(content))
		}
		s, err := r.Stream(tb.Context(), name)
		if err != nil {
			tb.Fatal(err)
		}
		if got, err := io.ReadAll(iotest.HalfReader(s)); err != nil || !bytes.Equal(got, content) {
			tb.Errorf("%s: streamed %d bytes, %v, that are not the %d wanted", name, len(got), err, len(content))
		}
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
		blob, err := r.Open(name)
		if err != nil || blob.Size() != int64(len(content)) {
			tb.Fatalf("%s: %v, or not %d bytes", name, err, len(content))
		}
		for range 10 {
			if len(content) == 0 {
				break
			}
			off := rng.IntN(len(content))
			p := make([]byte, 1+rng.IntN(3*pages.PageBytes))
			n, err := blob.ReadAt(p, int64(off))
			part := content[off:min(off+len(p), len(content))]
			if !bytes.Equal(p[:n], part) || errors.Is(err, io.EOF) != (n < len(p)) || err != nil && !errors.Is(err, io.EOF) {
				tb.Errorf("%s: ReadAt(%d) of %d: got %d, %v, want %d bytes", name, off, len(p), n, err, len(part))
			}
		}
	}
}

// world makes memory and changes it at random.
type world struct {
	rng    *rand.Rand
	spaces []*space
	nextID uint32
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7))}
	for i := range 1 + w.rng.IntN(3) {
		w.fork(fmt.Sprintf("pagemap-%d.img", i+1))
	}
	if w.rng.IntN(2) == 0 {
		w.fork("pagemap-shmem-77.img")
	}
	return w
}

// fork adds an address space with some mappings.
func (w *world) fork(name string) {
	w.nextID++
	s := &space{name: name, id: w.nextID, pages: map[uint64][]byte{}}
	for range w.rng.IntN(4) {
		w.mmap(s)
	}
	w.spaces = append(w.spaces, s)
}

func (w *world) mmap(s *space) {
	start := uint64(w.rng.IntN(1000)) * 100 * pages.PageBytes
	for i := range 1 + w.rng.IntN(400) {
		s.pages[start+uint64(i)*pages.PageBytes] = w.page()
	}
}

func (w *world) page() []byte {
	p := make([]byte, pages.PageBytes)
	switch w.rng.IntN(4) {
	case 0: // zeros
	case 1: // incompressible
		for i := 0; i < len(p); i += 8 {
			binary.LittleEndian.PutUint64(p[i:], w.rng.Uint64())
		}
	default:
		for i := 0; i < len(p); i += 16 {
			binary.LittleEndian.PutUint64(p[i:], 0x7f0000000000+w.rng.Uint64N(1<<20)*8)
		}
	}
	return p
}

// change lets time pass.
func (w *world) change() {
	for _, s := range w.spaces {
		addrs := make([]uint64, 0, len(s.pages))
		for a := range s.pages {
			addrs = append(addrs, a)
		}
		slices.Sort(addrs) // the order of a map is not the seed's
		for _, a := range addrs {
			switch n := w.rng.IntN(200); {
			case n < 10: // a few words
				p := bytes.Clone(s.pages[a])
				for range 1 + w.rng.IntN(5) {
					p[w.rng.IntN(len(p))]++
				}
				s.pages[a] = p
			case n < 12: // rewritten
				s.pages[a] = w.page()
			case n < 13:
				s.pages[a] = make([]byte, pages.PageBytes)
			case n < 14: // given back
				delete(s.pages, a)
			case n < 15: // moved
				delete(s.pages, a)
				s.pages[a+1<<30] = w.page()
			}
		}
		if w.rng.IntN(2) == 0 {
			w.mmap(s)
		}
	}
	switch w.rng.IntN(4) {
	case 0:
		w.fork(fmt.Sprintf("pagemap-%d.img", 10+w.rng.IntN(1000)))
	case 1:
		if len(w.spaces) > 1 {
			w.spaces = w.spaces[1:]
		}
	case 2: // the files have other numbers, as after a restore
		for i, s := range w.spaces {
			s.id = uint32(100 + len(w.spaces) - i)
		}
		w.nextID += 200
	}
}

// TestGenerations keeps the checkpoints of random lives, each as a child of the one before, and rebuilds all.
func TestGenerations(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(seed)
			store := newStore()
			type kept struct {
				ix *pages.Index
				c  *checkpoint
			}
			var all []kept
			var parent *pages.Parent
			for range 6 {
				c := snapshot(t, w.spaces, w.rng)
				ix, stats := write(t, store, c, pages.WriterOptions{Parent: parent, PackBytes: 300 << 10})
				if sum := stats.Zero + stats.Same + stats.Changed + stats.Stored; sum != stats.Pages || stats.Unreadable != 0 {
					t.Errorf("%+v does not add up", stats)
				}
				all = append(all, kept{ix, c})
				parent = &pages.Parent{Reader: newReader(t, ix, store), Maps: c.maps}
				w.change()
			}
			for _, k := range all {
				verify(t, newReader(t, k.ix, store), k.c, w.rng)
				for i := range k.ix.Packs {
					p := &k.ix.Packs[i]
					if got := int64(len(store.packs[p.Sum])); got != p.Size() || store.kinds[p.Sum] != p.Kind {
						t.Errorf("pack %d: %d bytes, the index says %d", i, got, p.Size())
					}
				}
			}
		})
	}
}

// big gives one task with n pages of a heap.
func big(n int) []*space {
	w := &world{rng: rand.New(rand.NewPCG(1, 2))}
	s := &space{name: "pagemap-1.img", id: 1, pages: map[uint64][]byte{}}
	for i := range n {
		p := w.page()
		p[0] = 1 // not zero
		s.pages[uint64(i)*pages.PageBytes] = p
	}
	return []*space{s}
}

// TestChangeCostsLittle is what the package is for.
func TestChangeCostsLittle(t *testing.T) {
	spaces, store := big(4000), newStore()
	first := snapshot(t, spaces, nil)
	ix, stats := write(t, store, first, pages.WriterOptions{})
	if stats.Stored != 4000 {
		t.Fatalf("%+v, want all pages stored", stats)
	}
	parent := &pages.Parent{Reader: newReader(t, ix, store), Maps: first.maps}
	if again, stats := write(t, store, first, pages.WriterOptions{Parent: parent}); stats.Same != 4000 || stats.NewBytes != 0 || len(again.Packs) != len(ix.Packs) {
		t.Errorf("unchanged: %+v in %d packs, want nothing new", stats, len(again.Packs))
	}
	for i := range 40 {
		p := bytes.Clone(spaces[0].pages[uint64(i)*100*pages.PageBytes])
		copy(p[i:], "changed")
		spaces[0].pages[uint64(i)*100*pages.PageBytes] = p
	}
	second := snapshot(t, spaces, nil)
	child, stats := write(t, store, second, pages.WriterOptions{Parent: parent})
	if stats.Changed != 40 || stats.Same != 3960 || stats.NewBytes > 40*60 {
		t.Errorf("1 %% changed: %+v, want 40 deltas of some bytes each", stats)
	}
	verify(t, newReader(t, child, store), second, rand.New(rand.NewPCG(3, 4)))
	// The grandchild's deltas are made from the literal pages: depth 1.
	grandparent := &pages.Parent{Reader: newReader(t, child, store), Maps: second.maps}
	for i := range 40 {
		p := bytes.Clone(spaces[0].pages[uint64(i)*100*pages.PageBytes])
		copy(p[1000+i:], "again")
		spaces[0].pages[uint64(i)*100*pages.PageBytes] = p
	}
	third := snapshot(t, spaces, nil)
	last, stats := write(t, store, third, pages.WriterOptions{Parent: grandparent})
	if stats.Changed != 40 || len(last.Packs) != len(ix.Packs)+1 {
		t.Errorf("third: %+v in %d packs, want 40 deltas, and the second's pack no longer needed", stats, len(last.Packs))
	}
	verify(t, newReader(t, last, store), third, rand.New(rand.NewPCG(3, 4)))
}

// TestMovedMemory has the same content at other addresses: the packs are the same again, and an index may name both.
func TestMovedMemory(t *testing.T) {
	spaces, store := big(64), newStore()
	first := snapshot(t, spaces, nil)
	ix, _ := write(t, store, first, pages.WriterOptions{})
	moved := &space{name: "pagemap-1.img", id: 1, pages: map[uint64][]byte{}}
	for a, p := range spaces[0].pages {
		moved.pages[a+1<<30] = p
	}
	moved.pages[0] = spaces[0].pages[0]
	second := snapshot(t, []*space{moved}, nil)
	child, stats := write(t, store, second, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, ix, store), Maps: first.maps}})
	if stats.Same != 1 || stats.Stored != 64 || len(child.Packs) != 2 || child.Packs[0].Sum != child.Packs[1].Sum {
		t.Errorf("%+v in %d packs, want the same pack twice", stats, len(child.Packs))
	}
	verify(t, newReader(t, child, store), second, rand.New(rand.NewPCG(3, 4)))
}

// TestDeterministic writes the same on one core and on many, through readers of all manners.
func TestDeterministic(t *testing.T) {
	spaces := big(3000)
	first := snapshot(t, spaces, nil)
	for a := range spaces[0].pages {
		if a/pages.PageBytes%7 == 0 {
			spaces[0].pages[a] = bytes.Clone(spaces[0].pages[a])
			spaces[0].pages[a][9]++
		}
	}
	second := snapshot(t, spaces, nil)
	var want []byte
	for _, procs := range []int{1, 2, 7} {
		store := newStore()
		old := runtime.GOMAXPROCS(procs)
		ix, _ := write(t, store, first, pages.WriterOptions{PackBytes: 1 << 20})
		child, _ := write(t, store, second, pages.WriterOptions{PackBytes: 1 << 20, Parent: &pages.Parent{Reader: newReader(t, ix, store), Maps: first.maps}})
		runtime.GOMAXPROCS(old)
		got, err := child.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Errorf("on %d cores: another index than on one", procs)
		}
	}
}

// TestWithoutAddresses stores memory whose page map is missing, wrong or of another file.
func TestWithoutAddresses(t *testing.T) {
	spaces, store := big(100), newStore()
	c := snapshot(t, spaces, nil)
	ix, _ := write(t, store, c, pages.WriterOptions{})
	right := c.maps[0]
	for name, maps := range map[string][]*pages.Pagemap{
		"none":        nil,
		"too short":   {{Name: right.Name, PagesID: 1, Ranges: []pages.Range{{Addr: 0, Pages: 10}}}},
		"too long":    {{Name: right.Name, PagesID: 1, Ranges: []pages.Range{{Addr: 1 << 40, Pages: 1 << 40}}}},
		"overlapping": {{Name: right.Name, PagesID: 1, Ranges: []pages.Range{{Addr: 0, Pages: 60}, {Addr: 0, Pages: 60}, {Addr: 4096, Pages: 1}}}},
		"not aligned": {{Name: right.Name, PagesID: 1, Ranges: []pages.Range{{Addr: 17, Pages: 100}}}},
		"wraps":       {{Name: right.Name, PagesID: 1, Ranges: []pages.Range{{Addr: ^uint64(0), Pages: 100}}}},
		"other file":  {{Name: right.Name, PagesID: 2, Ranges: right.Ranges}},
		"other task":  {{Name: "pagemap-9.img", PagesID: 1, Ranges: right.Ranges}},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := *c
			wrong.maps = maps
			child, _ := write(t, store, &wrong, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, ix, store), Maps: c.maps}})
			verify(t, newReader(t, child, store), c, rand.New(rand.NewPCG(3, 4)))
			// And the wrong one as the parent.
			child, _ = write(t, store, c, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, child, store), Maps: maps}})
			verify(t, newReader(t, child, store), c, rand.New(rand.NewPCG(3, 4)))
		})
	}
	// A left-over map of shared memory that names the file of a task.
	leftover := *c
	leftover.maps = []*pages.Pagemap{{Name: "pagemap-shmem-5.img", PagesID: 1, Ranges: []pages.Range{{Addr: 1 << 40, Pages: 100}}}, right}
	if _, stats := write(t, store, &leftover, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, ix, store), Maps: c.maps}}); stats.Same != 100 {
		t.Errorf("with a left-over map: %+v, want all the same", stats)
	}
}

// TestOddSizes has files that are no whole pages, and empty ones.
func TestOddSizes(t *testing.T) {
	store := newStore()
	c := &checkpoint{files: map[string][]byte{}}
	for i, size := range []int{0, 1, 4095, 4096, 4097, 64 * 4096, 64*4096 + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 17} {
		name := fmt.Sprintf("checkpoint/pages-%d.img", i+1)
		c.names = append(c.names, name)
		c.files[name] = bytes.Repeat([]byte{byte(i + 1)}, size)
	}
	ix, _ := write(t, store, c, pages.WriterOptions{})
	verify(t, newReader(t, ix, store), c, rand.New(rand.NewPCG(3, 4)))
	empty, _ := write(t, store, &checkpoint{}, pages.WriterOptions{})
	verify(t, newReader(t, empty, store), &checkpoint{}, nil)
	child, _ := write(t, store, c, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, empty, store)}})
	verify(t, newReader(t, child, store), c, rand.New(rand.NewPCG(3, 4)))
}

// Frames that are not full, as the last one of each checkpoint, do not spoil the buffers for those that are: more
// frames are read than the cache keeps, and then all of them again.
func TestMoreFramesThanAreKept(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	store := newStore()
	s := big(110*pages.FramePages + 3)
	one := snapshot(t, s, rng)
	ix, _ := write(t, store, one, pages.WriterOptions{})
	r := newReader(t, ix, store)
	for range 2 {
		verify(t, r, one, rng)
	}
}
