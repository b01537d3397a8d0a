package archive

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// Kept are members of a checkpoint that are not in its directory: those of a [Spool] or of a [Hold], or [Taken] ones.
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

// Taken are members that a sink has taken, and hashed, before the metadata were written that list them. Their
// readers have nothing to read: [WasTaken] recognizes them.
type Taken []Member

// kept implements [Kept].
func (t Taken) kept() ([]keptMember, error) { //nolint:unparam // the interface has an error
	members := make([]keptMember, len(t))
	for i, m := range t {
		members[i] = keptMember{name: m.Name, size: m.Size, open: func() (io.ReadCloser, error) { return &takenReader{member: m}, nil }}
	}
	slices.SortFunc(members, func(a, b keptMember) int { return compareNames(a.name, b.name) })
	return members, nil
}

// errTaken is what a sink gets that has not taken a member before.
var errTaken = errors.New("another sink has taken it already")

type takenReader struct {
	member Member
	seen   bool
}

func (r *takenReader) Read([]byte) (int, error) {
	if r.seen {
		return 0, io.EOF
	}
	return 0, errTaken
}

func (r *takenReader) hashed() Member { return r.member }

func (r *takenReader) taken() (Member, bool) {
	r.seen = true
	return r.member, true
}

func (r *takenReader) Close() error { return nil }

// hashedReader is the optional ability of a member's reader to know its digest.
type hashedReader interface{ hashed() Member }

// WasTaken tells whether r, which a [Sink] has got, is of a member among [Taken] ones, and which that is. If so,
// it counts as read.
func WasTaken(r io.Reader) (Member, bool) {
	t, ok := r.(interface{ taken() (Member, bool) })
	if !ok {
		return Member{}, false
	}
	return t.taken()
}
