package pages_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive/pages"
)

// benchBytes is the memory that is measured.
const benchBytes = 256 << 20

// heap gives memory as a data server has it: of five pages one is incompressible, the others
// hold small numbers and pointers.
func heap(size int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, size)
	for off := 0; off < size; off += pages.PageBytes {
		p := b[off : off+pages.PageBytes]
		for i := 0; i < len(p); i += 16 {
			binary.LittleEndian.PutUint64(p[i:], 0x7f0000000000+rng.Uint64N(1<<20)*8)
			binary.LittleEndian.PutUint64(p[i+8:], rng.Uint64N(256))
			if off/pages.PageBytes%5 == 4 {
				binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
				binary.LittleEndian.PutUint64(p[i+8:], rng.Uint64())
			}
		}
	}
	return b
}

// touched gives memory in which a word of some per cent of the pages is another.
func touched(old []byte, percent int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	b := bytes.Clone(old)
	for off := 0; off < len(b); off += pages.PageBytes {
		if rng.IntN(100) < percent {
			b[off+rng.IntN(pages.PageBytes)]++
		}
	}
	return b
}

func heapOf(b []byte) *checkpoint {
	return &checkpoint{
		names: []string{"checkpoint/pages-1.img"},
		files: map[string][]byte{"checkpoint/pages-1.img": b},
		maps:  []*pages.Pagemap{{Name: "pagemap-1.img", PagesID: 1, Ranges: []pages.Range{{Addr: 1 << 40, Pages: int64(len(b) / pages.PageBytes)}}}},
	}
}

// hashing is a store that keeps nothing and hashes everything, as real ones do.
type hashing struct{ io.Writer }

func (h hashing) Commit(context.Context, pages.Kind) (pages.Sum, error) { return pages.Sum{}, nil }

func (h hashing) Close() error { return nil }

func hashOnly(context.Context) (pages.PackWriter, error) { return hashing{sha256.New()}, nil }

func benchWrite(b *testing.B, c *checkpoint, parent *pages.Index, maps []*pages.Pagemap, store pages.Packs) {
	b.SetBytes(benchBytes)
	b.ReportAllocs()
	var stats pages.Stats
	before := cpuTime(b)
	for b.Loop() {
		opts := pages.WriterOptions{Create: hashOnly}
		if parent != nil {
			opts.Parent = &pages.Parent{Reader: pages.NewReader(b.Context(), parent, store), Maps: maps}
		}
		w, err := pages.NewWriter(opts)
		if err != nil {
			b.Fatal(err)
		}
		w.Map(c.maps[0])
		if _, err := w.Put(b.Context(), c.names[0], bytes.NewReader(c.files[c.names[0]])); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
		stats = w.Stats()
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		if opts.Parent != nil {
			opts.Parent.Reader.Close()
		}
	}
	b.ReportMetric(float64(stats.NewBytes)/benchBytes, "packed/plain")
	// On a machine that does other work, this is what can be compared.
	b.ReportMetric((cpuTime(b)-before)/float64(b.N)/benchBytes*1e9, "cpu-ns/B")
}

// cpuTime is what the process has used of all cores, in seconds.
func cpuTime(tb testing.TB) float64 {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// BenchmarkWrite stores memory: all of it, and as a child in which so many per cent of the pages have changed.
func BenchmarkWrite(b *testing.B) {
	first := heapOf(heap(benchBytes))
	store := newStore()
	parent, _ := write(b, store, first, pages.WriterOptions{})
	b.Run("full", func(b *testing.B) { benchWrite(b, first, nil, nil, nil) })
	for _, percent := range []int{0, 1, 5, 20} {
		c := first
		if percent > 0 {
			c = heapOf(touched(first.files[first.names[0]], percent))
		}
		b.Run(fmt.Sprintf("changed=%d%%", percent), func(b *testing.B) { benchWrite(b, c, parent, first.maps, store) })
	}
}

// BenchmarkRebuild gives the pages file back: of a first checkpoint, and of the child of children.
func BenchmarkRebuild(b *testing.B) {
	c, store := heapOf(heap(benchBytes)), newStore()
	ix, _ := write(b, store, c, pages.WriterOptions{})
	for generation := range 5 {
		if generation > 0 {
			maps := c.maps
			c = heapOf(touched(c.files[c.names[0]], generation))
			ix, _ = write(b, store, c, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(b, ix, store), Maps: maps}})
		}
		if generation%2 == 1 {
			continue
		}
		to := &flat{make([]byte, benchBytes)}
		b.Run(fmt.Sprintf("generation=%d", generation), func(b *testing.B) {
			b.SetBytes(benchBytes)
			b.ReportAllocs()
			for b.Loop() {
				r := pages.NewReader(b.Context(), ix, store)
				if err := r.Rebuild(b.Context(), c.names[0], to); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}

// flat is an io.WriterAt that needs no lock.
type flat struct{ b []byte }

func (f *flat) WriteAt(p []byte, off int64) (int, error) { return copy(f.b[off:], p), nil }

// BenchmarkReadAt reads pages at random places.
func BenchmarkReadAt(b *testing.B) {
	c, store := heapOf(heap(benchBytes)), newStore()
	ix, _ := write(b, store, c, pages.WriterOptions{})
	r := newReader(b, ix, store)
	blob, err := r.Open(c.names[0])
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, pages.PageBytes)
	for b.Loop() {
		if _, err := blob.ReadAt(p, rng.Int64N(benchBytes/pages.PageBytes)*pages.PageBytes); err != nil {
			b.Fatal(err)
		}
	}
}

// endless is a gigabyte of memory that nobody holds.
type endless struct {
	page []byte
	left int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), e.left)], e.page)
	e.left -= int64(n)
	e.page[e.left%pages.PageBytes]++
	return n, nil
}

// TestPeakMemory writes a gigabyte and looks at the heap: it is bounded whatever the input is.
func TestPeakMemory(t *testing.T) {
	if testing.Short() || raceDetector {
		t.Skip("writes a gigabyte, which takes minutes under the race detector")
	}
	w, err := pages.NewWriter(pages.WriterOptions{Create: hashOnly})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	page := heap(1 << 20)
	if _, err := w.Put(t.Context(), "checkpoint/pages-1.img", &endless{page, 1 << 30}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&during)
	if _, err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	// HeapSys never shrinks: it is the most that there was.
	if got := int64(during.HeapSys) - int64(before.HeapSys); got > 64<<20 {
		t.Errorf("the heap grew by %d MiB for a gigabyte of memory, want 64 at most", got>>20)
	}
}

func TestChoosePackBytes(t *testing.T) {
	for memory, want := range map[int64]int64{
		0: 16 << 20, 1 << 30: 16 << 20, 2 << 30: 16 << 20, 3 << 30: 32 << 20, 8 << 30: 64 << 20, 1 << 38: 64 << 20,
		1 << 40: 256 << 20, pages.MaxFileBytes: 16 << 30,
	} {
		if got := pages.ChoosePackBytes(memory); got != want {
			t.Errorf("%d bytes: got packs of %d MiB, want %d", memory, got>>20, want>>20)
		}
	}
}
