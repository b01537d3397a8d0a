package pages

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sort"

	"github.com/ckarchive/ckarchive/archive"
)

// Kind is what the frames of a pack are.
type Kind uint8

// The kinds of packs.
const (
	Literal Kind = iota // frames that stand for themselves
	Delta               // frames that need base pages
)

// Sum is a SHA-256.
type Sum = [sha256.Size]byte

// Index says where the pages of a checkpoint are.
type Index struct {
	// Packs are all packs that are needed. Base pages lie in packs before those that need them. Two
	// packs may be the same blob, when memory has moved.
	Packs []Pack
	// Files are the pages files in the order of the archive.
	Files []File
}

// Pack is a blob of frames.
type Pack struct {
	Sum    Sum // of the whole pack
	Kind   Kind
	Frames []Frame
}

// Frame is a piece of a pack.
type Frame struct {
	Length int  // bytes in the pack
	Pages  int  // 1 to FramePages
	Raw    bool // stored as it is, not compressed
	Sealed bool // encrypted after that
	Sum    Sum  // of the bytes in the pack
	// Bases are, for a frame of a Delta pack, the pages that make its dictionary: one for each of its pages.
	Bases []Run
}

// zeroPages is the Page of a run of zero pages, which are stored nowhere.
const zeroPages = -1

// Run is a sequence of pages.
type Run struct {
	Page  int64 // number of the first one, or -1 for pages of zeros
	Count int64
}

// File is a pages file.
type File struct {
	Name string // of the archive's member, checkpoint/pages-1.img
	Size int64  // bytes; where it is no multiple of PageBytes, zeros fill the last page
	Sum  Sum    // of the content
	Runs []Run
}

// Size is the length of the pack in bytes.
func (p *Pack) Size() int64 {
	var n int64
	for i := range p.Frames {
		n += int64(p.Frames[i].Length)
	}
	return n
}

// pages is the number of pages in the pack.
func (p *Pack) pages() int64 {
	var n int64
	for i := range p.Frames {
		n += int64(p.Frames[i].Pages)
	}
	return n
}

// File finds a file by its name; nil if there is none.
func (ix *Index) File(name string) *File {
	for i := range ix.Files {
		if ix.Files[i].Name == name {
			return &ix.Files[i]
		}
	}
	return nil
}

// PackBytes is the length of all packs in bytes.
func (ix *Index) PackBytes() int64 {
	var n int64
	for i := range ix.Packs {
		n += ix.Packs[i].Size()
	}
	return n
}

// pagesOf is how many pages hold size bytes.
func pagesOf(size int64) int64 { return (size + PageBytes - 1) / PageBytes }

// place is where a frame is.
type place struct {
	pack   int
	frame  *Frame
	first  int64 // number of its first page
	offset int64 // in the pack, bytes
}

// layout finds frames by the numbers of their pages.
type layout struct {
	places []place
	kinds  []Kind // of the packs
	total  int64  // pages
}

func newLayout(packs []Pack) *layout {
	l := &layout{kinds: make([]Kind, len(packs))}
	n := 0
	for i := range packs {
		n += len(packs[i].Frames)
	}
	l.places = make([]place, 0, n)
	for i := range packs {
		l.kinds[i] = packs[i].Kind
		var offset int64
		for j := range packs[i].Frames {
			f := &packs[i].Frames[j]
			l.places = append(l.places, place{pack: i, frame: f, first: l.total, offset: offset})
			offset += int64(f.Length)
			l.total += int64(f.Pages)
		}
	}
	return l
}

// find gives the number of the frame that holds a page below total.
func (l *layout) find(page int64) int {
	return sort.Search(len(l.places), func(i int) bool { return l.places[i].first > page }) - 1
}

func (l *layout) kind(frame int) Kind { return l.kinds[l.places[frame].pack] }

// base is the literal page that a new version of page is compressed with: itself, or what it was
// made from.
func (l *layout) base(page int64) int64 {
	n := l.find(page)
	if l.kind(n) == Literal {
		return page
	}
	slot := page - l.places[n].first
	for _, r := range l.places[n].frame.Bases {
		if slot < r.Count {
			return r.Page + slot
		}
		slot -= r.Count
	}
	return zeroPages // no valid index comes here
}

// check proves what every index promises.
func (ix *Index) check() error {
	if len(ix.Packs) > MaxPacks || len(ix.Files) > MaxFiles {
		return fmt.Errorf("%d packs and %d files, the limits are %d and %d", len(ix.Packs), len(ix.Files), MaxPacks, MaxFiles)
	}
	frames, runs := 0, 0
	for i := range ix.Packs {
		frames += len(ix.Packs[i].Frames)
		for j := range ix.Packs[i].Frames {
			runs += len(ix.Packs[i].Frames[j].Bases)
		}
	}
	for i := range ix.Files {
		runs += len(ix.Files[i].Runs)
	}
	if frames > MaxFrames || runs > MaxRuns {
		return fmt.Errorf("%d frames and %d runs, the limits are %d and %d", frames, runs, MaxFrames, MaxRuns)
	}
	l := newLayout(ix.Packs)
	if err := ix.checkPacks(l); err != nil {
		return err
	}
	return ix.checkFiles(l.total)
}

func (ix *Index) checkPacks(l *layout) error {
	n, sealed := 0, ix.Sealed()
	for i := range ix.Packs {
		p := &ix.Packs[i]
		if p.Kind > Delta || len(p.Frames) == 0 {
			return fmt.Errorf("pack %d: of an unknown kind, or empty", i)
		}
		packFirst := l.places[n].first
		for j := range p.Frames {
			if err := p.Frames[j].check(p.Kind, packFirst, l); err != nil {
				return fmt.Errorf("pack %d, frame %d: %w", i, j, err)
			}
			if p.Frames[j].Sealed != sealed {
				return fmt.Errorf("pack %d, frame %d: some frames are encrypted and some are not", i, j)
			}
			n++
		}
	}
	return nil
}

// packed is the length of the frame before it was encrypted.
func (f *Frame) packed() int {
	if f.Sealed {
		return f.Length - sealBytes
	}
	return f.Length
}

// Sealed tells whether the frames are encrypted. All are, or none.
func (ix *Index) Sealed() bool {
	return len(ix.Packs) > 0 && len(ix.Packs[0].Frames) > 0 && ix.Packs[0].Frames[0].Sealed
}

// check is for one frame of a pack whose first page has the number packFirst.
func (f *Frame) check(kind Kind, packFirst int64, l *layout) error {
	plain, packed := f.Pages*PageBytes, f.packed()
	switch {
	case f.Pages < 1 || f.Pages > FramePages:
		return fmt.Errorf("%d pages, the limit is %d", f.Pages, FramePages)
	case f.Raw && (packed != plain || kind == Delta):
		return errors.New("neither compressed nor as long as its pages, or a delta that is not compressed")
	case !f.Raw && (packed < 1 || packed >= plain):
		return fmt.Errorf("%d compressed bytes for %d pages", packed, f.Pages)
	case kind == Literal && len(f.Bases) > 0:
		return errors.New("a literal frame with base pages")
	case kind == Literal:
		return nil
	}
	left := int64(f.Pages)
	for i, r := range f.Bases {
		if r.Count < 1 || r.Count > left || r.Page < 0 || r.Page > packFirst-r.Count {
			return errors.New("base pages that are not in packs before it, or too many")
		}
		if i > 0 && f.Bases[i-1].Page+f.Bases[i-1].Count == r.Page {
			return errors.New("base pages in more runs than needed")
		}
		for n := l.find(r.Page); n < len(l.places) && l.places[n].first < r.Page+r.Count; n++ {
			if l.kind(n) != Literal {
				return errors.New("a base page that is a delta itself")
			}
		}
		left -= r.Count
	}
	if left != 0 {
		return fmt.Errorf("%d pages without a base page", left)
	}
	return nil
}

func (ix *Index) checkFiles(total int64) error {
	seen := make(map[string]bool, len(ix.Files))
	for i := range ix.Files {
		f := &ix.Files[i]
		if clean, err := archive.CleanName(f.Name); err != nil || clean != f.Name || seen[f.Name] {
			return fmt.Errorf("file %s: not a clean name, or listed twice", archive.QuoteName(f.Name))
		}
		seen[f.Name] = true
		if f.Size < 0 || f.Size > MaxFileBytes {
			return fmt.Errorf("file %s: %d bytes, the limit is %d", archive.QuoteName(f.Name), f.Size, MaxFileBytes)
		}
		if err := checkRuns(f.Runs, pagesOf(f.Size), total); err != nil {
			return fmt.Errorf("file %s: %w", archive.QuoteName(f.Name), err)
		}
	}
	return nil
}

// checkRuns is for runs that cover want pages out of total.
func checkRuns(runs []Run, want, total int64) error {
	for i, r := range runs {
		if r.Count < 1 || r.Count > want {
			return errors.New("runs that are not as long as the file")
		}
		want -= r.Count
		if r.Page != zeroPages && (r.Page < 0 || r.Page > total-r.Count) {
			return fmt.Errorf("pages %d to %d of %d", r.Page, r.Page+r.Count-1, total)
		}
		if i > 0 && follows(runs[i-1], r.Page) {
			return errors.New("more runs than needed")
		}
	}
	if want != 0 {
		return errors.New("runs that are not as long as the file")
	}
	return nil
}

// follows tells whether a run goes on with page.
func follows(r Run, page int64) bool {
	if r.Page == zeroPages || page == zeroPages {
		return r.Page == page
	}
	return r.Page+r.Count == page
}

// appendRun adds pages to runs, of which there are never more than needed.
func appendRun(runs []Run, page, count int64) []Run {
	if n := len(runs); n > 0 && follows(runs[n-1], page) {
		runs[n-1].Count += count
		return runs
	}
	return append(runs, Run{page, count})
}
