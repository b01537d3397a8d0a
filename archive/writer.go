package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// The modes of everything in a written archive: memory is secret.
const (
	fileMode = 0o600
	dirMode  = 0o700
)

// Writer is a [Sink] that writes the universal tar to a stream: PAX headers,
// clean names, owner 0:0, modes 0600 and 0700, whole seconds, an explicit
// checkpoint/ directory. The same entries give the same bytes.
type Writer struct {
	out       io.Writer
	tar       *tar.Writer
	frames    frameWriter // what packs the stream, where memory has frames of its own
	names     claims
	haveImage bool
	havePages bool // the first large pages file has passed
	err       error
}

var _ Sink = (*Writer)(nil)

// NewWriter writes the tar to w, uncompressed; see [Compress]. Commit ends the
// tar; it neither flushes nor closes w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{out: w, tar: tar.NewWriter(w), names: claims{}}
}

// frameWriter is a packer in which the content of each pages file has frames of its own, so that
// it can be packed before the rest of the archive is known.
type frameWriter interface {
	cut() error
	align(boundary int64) error
	appendPlaced(n int64) error
	appendFrames(ctx context.Context, frames io.Reader) error
}

// newFileWriter is NewWriter on a packer.
func newFileWriter(packer io.Writer) *Writer {
	w := NewWriter(packer)
	w.frames, _ = packer.(frameWriter)
	return w
}

// Put implements [Sink]. The entry's size must be known.
func (w *Writer) Put(ctx context.Context, e Entry, r io.Reader) error {
	if w.err != nil {
		return w.err
	}
	if err := w.put(ctx, e, r); err != nil {
		w.err = err
		return err
	}
	return nil
}

func (w *Writer) put(ctx context.Context, e Entry, r io.Reader) error {
	if name, err := CleanName(e.Name); err != nil || name != e.Name {
		return &EntryError{Op: "write", Name: e.Name, Err: errors.New("not a clean name")}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e.Name == CheckpointDir && e.Kind == KindDir {
		if w.haveImage {
			return nil // its place is before the first image
		}
		w.haveImage = true
	}
	if err := w.names.add(e); err != nil {
		return &EntryError{Op: "write", Name: e.Name, Err: err}
	}
	if strings.HasPrefix(e.Name, CheckpointDir+"/") && !w.haveImage {
		// checkpointctl recognises a checkpoint by this entry.
		w.haveImage = true
		if err := w.header(Entry{Name: CheckpointDir, Kind: KindDir, ModTime: e.ModTime}); err != nil {
			return err
		}
	}
	if e.Kind == KindFile && e.Size < 0 {
		return &EntryError{Op: "write", Name: e.Name, Err: errors.New("a tar needs the size before the content")}
	}
	if err := w.header(e); err != nil {
		return err
	}
	if e.Kind == KindDir {
		return nil
	}
	if w.frames != nil && IsPages(e.Name) {
		return w.putPages(ctx, e, r)
	}
	return w.content(ctx, e, r)
}

// putPages writes memory in frames of its own: those that r has, or new ones.
func (w *Writer) putPages(ctx context.Context, e Entry, r io.Reader) error {
	begin := w.frames.cut
	if e.Size >= placedBytes && !w.havePages {
		w.havePages = true
		begin = func() error { return w.frames.align(placedAlign) }
	}
	if err := begin(); err != nil {
		return &EntryError{Op: "write", Name: e.Name, Err: err}
	}
	if p, ok := r.(packedReader); ok && e.Size%tarBlock == 0 {
		taken, err := w.takePacked(ctx, p)
		if err != nil {
			return &EntryError{Op: "write", Name: e.Name, Err: err}
		}
		if taken {
			w.tar = tar.NewWriter(w.out) // the old one still waits for the content
			return nil
		}
	}
	if err := w.content(ctx, e, r); err != nil {
		return err
	}
	if err := w.frames.cut(); err != nil {
		return &EntryError{Op: "write", Name: e.Name, Err: err}
	}
	return nil
}

// takePacked takes the content as frames, if the reader has it so.
func (w *Writer) takePacked(ctx context.Context, p packedReader) (bool, error) {
	frames, placed, done := p.packed()
	if done == nil {
		return false, nil
	}
	var err error
	if placed > 0 {
		err = w.frames.appendPlaced(placed)
	} else {
		err = w.frames.appendFrames(ctx, frames)
	}
	if err != nil {
		return false, err
	}
	done()
	return true, nil
}

// content copies r into the entry at hand.
func (w *Writer) content(ctx context.Context, e Entry, r io.Reader) error {
	n, err := copyContext(ctx, w.tar, r)
	switch {
	case errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != e.Size:
		return &EntryError{Op: "write", Name: e.Name, Err: fmt.Errorf("content is not the %d bytes announced: it changed while it was read", e.Size)}
	case err != nil:
		return &EntryError{Op: "write", Name: e.Name, Err: err}
	}
	return nil
}

func (w *Writer) header(e Entry) error {
	h := &tar.Header{
		Typeflag: tar.TypeReg,
		Name:     e.Name,
		Size:     e.Size,
		Mode:     fileMode,
		ModTime:  e.ModTime.Truncate(time.Second),
		Format:   tar.FormatPAX,
	}
	if e.Kind == KindDir {
		h.Typeflag, h.Name, h.Size, h.Mode = tar.TypeDir, e.Name+"/", 0, dirMode
	}
	if h.ModTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return &EntryError{Op: "write", Name: e.Name, Err: err}
	}
	return nil
}

// Commit implements [Sink]: it writes the end mark.
func (w *Writer) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if w.err != nil {
		return w.err
	}
	w.err = errClosed
	if err := w.tar.Close(); err != nil {
		return fmt.Errorf("end the tar: %w", err)
	}
	return nil
}

// Close implements [Sink]. What was written without Commit has no end mark and is
// rejected by every reader of this package.
func (w *Writer) Close() error {
	w.err = errClosed
	return nil
}
