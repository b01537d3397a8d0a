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
	tar       *tar.Writer
	names     claims
	haveImage bool
	err       error
}

var _ Sink = (*Writer)(nil)

// NewWriter writes the tar to w, uncompressed; see [Compress]. Commit ends the
// tar; it neither flushes nor closes w.
func NewWriter(w io.Writer) *Writer { return &Writer{tar: tar.NewWriter(w), names: claims{}} }

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
