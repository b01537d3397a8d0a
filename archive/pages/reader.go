package pages

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/ckarchive/ckarchive/archive"
)

// Packs is where the packs of an index are.
type Packs interface {
	// OpenPack opens a pack; whoever asked closes it. What it reads need not be checked
	// against the pack's hash. A pack that is missing is an archive.ErrNotFound.
	OpenPack(ctx context.Context, p *Pack) (archive.Blob, error)
}

// Reader gives the files of an index. It may be used concurrently.
type Reader struct {
	ctx    context.Context //nolint:containedctx // io.ReaderAt has none of its own
	cancel context.CancelCauseFunc
	index  *Index
	layout *layout
	packs  Packs
	cache  *cache
	opener cipher.AEAD // nil: frames are not encrypted
	files  map[string]*fileRuns

	mu     sync.Mutex
	blobs  []archive.Blob // by pack, opened when first needed
	spare  []*frameDecoder
	closed bool
}

// errClosed is what a closed reader or writer says.
var errClosed = errors.New("already closed")

// NewReader makes a reader of an index, which must be valid: one that [ParseIndex] or [Writer.Commit] gave.
// It is not to be changed afterwards. ctx is for all reads; packs must outlive the reader,
// which the caller closes.
func NewReader(ctx context.Context, ix *Index, packs Packs) *Reader {
	r := &Reader{index: ix, packs: packs, layout: newLayout(ix.Packs), blobs: make([]archive.Blob, len(ix.Packs)), files: map[string]*fileRuns{}}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.cache = newCache(r.load)
	for i := range ix.Files {
		r.files[ix.Files[i].Name] = newFileRuns(&ix.Files[i])
	}
	return r
}

// NewSealedReader is [NewReader] for an index with encrypted frames: key is that of the writer.
func NewSealedReader(ctx context.Context, ix *Index, packs Packs, key []byte) (*Reader, error) {
	opener, err := newSealer(key)
	if err != nil {
		return nil, err
	}
	r := NewReader(ctx, ix, packs)
	r.opener = opener
	return r, nil
}

// Index is the index that the reader reads by.
func (r *Reader) Index() *Index { return r.index }

// Close ends reads that are under way and closes the packs.
func (r *Reader) Close() error {
	r.cancel(errClosed)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var err error
	for _, b := range r.blobs {
		if b != nil {
			err = errors.Join(err, b.Close())
		}
	}
	for _, d := range r.spare {
		d.close()
	}
	r.blobs, r.spare = nil, nil
	return err
}

// blob opens a pack.
func (r *Reader) blob(pack int) (archive.Blob, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed
	}
	if r.blobs[pack] == nil {
		b, err := r.packs.OpenPack(r.ctx, &r.index.Packs[pack])
		if err != nil {
			return nil, err
		}
		r.blobs[pack] = b
	}
	return r.blobs[pack], nil
}

// decoder gives a frame decoder that nobody uses.
func (r *Reader) decoder() (*frameDecoder, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.spare); n > 0 {
		d := r.spare[n-1]
		r.spare = r.spare[:n-1]
		return d, nil
	}
	return newFrameDecoder()
}

func (r *Reader) putBack(d *frameDecoder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		d.close()
		return
	}
	r.spare = append(r.spare, d)
}

// load reads a frame for the cache.
func (r *Reader) load(n int, buf []byte) ([]byte, error) {
	if r.ctx.Err() != nil {
		return nil, context.Cause(r.ctx)
	}
	p := &r.layout.places[n]
	d, err := r.decoder()
	if err != nil {
		return nil, err
	}
	defer r.putBack(d)
	pages, err := r.decode(p, d, buf)
	if err != nil {
		return nil, fmt.Errorf("pack %x, frame at %d: %w", r.index.Packs[p.pack].Sum, p.offset, err)
	}
	return pages, nil
}

func (r *Reader) decode(p *place, d *frameDecoder, buf []byte) ([]byte, error) {
	kind := r.layout.kinds[p.pack]
	if kind == Delta {
		d.base = d.base[:p.frame.Pages*PageBytes]
		at := 0
		for _, run := range p.frame.Bases {
			if err := r.readPages(d.base[at:at+int(run.Count)*PageBytes], run.Page); err != nil {
				return nil, err
			}
			at += int(run.Count) * PageBytes
		}
	}
	b, err := r.blob(p.pack)
	if err != nil {
		return nil, err
	}
	if got, err := b.ReadAt(d.stored[:p.frame.Length], p.offset); got < p.frame.Length {
		if err == nil || errors.Is(err, io.EOF) {
			err = rejectf("pack is cut off")
		}
		return nil, err
	}
	return d.decode(buf, p.frame, kind, r.opener)
}

// readPages fills dst, whole pages, with the stored pages from number page on.
func (r *Reader) readPages(dst []byte, page int64) error {
	for len(dst) > 0 {
		n := r.layout.find(page)
		t, err := r.cache.get(n)
		if err != nil {
			return err
		}
		got := copy(dst, t.pages[(page-r.layout.places[n].first)*PageBytes:])
		r.cache.release(t)
		dst = dst[got:]
		page += int64(got / PageBytes)
	}
	return nil
}

// fileRuns is a file with the places of its runs.
type fileRuns struct {
	*File
	starts []int64 // by run, the number of its first page in the file
}

func newFileRuns(f *File) *fileRuns {
	v := &fileRuns{File: f, starts: make([]int64, len(f.Runs))}
	var at int64
	for i, r := range f.Runs {
		v.starts[i] = at
		at += r.Count
	}
	return v
}

// find gives the run that holds a page of the file.
func (v *fileRuns) find(page int64) int {
	return sort.Search(len(v.starts), func(i int) bool { return v.starts[i] > page }) - 1
}

// readFilePages fills dst, whole pages, with those of the file from number page on.
func (r *Reader) readFilePages(v *fileRuns, dst []byte, page int64) error {
	for i := v.find(page); len(dst) > 0; i++ {
		run := v.Runs[i]
		skip := page - v.starts[i]
		n := min(int64(len(dst)/PageBytes), run.Count-skip)
		part := dst[:n*PageBytes]
		if run.Page == zeroPages {
			clear(part)
		} else if err := r.readPages(part, run.Page+skip); err != nil {
			return err
		}
		dst = dst[n*PageBytes:]
		page += n
	}
	return nil
}

// readAt fills p with the bytes of the file at off; there must be as many.
func (r *Reader) readAt(v *fileRuns, p []byte, off int64) error {
	var page [PageBytes]byte
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	for len(p) > 0 {
		skip := off % PageBytes
		if skip == 0 && len(p) >= PageBytes {
			n := len(p) / PageBytes * PageBytes
			if err := r.readFilePages(v, p[:n], off/PageBytes); err != nil {
				return err
			}
			p, off = p[n:], off+int64(n)
			continue
		}
		if err := r.readFilePages(v, page[:], off/PageBytes); err != nil {
			return err
		}
		n := copy(p, page[skip:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// file finds a file.
func (r *Reader) file(op, name string) (*fileRuns, error) {
	if v, ok := r.files[name]; ok {
		return v, nil
	}
	return nil, &archive.EntryError{Op: op, Name: name, Err: archive.ErrNotFound}
}

// Open gives random access to a file; the blob is good until the reader is closed, and may be
// used concurrently. Every frame is checked against its hash, the whole file is not: that is
// [Reader.Stream]'s and [Reader.Rebuild]'s. A name that the index does not have is an archive.ErrNotFound.
func (r *Reader) Open(name string) (archive.Blob, error) {
	v, err := r.file("open", name)
	if err != nil {
		return nil, err
	}
	return &blob{r, v}, nil
}

// blob is a file with random access.
type blob struct {
	r *Reader
	v *fileRuns
}

var _ archive.Blob = (*blob)(nil)

// Size implements [archive.Blob].
func (b *blob) Size() int64 { return b.v.Size }

// ReadAt implements [io.ReaderAt].
func (b *blob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &archive.EntryError{Op: "read", Name: b.v.Name, Err: errors.New("negative offset")}
	}
	if off >= b.v.Size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), b.v.Size-off))
	if err := b.r.readAt(b.v, p[:n], off); err != nil {
		return 0, &archive.EntryError{Op: "read", Name: b.v.Name, Err: err}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close implements [io.Closer]; the packs belong to the reader.
func (b *blob) Close() error { return nil }
