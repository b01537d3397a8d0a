package pages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
)

// block is a piece of a file that is compared with the parent.
type block struct {
	buf        []byte
	n          int     // bytes, without the zeros that fill the last page
	old        []int64 // by page, the number of the parent's at this address
	lane       []int   // by page, what it is
	unreadable int64   // pages
	busy       sync.WaitGroup
}

func newBlock() *block {
	return &block{buf: make([]byte, blockBytes), old: make([]int64, blockPages), lane: make([]int, blockPages)}
}

func (b *block) pages() int { return int(pagesOf(int64(b.n))) }

func (b *block) page(i int) []byte { return b.buf[i*PageBytes : (i+1)*PageBytes] }

// read fills the block. io.EOF says that it is the last one, and may be empty.
func (b *block) read(ctx context.Context, r io.Reader) error {
	b.n, b.unreadable = 0, 0
	for b.n < len(b.buf) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(b.buf[b.n:])
		b.n += n
		if errors.Is(err, io.EOF) {
			clear(b.buf[b.n : b.pages()*PageBytes])
			return io.EOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compare finds out what the pages of a block are.
func (w *Writer) compare(b *block) {
	var held *content
	var first int64
	release := func() {
		if held != nil {
			w.opts.Parent.Reader.cache.release(held)
		}
		held = nil
	}
	defer release()
	for i := range b.pages() {
		page, old := b.page(i), b.old[i]
		switch {
		case isZero(page):
			b.lane[i] = laneZero
			continue
		case old < 0:
			b.lane[i] = laneLiteral
			continue
		}
		if held == nil || old < first || old >= first+int64(len(held.pages)/PageBytes) {
			release()
			var err error
			n := w.layout.find(old)
			if held, err = w.opts.Parent.Reader.cache.get(n); err != nil {
				// A parent that is damaged or out of reach is no reason to lose this checkpoint.
				b.lane[i] = laneLiteral
				b.unreadable++
				continue
			}
			first = w.layout.places[n].first
		}
		b.lane[i] = laneChanged
		if bytes.Equal(page, held.pages[(old-first)*PageBytes:(old-first+1)*PageBytes]) {
			b.lane[i] = laneParent
		}
	}
}

func isZero(page []byte) bool {
	var zero [PageBytes]byte
	return bytes.Equal(page, zero[:])
}

// summer hashes the blocks of a file in order, on a core of its own.
type summer struct {
	in  chan *block
	out chan Sum
}

func newSummer() *summer {
	s := &summer{in: make(chan *block, 2*maxWorkers), out: make(chan Sum)}
	go func() {
		h := sha256.New()
		for b := range s.in {
			_, _ = h.Write(b.buf[:b.n])
			b.busy.Done()
		}
		s.out <- Sum(h.Sum(nil))
	}()
	return s
}

// add hashes a block, which is busy until that is done.
func (s *summer) add(b *block) {
	b.busy.Add(1)
	s.in <- b
}

// end gives the hash of all blocks.
func (s *summer) end() Sum {
	close(s.in)
	return <-s.out
}
