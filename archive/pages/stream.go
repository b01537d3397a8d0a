package pages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"runtime"
	"sync"

	"github.com/ckarchive/ckarchive/archive"
)

// workers is how many goroutines share the work.
func workers() int { return min(runtime.GOMAXPROCS(0), maxWorkers) }

// Stream is a file from its beginning to its end, decoded ahead on all cores. It is
// used by one goroutine.
type Stream struct {
	ctx    context.Context //nolint:containedctx // lives as long as the reading that it is for
	r      *Reader
	v      *fileRuns
	to     io.WriterAt // unless nil, blocks are written there as soon as they are decoded
	sum    hash.Hash
	busy   sync.WaitGroup // rest is being hashed
	next   int64          // offset of the next block to begin
	coming []*piece
	spare  []*piece
	rest   []byte // of the oldest block, not given yet
	err    error
}

var _ archive.Proving = (*Stream)(nil)

// piece is a block of a file that is being decoded.
type piece struct {
	buf  []byte
	off  int64
	n    int
	err  error
	done chan struct{}
}

// Stream opens a file for reading in order. It says io.EOF only if the content has the hash
// that the index promises, and else an archive.ErrRejected. The caller closes the stream, before the reader.
func (r *Reader) Stream(ctx context.Context, name string) (*Stream, error) {
	v, err := r.file("read", name)
	if err != nil {
		return nil, err
	}
	return &Stream{ctx: ctx, r: r, v: v, sum: sha256.New()}, nil
}

// Rebuild writes a file to w, in pieces and several at a time, and checks its hash. It returns
// nil only if w took every byte and the content is what the index promises. It does not close w.
func (r *Reader) Rebuild(ctx context.Context, name string, w io.WriterAt) error {
	s, err := r.Stream(ctx, name)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // always nil
	s.to = w
	for s.err == nil {
		s.rest = nil
		s.advance()
	}
	if s.err != io.EOF { //nolint:errorlint // its own
		return s.err
	}
	return nil
}

// Proves implements [archive.Proving].
func (s *Stream) Proves() string { return hex.EncodeToString(s.v.Sum[:]) }

// Read implements [io.Reader].
func (s *Stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 && s.err == nil {
		s.advance()
	}
	if len(s.rest) == 0 {
		return 0, s.err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// advance takes the next block, or says in s.err why there is none.
func (s *Stream) advance() {
	s.busy.Wait()
	if s.ctx.Err() != nil {
		s.fail(context.Cause(s.ctx))
		return
	}
	for len(s.coming) <= workers() && s.next < s.v.Size {
		s.begin()
	}
	if len(s.coming) == 0 {
		s.err = io.EOF
		if Sum(s.sum.Sum(nil)) != s.v.Sum {
			s.fail(rejectf("the content does not match its hash"))
		}
		return
	}
	p := s.coming[0]
	s.coming = s.coming[1:]
	<-p.done
	s.spare = append(s.spare, p) // it is not begun again before the next call
	if p.err != nil {
		s.fail(p.err)
		return
	}
	s.rest = p.buf[:p.n]
	s.busy.Go(func() { _, _ = s.sum.Write(p.buf[:p.n]) }) // while it is used
}

func (s *Stream) fail(err error) {
	s.err = &archive.EntryError{Op: "read", Name: s.v.Name, Err: err}
}

// begin decodes the next block in a goroutine of its own.
func (s *Stream) begin() {
	var p *piece
	if n := len(s.spare); n > 0 {
		p = s.spare[n-1]
		s.spare = s.spare[:n-1]
	} else {
		p = &piece{buf: make([]byte, blockBytes)}
	}
	p.off, p.n, p.done = s.next, int(min(blockBytes, s.v.Size-s.next)), make(chan struct{})
	s.next += int64(p.n)
	s.coming = append(s.coming, p)
	go func() {
		defer close(p.done)
		p.err = s.r.readAt(s.v, p.buf[:p.n], p.off)
		if p.err == nil && s.to != nil {
			_, p.err = s.to.WriteAt(p.buf[:p.n], p.off)
		}
	}()
}

// Close ends the stream. No goroutine of it outlives it; a read that waits for a pack ends when the
// [Reader] or its context does.
func (s *Stream) Close() error {
	s.busy.Wait()
	for _, p := range s.coming {
		<-p.done
	}
	s.coming, s.rest = nil, nil
	if s.err == nil {
		s.fail(errClosed)
	}
	return nil
}
