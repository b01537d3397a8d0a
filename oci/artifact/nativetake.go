package artifact

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// TakeMap takes the page map called name, before the pages files that [NativeWriter.Take] takes. It does not
// close r. The page map is put as a member all the same.
func (w *NativeWriter) TakeMap(name string, r io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(r, maxPagemapBytes+1))
	if err != nil {
		return &archive.EntryError{Op: "read", Name: name, Err: err}
	}
	w.addresses(name, raw)
	return nil
}

// Take takes a pages file before anything is put, and gives it as it is to be listed in the metadata: its
// content is read and hashed once. r is read to its end and not closed. The files come in the order of the
// archive, and each is put as one of [archive.Taken] in its place.
func (w *NativeWriter) Take(ctx context.Context, name string, r io.Reader) (archive.Member, error) {
	if w.err != nil {
		return archive.Member{}, w.err
	}
	n, err := w.pages.Put(ctx, name, r)
	if err != nil {
		w.err = err
		return archive.Member{}, err
	}
	sum := w.pages.Sum()
	m := archive.Member{Name: name, Size: n, SHA256: hex.EncodeToString(sum[:])}
	w.taken[name] = m
	return m, nil
}

// addresses tells those of pages files. A page map that cannot be read gives none.
func (w *NativeWriter) addresses(name string, raw []byte) {
	if m, err := pages.ReadPagemap(name, bytes.NewReader(raw)); err == nil && len(raw) <= maxPagemapBytes {
		w.pages.Map(m)
	}
}

// putPages takes a pages file unless that was done before.
func (w *NativeWriter) putPages(ctx context.Context, e archive.Entry, r io.Reader) (int64, error) {
	if m, ok := archive.WasTaken(r); ok {
		if w.taken[e.Name] != m {
			return 0, &archive.EntryError{Op: "write", Name: e.Name, Err: errors.New("another content was taken before")}
		}
		return m.Size, nil
	}
	return w.pages.Put(ctx, e.Name, r)
}
