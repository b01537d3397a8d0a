package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// What [Native.Open] keeps of the metadata in memory. A larger member is read again when it is opened.
const (
	maxKeptBytes    = 1 << 20
	maxAllKeptBytes = 32 << 20
)

// metaMember is one that has been seen, with its content if that is small.
type metaMember struct {
	kept []byte // nil: it is not kept
	dir  bool
}

// walkMeta gives the members of the metadata to f and proves them when f has seen all.
func (n *Native) walkMeta(ctx context.Context, f func(archive.Entry, io.Reader) error) error {
	l, source, err := n.openMeta(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	defer source.Close() //nolint:errcheck // read side
	for {
		e, r, err := source.Next(ctx)
		if errors.Is(err, io.EOF) {
			return l.verify("")
		}
		if err != nil {
			return err
		}
		if err := f(e, r); err != nil {
			return err
		}
	}
}

// pagemaps gives the addresses of the memory, as far as they can be read.
func (n *Native) pagemaps(ctx context.Context) ([]*pages.Pagemap, error) {
	var maps []*pages.Pagemap
	err := n.walkMeta(ctx, func(e archive.Entry, r io.Reader) error {
		if e.Kind != archive.KindFile || !pages.IsPagemap(e.Name) {
			return nil
		}
		m, err := pages.ReadPagemap(e.Name, r)
		if err == nil {
			maps = append(maps, m)
		}
		if errors.Is(err, archive.ErrRejected) {
			err = nil
		}
		return err
	})
	return maps, err
}

// list reads the metadata once.
func (n *Native) list(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.members != nil {
		return nil
	}
	members, left := map[string]*metaMember{}, int64(maxAllKeptBytes)
	var entries []archive.Entry
	err := n.walkMeta(ctx, func(e archive.Entry, r io.Reader) error {
		m := &metaMember{dir: e.Kind == archive.KindDir}
		elsewhere, err := n.substitute(&e)
		if err != nil {
			return err
		}
		if !m.dir && !elsewhere && e.Size >= 0 && e.Size <= min(left, maxKeptBytes) {
			left -= e.Size
			if m.kept, err = io.ReadAll(r); err != nil {
				return err
			}
		}
		members[e.Name] = m
		entries = append(entries, e)
		return nil
	})
	if err == nil {
		n.members, n.entries = members, entries
	}
	return err
}

// Entries implements [archive.Opener].
func (n *Native) Entries(ctx context.Context) ([]archive.Entry, error) {
	if err := n.list(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(n.entries), nil
}

// Open implements [archive.Opener]. Memory is fetched by frames as it is read; what else is large
// is first read whole into a temporary file.
func (n *Native) Open(ctx context.Context, name string) (archive.Blob, error) {
	if err := n.list(ctx); err != nil {
		return nil, err
	}
	m, ok := n.members[name]
	switch {
	case !ok || m.dir:
		return nil, &archive.EntryError{Op: "open", Name: name, Err: archive.ErrNotFound}
	case m.kept != nil:
		return memberBytes{bytes.NewReader(m.kept)}, nil
	case n.files[name] != nil:
		return n.pages.Open(name)
	case name == archive.RootfsDiff && n.config.Rootfs != nil:
		r, err := n.openRootfs(ctx)
		if err != nil {
			return nil, &archive.EntryError{Op: "open", Name: name, Err: err}
		}
		defer r.Close() //nolint:errcheck // read side
		return spool(ctx, r)
	}
	return n.openLarge(ctx, name)
}

// openLarge reads a member of the metadata that was not kept.
func (n *Native) openLarge(ctx context.Context, name string) (blob archive.Blob, err error) {
	err = n.walkMeta(ctx, func(e archive.Entry, r io.Reader) error {
		if e.Name != name {
			return nil
		}
		blob, err = spool(ctx, r)
		return err
	})
	if err != nil && blob != nil {
		err = errors.Join(err, blob.Close())
	}
	if err != nil {
		return nil, &archive.EntryError{Op: "open", Name: name, Err: err}
	}
	return blob, nil
}

// memberBytes is a member that is in memory.
type memberBytes struct{ *bytes.Reader }

// Close implements [io.Closer].
func (memberBytes) Close() error { return nil }
