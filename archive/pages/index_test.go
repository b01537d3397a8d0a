package pages_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

func zip(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(plain, nil)
}

func unzip(tb testing.TB, packed []byte) []byte {
	tb.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	b, err := z.DecodeAll(packed, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// valid is an index with everything in it.
func valid() *pages.Index {
	return &pages.Index{
		Packs: []pages.Pack{
			{Sum: pages.Sum{1}, Frames: []pages.Frame{{Length: 100, Pages: 64, Sum: pages.Sum{2}}, {Length: 8192, Pages: 2, Raw: true, Sum: pages.Sum{3}}}},
			{Sum: pages.Sum{4}, Kind: pages.Delta, Frames: []pages.Frame{{Length: 50, Pages: 4, Sum: pages.Sum{5}, Bases: []pages.Run{{Page: 63, Count: 2}, {Page: 0, Count: 2}}}}},
			{Sum: pages.Sum{6}, Frames: []pages.Frame{{Length: 1, Pages: 1, Sum: pages.Sum{7}}}},
		},
		Files: []pages.File{
			{Name: "checkpoint/pages-1.img", Size: 70 * 4096, Sum: pages.Sum{8}, Runs: []pages.Run{{Page: 3, Count: 60}, {Page: -1, Count: 5}, {Page: 66, Count: 5}}},
			{Name: "checkpoint/pages-2.img", Size: 1, Runs: []pages.Run{{Page: 70, Count: 1}}},
			{Name: "checkpoint/pages-3.img"},
		},
	}
}

// TestIndexBytes pins the format: these bytes are in archives of others.
func TestIndexBytes(t *testing.T) {
	sum := func(b byte) string { return string([]byte{b}) + strings.Repeat("\x00", 31) }
	want := "CKPI\x01\x80\x20\x40" +
		"\x03" +
		sum(1) + "\x00\x02" + "\x64\x40\x00" + sum(2) + "\x80\x40\x02\x01" + sum(3) +
		sum(4) + "\x01\x01" + "\x32\x04\x00" + sum(5) + "\x02" + "\x7e\x02" + "\x81\x01\x02" +
		sum(6) + "\x00\x01" + "\x01\x01\x00" + sum(7) +
		"\x03" +
		"\x16checkpoint/pages-1.img" + "\x80\xc0\x11" + sum(8) + "\x03" + "\x78\x06" + "\x0b" + "\x0a\x06" +
		"\x16checkpoint/pages-2.img" + "\x01" + sum(0) + "\x01" + "\x02\x8c\x01" +
		"\x16checkpoint/pages-3.img" + "\x00" + sum(0) + "\x00"
	b, err := valid().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got := unzip(t, b); string(got) != want {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	got, err := pages.ParseIndex(zip(t, []byte(want)))
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Marshal()
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("written again: got %x, %v, want %x", again, err, b)
	}
	if got.PackBytes() != 100+8192+50+1 || got.Packs[0].Size() != 8292 {
		t.Errorf("%d bytes in packs, want 8343", got.PackBytes())
	}
	if f := got.File("checkpoint/pages-2.img"); f == nil || f.Size != 1 {
		t.Errorf("File: got %+v, want that of one byte", f)
	}
	if f := got.File("pages-2.img"); f != nil {
		t.Errorf("File: got %+v, want nil", f)
	}
}

// TestIndexRejects has an index that is wrong in one way each: neither written nor read.
func TestIndexRejects(t *testing.T) {
	for name, spoil := range map[string]func(*pages.Index){
		"unknown kind":        func(ix *pages.Index) { ix.Packs[2].Kind = 2 },
		"empty pack":          func(ix *pages.Index) { ix.Packs[2].Frames = nil },
		"frame without pages": func(ix *pages.Index) { ix.Packs[2].Frames[0].Pages = 0 },
		"65 pages":            func(ix *pages.Index) { ix.Packs[0].Frames[0].Pages = 65 },
		"frame without bytes": func(ix *pages.Index) { ix.Packs[0].Frames[0].Length = 0 },
		"compressed to more":  func(ix *pages.Index) { ix.Packs[0].Frames[1].Raw = false },
		"raw and shorter":     func(ix *pages.Index) { ix.Packs[0].Frames[1].Length-- },
		"raw and longer":      func(ix *pages.Index) { ix.Packs[0].Frames[1].Length++ },
		"one sealed frame":    func(ix *pages.Index) { ix.Packs[0].Frames[0].Sealed = true; ix.Packs[0].Frames[0].Length += 28 },
		"sealed and empty": func(ix *pages.Index) {
			for i := range ix.Packs {
				for j := range ix.Packs[i].Frames {
					ix.Packs[i].Frames[j].Sealed = true
					ix.Packs[i].Frames[j].Length += 28
				}
			}
			ix.Packs[0].Frames[0].Length = 28
		},
		"raw delta":             func(ix *pages.Index) { f := &ix.Packs[1].Frames[0]; f.Raw, f.Length = true, 4*4096 },
		"too few bases":         func(ix *pages.Index) { ix.Packs[1].Frames[0].Bases[1].Count = 1 },
		"too many bases":        func(ix *pages.Index) { ix.Packs[1].Frames[0].Bases[1].Count = 3 },
		"no bases":              func(ix *pages.Index) { ix.Packs[1].Frames[0].Bases = nil },
		"empty run of bases":    func(ix *pages.Index) { ix.Packs[1].Frames[0].Bases[1] = pages.Run{Page: 5} },
		"base before the first": func(ix *pages.Index) { ix.Packs[1].Frames[0].Bases[1].Page = -1 },
		"base in its own pack":  func(ix *pages.Index) { ix.Packs[1].Frames[0].Bases[1].Page = 65 },
		"base behind":           func(ix *pages.Index) { ix.Packs[1].Frames[0].Bases[1] = pages.Run{Page: 70, Count: 2} },
		"bases in two runs": func(ix *pages.Index) {
			ix.Packs[1].Frames[0].Bases = []pages.Run{{Page: 1, Count: 2}, {Page: 3, Count: 2}}
		},
		"base is a delta": func(ix *pages.Index) {
			ix.Packs[2] = pages.Pack{Kind: pages.Delta, Frames: []pages.Frame{{Length: 1, Pages: 1, Bases: []pages.Run{{Page: 66, Count: 1}}}}}
		},
		"name not clean":     func(ix *pages.Index) { ix.Files[0].Name = "../pages-1.img" },
		"no name":            func(ix *pages.Index) { ix.Files[0].Name = "" },
		"name twice":         func(ix *pages.Index) { ix.Files[2].Name = ix.Files[0].Name },
		"runs too short":     func(ix *pages.Index) { ix.Files[0].Runs = ix.Files[0].Runs[:2] },
		"runs too long":      func(ix *pages.Index) { ix.Files[0].Size = 69 * 4096 },
		"pages of nothing":   func(ix *pages.Index) { ix.Files[2].Runs = []pages.Run{{Page: 0, Count: 1}} },
		"page behind all":    func(ix *pages.Index) { ix.Files[1].Runs[0].Page = 71 },
		"run over the end":   func(ix *pages.Index) { ix.Files[0].Runs[2].Page = 67 },
		"empty run":          func(ix *pages.Index) { ix.Files[0].Runs[1].Count = 0; ix.Files[0].Size = 65 * 4096 },
		"negative page":      func(ix *pages.Index) { ix.Files[1].Runs[0].Page = -2 },
		"runs to be joined":  func(ix *pages.Index) { ix.Files[0].Runs = []pages.Run{{Page: 0, Count: 60}, {Page: 60, Count: 10}} },
		"zeros to be joined": func(ix *pages.Index) { ix.Files[0].Runs = []pages.Run{{Page: -1, Count: 60}, {Page: -1, Count: 10}} },
	} {
		t.Run(name, func(t *testing.T) {
			ix := valid()
			spoil(ix)
			if _, err := ix.Marshal(); err == nil {
				t.Error("Marshal: got nil, want an error")
			}
			if _, err := pages.ParseIndex(zip(t, pages.Encode(ix))); !errors.Is(err, archive.ErrRejected) {
				t.Errorf("ParseIndex: got %v, want ErrRejected", err)
			}
		})
	}
}

// TestIndexDamage cuts an index at every place, and adds to it.
func TestIndexDamage(t *testing.T) {
	plain := pages.Encode(valid())
	for n := range plain {
		if _, err := pages.ParseIndex(zip(t, plain[:n])); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("cut at %d: got %v, want ErrRejected", n, err)
		}
	}
	replace := func(old, with string) []byte {
		b := bytes.Replace(plain, []byte(old), []byte(with), 1)
		if bytes.Equal(b, plain) {
			t.Fatalf("%q does not occur", old)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"data behind":       append(bytes.Clone(plain), 0),
		"other magic":       replace("CKPI", "CKPX"),
		"version 2":         replace("CKPI\x01", "CKPI\x02"),
		"other page size":   replace("\x80\x20\x40", "\x80\x40\x40"),
		"other frame size":  replace("\x80\x20\x40", "\x80\x20\x41"),
		"long form":         replace("\x80\x20\x40\x03", "\x80\x20\x40\x83\x00"),
		"long signed form":  replace("\x02\x7e\x02", "\x02\xfe\x00\x02"),
		"64 bits":           replace("\x80\x20\x40\x03", "\x80\x20\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
		"65 bits":           replace("\x80\x20\x40\x03", "\x80\x20\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
		"unknown flag":      replace("\x80\x40\x02\x01", "\x80\x40\x02\x03"),
		"long frame":        replace("\x80\x40\x02\x01", "\x81\x80\x10\x02\x01"),
		"huge page number":  replace("\x02\x8c\x01", "\x02\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
		"least page number": replace("\x02\x8c\x01", "\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
		"zero run as page":  replace("\x78\x06\x0b", "\x78\x06\x0a\x81\x01"),
	} {
		if _, err := pages.ParseIndex(zip(t, b)); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrRejected", name, err)
		}
	}
	for name, b := range map[string][]byte{"nothing": nil, "no zstd": plain, "empty zstd": zip(t, nil), "cut zstd": zip(t, plain)[:50]} {
		if _, err := pages.ParseIndex(b); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrRejected", name, err)
		}
	}
}

// literals is an index of packs of frames of one page, up to the limit and over it.
func literals(packs, frames int) *pages.Index {
	ix := &pages.Index{Packs: make([]pages.Pack, packs)}
	for i := range ix.Packs {
		ix.Packs[i].Frames = make([]pages.Frame, frames/packs)
		for j := range ix.Packs[i].Frames {
			ix.Packs[i].Frames[j] = pages.Frame{Length: 1, Pages: 1}
		}
	}
	return ix
}

func TestIndexLimits(t *testing.T) {
	if testing.Short() || raceDetector {
		t.Skip("takes a gigabyte of memory, and minutes under the race detector")
	}
	filesOf := func(n int) *pages.Index {
		ix := &pages.Index{}
		for i := range n {
			ix.Files = append(ix.Files, pages.File{Name: fmt.Sprint(i)})
		}
		return ix
	}
	runsOf := func(n int) *pages.Index {
		ix := literals(1, 1)
		f := pages.File{Name: "x", Size: int64(n) * pages.PageBytes, Runs: make([]pages.Run, n)}
		for i := range f.Runs {
			f.Runs[i] = pages.Run{Page: -int64(i % 2), Count: 1}
		}
		ix.Files = []pages.File{f}
		return ix
	}
	sized := func(size int64) *pages.Index {
		return &pages.Index{Files: []pages.File{{Name: "x", Size: size, Runs: []pages.Run{{Page: -1, Count: (size + 4095) / 4096}}}}}
	}
	for name, tt := range map[string]struct{ at, over func() *pages.Index }{
		"MaxPacks":     {func() *pages.Index { return literals(pages.MaxPacks, pages.MaxPacks) }, func() *pages.Index { return literals(pages.MaxPacks+1, pages.MaxPacks+1) }},
		"MaxFrames":    {func() *pages.Index { return literals(1, pages.MaxFrames) }, func() *pages.Index { return literals(1, pages.MaxFrames+1) }},
		"MaxFiles":     {func() *pages.Index { return filesOf(pages.MaxFiles) }, func() *pages.Index { return filesOf(pages.MaxFiles + 1) }},
		"MaxRuns":      {func() *pages.Index { return runsOf(pages.MaxRuns) }, func() *pages.Index { return runsOf(pages.MaxRuns + 1) }},
		"MaxFileBytes": {func() *pages.Index { return sized(pages.MaxFileBytes) }, func() *pages.Index { return sized(pages.MaxFileBytes + 1) }},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := tt.at().Marshal()
			if err == nil {
				_, err = pages.ParseIndex(b)
			}
			if err != nil {
				t.Errorf("at the limit: %v", err)
			}
			over := tt.over()
			if _, err := over.Marshal(); err == nil {
				t.Error("over the limit: written")
			}
			if _, err := pages.ParseIndex(zip(t, pages.Encode(over))); !errors.Is(err, archive.ErrRejected) {
				t.Errorf("over the limit: got %v, want ErrRejected", err)
			}
		})
	}
	t.Run("MaxIndexBytes", func(t *testing.T) {
		// Zeros behind the end tell an index that was unpacked from one that was not.
		plain := append(pages.Encode(&pages.Index{}), make([]byte, pages.MaxIndexBytes)...)
		for n, want := range map[int]string{pages.MaxIndexBytes: "behind the end", pages.MaxIndexBytes + 1: "exceeds"} {
			if _, err := pages.ParseIndex(zip(t, plain[:n])); !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), want) {
				t.Errorf("%d bytes: got %v, want %q", n, err, want)
			}
		}
	})
}

// TestIndexAnnounces has counts of what does not follow: no memory is taken for it.
func TestIndexAnnounces(t *testing.T) {
	head := []byte("CKPI\x01\x80\x20\x40")
	b := binary.AppendUvarint(append(head, 0, 1, 1, 'x', 0), 1<<40)
	if _, err := pages.ParseIndex(zip(t, b)); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("got %v, want ErrRejected", err)
	}
	many := append(bytes.Clone(head), 0, 1, 1, 'x', 0)
	many = append(many, make([]byte, 32)...)
	many = binary.AppendUvarint(many, pages.MaxRuns)
	allocated := testing.Benchmark(func(b *testing.B) {
		packed := zip(b, many)
		for b.Loop() {
			_, _ = pages.ParseIndex(packed)
		}
	}).AllocedBytesPerOp()
	if allocated > 4<<20 {
		t.Errorf("%d bytes for an index of %d", allocated, len(many))
	}
}

// FuzzIndex reads anything: no panic, every refusal an ErrRejected, and what is accepted is
// written as the same bytes.
func FuzzIndex(f *testing.F) {
	f.Add(pages.Encode(valid()))
	f.Add(pages.Encode(&pages.Index{}))
	f.Add(pages.Encode(literals(2, 8)))
	f.Fuzz(func(t *testing.T, plain []byte) {
		ix, err := pages.DecodeIndex(plain)
		if err != nil {
			if !errors.Is(err, archive.ErrRejected) {
				t.Fatalf("got %v, which is no ErrRejected", err)
			}
			return
		}
		if again := pages.Encode(ix); !bytes.Equal(again, plain) {
			t.Fatalf("accepted %x, written as %x", plain, again)
		}
		b, err := ix.Marshal()
		if err != nil {
			t.Fatalf("what was accepted cannot be written: %v", err)
		}
		if parsed, err := pages.ParseIndex(b); err != nil || !reflect.DeepEqual(parsed, ix) {
			t.Fatalf("read again: %v, or another index", err)
		}
		// Whatever it says, its files are read to an end and nothing of them is made up.
		r := pages.NewReader(t.Context(), ix, newStore())
		defer r.Close()
		for i := range ix.Files {
			if ix.Files[i].Size > 1<<20 {
				continue
			}
			if err := r.Rebuild(t.Context(), ix.Files[i].Name, &file{}); err == nil && len(ix.Files[i].Runs) > 0 && ix.Files[i].Runs[0].Page >= 0 {
				t.Fatal("rebuilt from packs that nobody has")
			}
		}
	})
}
