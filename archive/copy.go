package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// CopyOptions adjust [Copy]. The zero value copies everything silently.
type CopyOptions struct {
	// Skip leaves out the entries for which it is true. Their content is still read to its
	// end, so that a damaged one is found.
	Skip func(Entry) bool
	// OnEntry is told of each entry before its content moves.
	OnEntry func(Entry)
	// OnBytes is told of content as it moves, in bytes since the last call.
	OnBytes func(n int64)
}

// Summary is what [Copy] moved.
type Summary struct {
	Entries int
	Bytes   int64 // content, without headers
}

// Copy moves every entry of src to dst: the only loop in ckarchive that does.
// It returns nil only when src was read to its end and dst took every byte of
// it. It neither commits nor closes; acting on the result is Commit's.
func Copy(ctx context.Context, dst Sink, src Source, opts CopyOptions) (Summary, error) {
	var sum Summary
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
		if opts.OnEntry != nil {
			opts.OnEntry(e)
		}
		counted := &countingReader{r: r, size: e.Size, onBytes: opts.OnBytes}
		if err := copyEntry(ctx, dst, e, counted, opts.Skip); err != nil {
			return sum, err
		}
		sum.Entries++
		sum.Bytes += counted.n
	}
}

func copyEntry(ctx context.Context, dst Sink, e Entry, r *countingReader, skip func(Entry) bool) error {
	switch {
	case skip != nil && skip(e):
	case e.Kind == KindDir:
		return dst.Put(ctx, e, nil)
	default:
		if err := dst.Put(ctx, e, r); err != nil {
			return err
		}
	}
	if e.Kind == KindDir {
		return nil
	}
	// A sink has seen the announced bytes; the source must have no more and no fault behind them.
	if _, err := copyContext(ctx, io.Discard, r); err != nil {
		return &EntryError{Op: "read", Name: e.Name, Err: err}
	}
	if e.Size != SizeUnknown && r.n != e.Size {
		return &EntryError{Op: "read", Name: e.Name, Err: fmt.Errorf("%d bytes where %d were announced: %w", r.n, e.Size, io.ErrUnexpectedEOF)}
	}
	return nil
}

type countingReader struct {
	r       io.Reader
	n       int64
	size    int64 // announced
	onBytes func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.onBytes != nil && n > 0 {
		c.onBytes(int64(n))
	}
	return n, err
}

// taken is what [WasTaken] asks for, where the reader inside has it.
func (c *countingReader) taken() (Member, bool) {
	m, ok := WasTaken(c.r)
	if ok {
		c.n = c.size
		if c.onBytes != nil {
			c.onBytes(c.size)
		}
	}
	return m, ok
}

// packed implements packedReader where the reader inside does.
func (c *countingReader) packed() (frames io.Reader, placed int64, done func()) {
	p, ok := c.r.(packedReader)
	if !ok || c.n > 0 {
		return nil, 0, nil
	}
	frames, placed, inner := p.packed()
	if inner == nil {
		return nil, 0, nil
	}
	return frames, placed, func() {
		inner()
		c.n = c.size
		if c.onBytes != nil {
			c.onBytes(c.size)
		}
	}
}

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferBytes]byte) }} //nolint:gochecknoglobals // a pool, which is made to be shared

// copyContext is io.Copy that ends when ctx does.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	buf, _ := copyBuffers.Get().(*[copyBufferBytes]byte)
	defer copyBuffers.Put(buf)
	var n int64
	for {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		got, err := r.Read(buf[:])
		if got > 0 {
			put, werr := w.Write(buf[:got])
			n += int64(put)
			if werr != nil {
				return n, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
