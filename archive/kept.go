package archive

import (
	"context"
	"errors"
	"io"
	"time"
)

// Kept are members of a checkpoint that are not in its directory: those of a [Spool], or of a [Hold].
type Kept interface {
	// kept gives those that are not empty, in the archive's order.
	kept() ([]keptMember, error)
}

type keptMember struct {
	name string
	size int64
	open func() (io.ReadCloser, error)
}

// keptSource merges members that are kept elsewhere into those of a directory, in the archive's order.
type keptSource struct {
	dir     *Dir
	modTime time.Time
	kept    []keptMember
	held    *heldEntry // of dir, not yet given
	err     error      // that dir answered instead of it
	open    io.Closer
}

var _ Source = (*keptSource)(nil)

func openKept(dir string, aside Kept, opts DirOptions) (Source, error) {
	d, err := OpenDir(dir, opts)
	if err != nil {
		return nil, err
	}
	if aside == nil {
		return d, nil
	}
	kept, err := aside.kept()
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if len(kept) == 0 {
		return d, nil
	}
	return &keptSource{dir: d, modTime: opts.ModTime, kept: kept}, nil
}

// Next implements [Source].
func (s *keptSource) Next(ctx context.Context) (Entry, io.Reader, error) {
	if err := s.closeOpen(); err != nil {
		return Entry{}, nil, err
	}
	if s.held == nil && s.err == nil {
		e, r, err := s.dir.Next(ctx)
		s.held, s.err = &heldEntry{entry: e, r: r}, err
	}
	if s.err != nil && !errors.Is(s.err, io.EOF) {
		return Entry{}, nil, s.err
	}
	if len(s.kept) > 0 && (s.err != nil || Less(s.kept[0].name, s.held.entry.Name)) {
		m := s.kept[0]
		s.kept = s.kept[1:]
		r, err := m.open()
		if err != nil {
			return Entry{}, nil, err
		}
		s.open = r
		return Entry{Name: m.name, Size: m.size, Mode: fileMode, ModTime: s.modTime}, r, nil
	}
	if s.err != nil {
		return Entry{}, nil, s.err
	}
	h := s.held
	s.held = nil
	return h.entry, h.r, nil
}

func (s *keptSource) closeOpen() error {
	if s.open == nil {
		return nil
	}
	err := s.open.Close()
	s.open = nil
	return err
}

// Close implements [Source].
func (s *keptSource) Close() error { return errors.Join(s.closeOpen(), s.dir.Close()) }
