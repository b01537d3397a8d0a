package pages_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// pagemapOf makes an image of entries; a nil one is 4 bytes of nonsense.
func pagemapOf(tb testing.TB, id uint32, entries ...*pagemap.PagemapEntry) []byte {
	tb.Helper()
	img := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	img = binary.LittleEndian.AppendUint32(img, 0x56084025)
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			tb.Fatal(err)
		}
		img = append(binary.LittleEndian.AppendUint32(img, uint32(len(b))), b...)
	}
	add(&pagemap.PagemapHead{PagesId: &id})
	for _, e := range entries {
		add(e)
	}
	return img
}

func entryAt(addr uint64, n uint32, flags uint32) *pagemap.PagemapEntry {
	return &pagemap.PagemapEntry{Vaddr: &addr, CompatNrPages: &n, Flags: &flags}
}

func TestReadPagemap(t *testing.T) {
	old := entryAt(0x9000, 5, 0)
	old.Flags = nil
	inParent := entryAt(0xa000, 5, 0)
	inParent.Flags, inParent.InParent = nil, proto.Bool(true)
	large := entryAt(1<<40, 1, 6)
	large.NrPages = proto.Uint64(1 << 33)
	img := pagemapOf(t, 7, entryAt(0x1000, 2, 4), entryAt(0x4000, 3, 6), entryAt(0x8000, 1, 1), old, inParent, entryAt(0xf000, 0, 4), large)
	m, err := pages.ReadPagemap("checkpoint/pagemap-12.img", iotest.OneByteReader(bytes.NewReader(img)))
	if err != nil {
		t.Fatal(err)
	}
	want := []pages.Range{{Addr: 0x1000, Pages: 2}, {Addr: 0x4000, Pages: 3}, {Addr: 0x9000, Pages: 5}, {Addr: 1 << 40, Pages: 1 << 33}}
	if m.Name != "pagemap-12.img" || m.PagesFile() != "pages-7.img" || !slices.Equal(m.Ranges, want) {
		t.Errorf("got %+v, want %v of pages-7.img", m, want)
	}
	for name, want := range map[string]bool{
		"checkpoint/pagemap-1.img": true, "pagemap-shmem-9.img": true, "checkpoint/pages-1.img": false,
		"checkpoint/pagemap-1.img/x": false, "checkpoint/mm-1.img": false,
	} {
		if got := pages.IsPagemap(name); got != want {
			t.Errorf("IsPagemap(%q): got %t", name, got)
		}
	}
}

func TestReadPagemapRejects(t *testing.T) {
	whole := pagemapOf(t, 7, entryAt(0x1000, 2, 4))
	wraps := entryAt(^uint64(0)-4096, 2, 4)
	endless := entryAt(0, 2, 4)
	endless.NrPages = proto.Uint64(1 << 60)
	images := map[string][]byte{
		"wraps around":   pagemapOf(t, 1, wraps),
		"too many pages": pagemapOf(t, 1, endless),
		"other magic":    append([]byte{1, 2, 3, 4}, whole[4:]...),
		"other kind":     append(append(bytes.Clone(whole[:4]), 1, 2, 3, 4), whole[8:]...),
		"no protobuf":    append(bytes.Clone(whole), 1, 0, 0, 0, 0xff),
		"no head":        whole[:8],
		"long entry":     append(bytes.Clone(whole), 1, 0x10, 0, 0),
	}
	for n := range whole {
		// Behind the head, an image that is cut between entries is one with fewer.
		if n != 8+4+2 {
			images[string(rune('0'+n))+" bytes"] = whole[:n]
		}
	}
	for name, img := range images {
		if m, err := pages.ReadPagemap("pagemap-1.img", bytes.NewReader(img)); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %+v, %v, want ErrRejected", name, m, err)
		}
	}
	// The disk is not the image's fault.
	_, err := pages.ReadPagemap("pagemap-1.img", iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(whole))))
	if !errors.Is(err, iotest.ErrTimeout) || errors.Is(err, archive.ErrRejected) {
		t.Errorf("got %v, want the reader's error and no ErrRejected", err)
	}
}

func TestPagemapLimits(t *testing.T) {
	whole := pagemapOf(t, 7)
	unknown := func(n int) []byte { // an entry with an unknown field that makes it n bytes long
		b, err := proto.Marshal(entryAt(0, 1, 4))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, 0x7a) // field 15, bytes
		b = binary.AppendUvarint(b, uint64(n-len(b)-2))
		b = append(b, make([]byte, n-len(b))...)
		return append(binary.LittleEndian.AppendUint32(bytes.Clone(whole), uint32(n)), b...)
	}
	if m, err := pages.ReadPagemap("x", bytes.NewReader(unknown(pages.MaxPagemapEntryBytes))); err != nil || len(m.Ranges) != 1 {
		t.Errorf("at the limit: got %+v, %v, want one range", m, err)
	}
	if _, err := pages.ReadPagemap("x", bytes.NewReader(unknown(pages.MaxPagemapEntryBytes+1))); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("over the limit: got %v, want ErrRejected", err)
	}
	if testing.Short() || raceDetector {
		t.Skip("millions of entries take minutes under the race detector")
	}
	one := pagemapOf(t, 7, entryAt(0, 1, 4))[len(whole):]
	img := append(bytes.Clone(whole), bytes.Repeat(one, pages.MaxPagemapRanges)...)
	if m, err := pages.ReadPagemap("x", bytes.NewReader(img)); err != nil || len(m.Ranges) != pages.MaxPagemapRanges {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := pages.ReadPagemap("x", bytes.NewReader(append(img, one...))); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("over the limit: got %v, want ErrRejected", err)
	}
}

func FuzzPagemap(f *testing.F) {
	f.Add(pagemapOf(f, 7, entryAt(0x1000, 2, 4), entryAt(0x4000, 3, 6)))
	c := snapshot(f, big(10), rand.New(rand.NewPCG(1, 1)))
	_, img := big(10)[0].image(nil)
	f.Add(img)
	store := newStore()
	ix, _ := write(f, store, c, pages.WriterOptions{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := pages.ReadPagemap("pagemap-1.img", bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, archive.ErrRejected) {
				t.Fatalf("got %v, which is no ErrRejected", err)
			}
			return
		}
		// Whatever it says, the content is kept.
		m.PagesID = 1
		wrong := &checkpoint{names: c.names, files: c.files, maps: []*pages.Pagemap{m}}
		child, _ := write(t, store, wrong, pages.WriterOptions{Parent: &pages.Parent{Reader: newReader(t, ix, store), Maps: wrong.maps}})
		verify(t, newReader(t, child, store), c, rand.New(rand.NewPCG(3, 4)))
	})
}
