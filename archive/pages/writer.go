package pages

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/ckarchive/ckarchive/archive"
)

// PackWriter takes a pack; nothing is seen of it before Commit.
type PackWriter interface {
	io.Writer
	// Commit makes the pack visible and durable and gives its SHA-256. It may be called
	// while other packs are written.
	Commit(ctx context.Context, kind Kind) (Sum, error)
	// Close discards a pack that was not committed. It may be called after Commit.
	Close() error
}

// WriterOptions are the options of [NewWriter].
type WriterOptions struct {
	// Create begins a pack; it is required. Two packs are filled at a time.
	Create func(ctx context.Context) (PackWriter, error)
	// Parent, unless nil, is an earlier checkpoint whose pages are referred to.
	Parent *Parent
	// Key, unless nil, encrypts the frames: KeyBytes random bytes, those of the parent if there is one. It
	// is to encrypt one row of children and nothing else.
	Key []byte
	// PackBytes is the size that packs are to have, in bytes; 0 chooses one between
	// MinPackBytes and MaxPackBytes by the size of the memory. No pack is larger unless one frame is.
	PackBytes int64
}

// Stats are what became of the pages that a [Writer] took.
type Stats struct {
	Pages   int64 // all of them
	Zero    int64 // hold zeros only
	Same    int64 // are the parent's
	Changed int64 // were stored as deltas
	Stored  int64 // were stored as they are
	// Unreadable is how many pages could not be compared because the parent's could not be read;
	// they are among the Stored.
	Unreadable int64
	// NewBytes is the size of the new packs.
	NewBytes int64
}

// Writer takes the pages files of a checkpoint. It is used by one goroutine.
type Writer struct {
	opts   WriterOptions
	maps   []*Pagemap
	old    memory
	layout *layout // of the parent
	sealer cipher.AEAD
	files  []laneFile
	stats  Stats

	lanes    [2]lane // literal and changed pages that wait for their frame to be full
	outs     [2]output
	blocks   []*block // being compared, oldest first
	jobs     []*job   // being compressed, oldest first
	spare    spare
	commits  errgroup.Group
	encoders chan *encoder
	err      error
}

// lane is a sequence of pages on their way to frames.
type lane struct {
	fill   *job
	pages  int64 // so far
	placed []placed
}

// The lanes of pages, and two that need no frame.
const (
	laneLiteral = iota
	laneChanged
	laneParent
	laneZero
)

// placed is where a frame of a lane went.
type placed struct {
	kind  Kind
	first int64 // pages before it in the new packs of this kind
}

// laneFile is a File whose runs are by lane until the numbers of all pages are known.
type laneFile struct {
	File
	runs []laneRun
}

type laneRun struct {
	lane int
	Run
}

// NewWriter makes a writer. The caller closes it, also after Commit.
func NewWriter(opts WriterOptions) (*Writer, error) {
	w := &Writer{opts: opts, old: opts.Parent.memory(), encoders: make(chan *encoder, workers())}
	var err error
	if w.sealer, err = newSealer(opts.Key); err != nil {
		return nil, err
	}
	if opts.Parent != nil {
		if ix := opts.Parent.Reader.index; len(ix.Packs) > 0 && ix.Sealed() != (w.sealer != nil) {
			return nil, errors.New("parent and child are encrypted with the same key, or both not")
		}
		w.layout = opts.Parent.Reader.layout
	}
	w.commits.SetLimit(packCommits)
	for range cap(w.encoders) {
		e, err := newEncoder()
		if err != nil {
			return nil, err
		}
		w.encoders <- e
	}
	return w, nil
}

// Map tells the addresses of the pages of a file that is still to come. Without it its pages have
// none, and nothing of the parent is found.
func (w *Writer) Map(m *Pagemap) { w.maps = append(w.maps, m) }

// Put takes the pages file called name, reading r to its end; it does not close it. It returns the
// number of bytes. An error leaves the writer good for nothing but Close.
func (w *Writer) Put(ctx context.Context, name string, r io.Reader) (int64, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.files = append(w.files, laneFile{File: File{Name: name}})
	f := &w.files[len(w.files)-1]
	sums := newSummer()
	err := w.put(ctx, f, r, sums)
	f.Sum = sums.end()
	if err != nil {
		w.err = &archive.EntryError{Op: "write", Name: name, Err: err}
	}
	return f.Size, w.err
}

// Sum is the SHA-256 of the file that was put last.
func (w *Writer) Sum() Sum { return w.files[len(w.files)-1].Sum }

func (w *Writer) put(ctx context.Context, f *laneFile, r io.Reader, sums *summer) error {
	addrs := newAddresses(mapOf(w.maps, f.Name), w.old)
	for {
		b := w.spare.block()
		err := b.read(ctx, r)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if b.n > 0 {
			addrs.lookUp(b.old[:b.pages()], f.Size/PageBytes)
			f.Size += int64(b.n)
			if f.Size > MaxFileBytes {
				return fmt.Errorf("more than %d bytes", MaxFileBytes)
			}
			sums.add(b)
			b.busy.Go(func() { w.compare(b) })
			w.blocks = append(w.blocks, b)
		} else {
			w.spare.blocks = append(w.spare.blocks, b)
		}
		keep := workers()
		if err != nil {
			keep = 0
		}
		for len(w.blocks) > keep {
			if terr := w.take(ctx, f); terr != nil {
				return terr
			}
		}
		if err != nil {
			return nil
		}
	}
}

// take gives the pages of the oldest block to their lanes.
func (w *Writer) take(ctx context.Context, f *laneFile) error {
	b := w.blocks[0]
	w.blocks = w.blocks[1:]
	b.busy.Wait()
	w.stats.Pages += int64(b.pages())
	w.stats.Unreadable += b.unreadable
	for i := range b.pages() {
		l, page := b.lane[i], b.old[i]
		switch l {
		case laneZero:
			w.stats.Zero++
			page = zeroPages
		case laneParent:
			w.stats.Same++
		default:
			page = w.lanes[l].pages
			if err := w.add(ctx, l, b.page(i), b.old[i]); err != nil {
				return err
			}
		}
		f.add(l, page)
	}
	w.spare.blocks = append(w.spare.blocks, b)
	return nil
}

// add appends a page to the runs of a file.
func (f *laneFile) add(l int, page int64) {
	if n := len(f.runs); n > 0 && f.runs[n-1].lane == l && follows(f.runs[n-1].Run, page) {
		f.runs[n-1].Count++
		return
	}
	f.runs = append(f.runs, laneRun{l, Run{page, 1}})
}

// add puts a page into the frame that its lane fills; old is the parent's page of a changed one.
func (w *Writer) add(ctx context.Context, l int, page []byte, old int64) error {
	t := &w.lanes[l]
	if t.fill == nil {
		t.fill = w.spare.job(l)
	}
	t.fill.plain = append(t.fill.plain, page...)
	if l == laneChanged {
		t.fill.bases = appendRun(t.fill.bases, w.layout.base(old), 1)
	}
	t.pages++
	if len(t.fill.plain) == frameBytes {
		return w.pack(ctx, l)
	}
	return nil
}

// pack begins to compress the frame that a lane has filled.
func (w *Writer) pack(ctx context.Context, l int) error {
	j := w.lanes[l].fill
	w.lanes[l].fill = nil
	w.jobs = append(w.jobs, j)
	j.busy.Go(func() { w.compress(j) })
	return w.writeOut(ctx, workers())
}

// writeOut writes the oldest frames until no more than keep are left.
func (w *Writer) writeOut(ctx context.Context, keep int) error {
	for len(w.jobs) > keep {
		j := w.jobs[0]
		w.jobs = w.jobs[1:]
		j.busy.Wait()
		if j.err != nil {
			return j.err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := int64(len(j.plain) / PageBytes)
		if j.kind == Delta {
			w.stats.Changed += n
		} else {
			w.stats.Stored += n
		}
		w.stats.Unreadable += j.unreadable
		w.stats.NewBytes += int64(len(j.out))
		first, err := w.outs[j.kind].write(ctx, w, j)
		if err != nil {
			return err
		}
		w.lanes[j.lane].placed = append(w.lanes[j.lane].placed, placed{j.kind, first})
		w.spare.jobs = append(w.spare.jobs, j)
	}
	return nil
}

// Commit ends the packs and gives the index, which names every pack that is needed, those of
// the parent among them. Writing it down is the caller's affair.
func (w *Writer) Commit(ctx context.Context) (*Index, error) {
	if w.err != nil {
		return nil, w.err
	}
	w.err = errClosed
	for l := range w.lanes {
		if w.lanes[l].fill != nil {
			if err := w.pack(ctx, l); err != nil {
				return nil, err
			}
		}
	}
	if err := w.writeOut(ctx, 0); err != nil {
		return nil, err
	}
	for kind := range w.outs {
		w.outs[kind].end(ctx, w)
	}
	if err := w.commits.Wait(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ix := w.number()
	if err := ix.check(); err != nil {
		return nil, fmt.Errorf("write page index: %w", err)
	}
	return ix, nil
}

// Stats tells what became of the pages; it is complete after Commit.
func (w *Writer) Stats() Stats { return w.stats }

// Close discards the packs that are not whole. Packs that were committed stay.
func (w *Writer) Close() error {
	if w.encoders == nil {
		return nil
	}
	if w.err == nil {
		w.err = errClosed
	}
	for _, b := range w.blocks {
		b.busy.Wait()
	}
	for _, j := range w.jobs {
		j.busy.Wait()
	}
	_ = w.commits.Wait() // Commit has told what is to be told
	var err error
	for kind := range w.outs {
		if p := w.outs[kind].open; p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	for range cap(w.encoders) {
		e := <-w.encoders
		e.close()
	}
	w.blocks, w.jobs, w.encoders, w.spare = nil, nil, nil, spare{}
	return err
}
