package pages

import (
	"context"
	"crypto/sha256"
	"sync"
)

// job is a frame that is filled, compressed and written.
type job struct {
	lane       int
	plain      []byte
	bases      []Run // of changed pages, in the numbers of the parent
	base       []byte
	out        []byte
	sealed     []byte // the buffer that encryption writes to
	kind       Kind
	raw        bool
	sum        Sum
	unreadable int64 // pages
	err        error
	busy       sync.WaitGroup
}

// spare are buffers to be used again.
type spare struct {
	blocks []*block
	jobs   []*job
}

func (s *spare) block() *block {
	if n := len(s.blocks); n > 0 {
		b := s.blocks[n-1]
		s.blocks = s.blocks[:n-1]
		return b
	}
	return newBlock()
}

func (s *spare) job(l int) *job {
	var j *job
	if n := len(s.jobs); n > 0 {
		j = s.jobs[n-1]
		s.jobs = s.jobs[:n-1]
	} else {
		j = &job{plain: make([]byte, 0, frameBytes), base: make([]byte, 0, frameBytes), out: make([]byte, 0, frameBytes+frameBytes/8)}
	}
	j.lane, j.plain, j.bases, j.unreadable, j.err = l, j.plain[:0], nil, 0, nil
	return j
}

// compress makes a frame of a job's pages: a delta if that is worth it.
func (w *Writer) compress(j *job) {
	e := <-w.encoders
	defer func() { w.encoders <- e }()
	j.kind = Literal
	if j.lane == laneChanged {
		j.kind = w.compressDelta(j, e)
	}
	if j.kind == Literal {
		j.bases = nil
		j.out, j.raw = e.literalFrame(j.out, j.plain)
	} else {
		j.raw = false
	}
	if w.sealer != nil {
		j.sealed = w.sealer.Seal(j.sealed[:0], nil, j.out, nil)
		j.out, j.sealed = j.sealed, j.out
	}
	j.sum = sha256.Sum256(j.out)
}

func (w *Writer) compressDelta(j *job, e *encoder) Kind {
	j.base = j.base[:len(j.plain)]
	at := 0
	for _, r := range j.bases {
		end := at + int(r.Count)*PageBytes
		if err := w.opts.Parent.Reader.readPages(j.base[at:end], r.Page); err != nil {
			j.unreadable = int64(len(j.plain) / PageBytes) // as in compare
			return Literal
		}
		at = end
	}
	var ok bool
	if j.out, ok, j.err = e.deltaFrame(j.out, j.plain, j.base); ok {
		return Delta
	}
	return Literal
}

// output is the packs of one kind.
type output struct {
	packs []*Pack // new ones; their hash is known when they are committed
	open  PackWriter
	bytes int64 // in the open pack
	pages int64 // in all packs
}

// write adds a frame and says how many pages came before it.
func (o *output) write(ctx context.Context, w *Writer, j *job) (int64, error) {
	if o.open != nil && o.bytes+int64(len(j.out)) > w.packBytes() {
		o.end(ctx, w)
	}
	if o.open == nil {
		p, err := w.opts.Create(ctx)
		if err != nil {
			return 0, err
		}
		o.open, o.bytes = p, 0
		o.packs = append(o.packs, &Pack{Kind: j.kind})
	}
	if _, err := o.open.Write(j.out); err != nil {
		return 0, err
	}
	p := o.packs[len(o.packs)-1]
	p.Frames = append(p.Frames, Frame{Length: len(j.out), Pages: len(j.plain) / PageBytes, Raw: j.raw, Sealed: w.sealer != nil, Sum: j.sum, Bases: j.bases})
	first := o.pages
	o.bytes += int64(len(j.out))
	o.pages += int64(len(j.plain) / PageBytes)
	return first, nil
}

// end commits the open pack in the background: that waits for the disk.
func (o *output) end(ctx context.Context, w *Writer) {
	if o.open == nil {
		return
	}
	pack, out := o.packs[len(o.packs)-1], o.open
	o.open = nil
	w.commits.Go(func() (err error) {
		defer out.Close() //nolint:errcheck // Commit tells what is to be told
		pack.Sum, err = out.Commit(ctx, pack.Kind)
		return err
	})
}

// packBytes is the size that packs are to have: the 64th part of what the memory may
// compress to, within limits.
func (w *Writer) packBytes() int64 {
	if w.opts.PackBytes > 0 {
		return w.opts.PackBytes
	}
	var pages int64
	for _, m := range w.maps {
		for _, r := range m.Ranges {
			pages += min(r.Pages, MaxFileBytes/PageBytes)
		}
	}
	w.opts.PackBytes = choosePackBytes(min(pages, MaxFileBytes/PageBytes) * PageBytes)
	return w.opts.PackBytes
}

func choosePackBytes(memory int64) int64 {
	packed := memory / 2
	size := int64(MinPackBytes)
	for size < MaxPackBytes && size < packed/64 {
		size *= 2
	}
	for size < packed/fewPacks {
		size *= 2
	}
	return size
}

// number gives all pages their numbers: first the packs of the parent that are needed, then the
// new literal and the new delta packs.
func (w *Writer) number() *Index {
	ix := &Index{}
	moved := w.keep(ix)
	var first [2]int64
	total := newLayout(ix.Packs).total
	for kind := range w.outs {
		first[kind] = total
		total += w.outs[kind].pages
		for _, p := range w.outs[kind].packs {
			for i := range p.Frames {
				p.Frames[i].Bases = moved.runs(p.Frames[i].Bases)
			}
			ix.Packs = append(ix.Packs, *p)
		}
	}
	for i := range w.files {
		f := &w.files[i]
		for _, r := range f.runs {
			switch r.lane {
			case laneZero:
				f.Runs = appendRun(f.Runs, zeroPages, r.Count)
			case laneParent:
				f.Runs = appendRun(f.Runs, moved.page(r.Page), r.Count)
			default:
				f.Runs = w.lanes[r.lane].number(f.Runs, r.Run, first)
			}
		}
		ix.Files = append(ix.Files, f.File)
	}
	return ix
}

// number adds pages of a lane to runs. Each frame of a lane but the last is full.
func (l *lane) number(runs []Run, r Run, first [2]int64) []Run {
	for r.Count > 0 {
		frame, slot := r.Page/FramePages, r.Page%FramePages
		n := min(r.Count, FramePages-slot)
		at := l.placed[frame]
		runs = appendRun(runs, first[at.kind]+at.first+slot, n)
		r.Page += n
		r.Count -= n
	}
	return runs
}

// moves says how the numbers of the parent's pages have changed.
type moves struct {
	layout *layout
	by     []int64 // by pack, what is to be added
}

func (m *moves) page(old int64) int64 {
	return old + m.by[m.layout.places[m.layout.find(old)].pack]
}

// runs gives runs their new numbers. The packs between two pages of a run are all there.
func (m *moves) runs(old []Run) []Run {
	var moved []Run
	for _, r := range old {
		moved = appendRun(moved, m.page(r.Page), r.Count)
	}
	return moved
}

// keep adds those packs of the parent to ix that are referred to, by way of base pages as well.
func (w *Writer) keep(ix *Index) *moves {
	if w.layout == nil {
		return &moves{}
	}
	packs := w.opts.Parent.Reader.index.Packs
	needed := make([]bool, len(packs))
	mark := func(r Run) {
		for n := w.layout.find(r.Page); n < len(w.layout.places) && w.layout.places[n].first < r.Page+r.Count; n++ {
			needed[w.layout.places[n].pack] = true
		}
	}
	for i := range w.files {
		for _, r := range w.files[i].runs {
			if r.lane == laneParent {
				mark(r.Run)
			}
		}
	}
	markBases := func(p *Pack) {
		for i := range p.Frames {
			for _, r := range p.Frames[i].Bases {
				mark(r)
			}
		}
	}
	for _, p := range w.outs[Delta].packs {
		markBases(p)
	}
	for i := len(packs) - 1; i >= 0; i-- { // base pages are in packs before
		if needed[i] {
			markBases(&packs[i])
		}
	}
	m := &moves{layout: w.layout, by: make([]int64, len(packs))}
	var gone int64
	for i := range packs {
		if !needed[i] {
			gone += packs[i].pages()
			continue
		}
		m.by[i] = -gone
		kept := packs[i]
		kept.Frames = append([]Frame(nil), kept.Frames...)
		for j := range kept.Frames {
			if len(kept.Frames[j].Bases) > 0 {
				kept.Frames[j].Bases = m.runs(kept.Frames[j].Bases)
			}
		}
		ix.Packs = append(ix.Packs, kept)
	}
	return m
}
