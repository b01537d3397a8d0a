package foreign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/ckarchive/ckarchive/archive"
)

const (
	// heldBytes is the length up to which a member is kept in memory from the first reading.
	heldBytes = 1 << 20
	// maxHeldBytes bounds all of them together. What does not fit is read again.
	maxHeldBytes = 64 << 20
)

// OpenFunc gives the same checkpoint anew at each call.
type OpenFunc func(ctx context.Context) (archive.Source, error)

// Options adjust [Open].
type Options struct {
	// Known is what an operator says of the checkpoint.
	Known Known
	// Digests lets ckarchive.json list the members with their digests, so that what is written
	// can be proved later. Without it the metadata says nothing of them.
	Digests bool
}

// Source is a foreign checkpoint in the archive's order.
type Source struct {
	open    OpenFunc
	known   []Known // the later ones go before the others
	meta    *archive.Metadata
	members []member
	next    int
	stream  archive.Source // at place, or nil
	place   int
	err     error
}

var _ archive.Source = (*Source)(nil)

// member is one entry of a checkpoint.
type member struct {
	entry archive.Entry
	place int    // in the order in which it is stored; -1 if it is not stored
	held  []byte // its content, unless it is to be read again
	kept  bool   // held is the content
	sum   string // its SHA-256 in hex, with Options.Digests
}

// Open reads what open gives once to its end, unless it is one of ckarchive's own, and gives it as
// a [Source] that reads larger members again. The caller closes the source.
func Open(ctx context.Context, open OpenFunc, opts Options) (archive.Source, error) {
	src, err := open(ctx)
	if err != nil {
		return nil, err
	}
	head, rest, err := archive.Peek(ctx, src)
	if err != nil {
		return nil, errors.Join(explain(err), src.Close())
	}
	if _, own := head[archive.MetadataFile]; own {
		return rest, nil
	}
	s := &Source{open: open, known: []Known{opts.Known}}
	if told, ok := src.(Told); ok {
		s.known = []Known{told.Known(), opts.Known}
	}
	err = s.scan(ctx, rest, opts)
	if err := errors.Join(err, rest.Close()); err != nil {
		return nil, err
	}
	return s, nil
}

// Metadata is what is known of the checkpoint.
func (s *Source) Metadata() *archive.Metadata { return s.meta }

// scan lists the members and keeps the small ones.
func (s *Source) scan(ctx context.Context, src archive.Source, opts Options) error {
	left := int64(maxHeldBytes)
	for place := 0; ; place++ {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return explain(err)
		}
		if e.Name, err = rename(e); err != nil {
			return err
		}
		m := member{entry: e, place: place}
		if e.Kind == archive.KindDir {
			s.members = append(s.members, m)
			continue
		}
		if err := m.read(ctx, r, min(heldBytes, left), opts.Digests); err != nil {
			return &archive.EntryError{Op: "read", Name: e.Name, Err: err}
		}
		left -= int64(len(m.held))
		s.members = append(s.members, m)
	}
	return s.arrange(opts)
}

// read takes the content of a member once: its length, its digest, and all of it up to limit bytes.
func (m *member) read(ctx context.Context, r io.Reader, limit int64, digest bool) error {
	// A metadata member is always held: it is what the checkpoint is known by.
	if isHead(m.entry.Name) {
		limit = archive.MaxJSONBytes
	}
	// One that cannot be read is not one that is missing, which would be made up.
	if size := m.entry.Size; isDocument(m.entry.Name) && (size == 0 || size > archive.MaxJSONBytes) {
		return fmt.Errorf("%w: a document of %d bytes, want 1 to %d", archive.ErrRejected, size, archive.MaxJSONBytes)
	}
	if m.entry.Size > limit && !digest {
		return nil // read when it is wanted
	}
	content := bytes.NewBuffer(nil)
	hash := sha256.New()
	w := []io.Writer{}
	if m.entry.Size <= limit {
		w = append(w, content)
	}
	if digest {
		w = append(w, hash)
	}
	n, err := io.Copy(io.MultiWriter(append(w, io.Discard)...), archive.ContextReader(ctx, r))
	if err != nil {
		return err
	}
	if m.entry.Size != archive.SizeUnknown && n != m.entry.Size {
		return fmt.Errorf("%d bytes where %d were announced: %w", n, m.entry.Size, io.ErrUnexpectedEOF)
	}
	m.kept = m.entry.Size <= limit && n <= limit
	m.entry.Size = n
	if m.kept {
		m.held = content.Bytes()
	}
	if digest {
		m.sum = hex.EncodeToString(hash.Sum(nil))
	}
	return nil
}

// isDocument tells of the members that are parsed whole.
func isDocument(name string) bool {
	return name == archive.ConfigDump || name == archive.SpecDump || name == archive.MetadataFile
}

// explain says of the one link that engines leave in a checkpoint what it means.
func explain(err error) error {
	var entry *archive.EntryError
	if errors.As(err, &entry) && entry.Name == archive.Image("parent") {
		return fmt.Errorf("%w: it was dumped on top of an earlier one, and the memory that had not changed since is in that: %w", ErrPartial, err)
	}
	return err
}

// Next implements [archive.Source].
func (s *Source) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	if ctx.Err() != nil {
		return archive.Entry{}, nil, context.Cause(ctx)
	}
	if s.err != nil {
		return archive.Entry{}, nil, s.err
	}
	if s.next == len(s.members) {
		return archive.Entry{}, nil, io.EOF
	}
	m := s.members[s.next]
	s.next++
	switch {
	case m.entry.Kind == archive.KindDir:
		return m.entry, nil, nil
	case m.kept:
		return m.entry, bytes.NewReader(m.held), nil
	}
	return m.entry, &storedReader{ctx: ctx, source: s, member: m}, nil
}

// storedReader finds its member when it is first read: who only wants the names pays for no
// second reading.
type storedReader struct {
	ctx    context.Context //nolint:containedctx // that of Next, as for every reader of a source
	source *Source
	member member
	r      io.Reader
}

// Read implements [io.Reader].
func (r *storedReader) Read(p []byte) (int, error) {
	if r.r == nil {
		found, err := r.source.seek(r.ctx, r.member)
		if err != nil {
			r.source.err = err
			return 0, err
		}
		r.r = found
	}
	return r.r.Read(p)
}

// seek reads on to where a member is stored, from the beginning if that was passed.
func (s *Source) seek(ctx context.Context, m member) (io.Reader, error) {
	if s.stream == nil || s.place > m.place {
		if err := s.closeStream(); err != nil {
			return nil, err
		}
		stream, err := s.open(ctx)
		if err != nil {
			return nil, err
		}
		s.stream, s.place = stream, 0
	}
	for {
		e, r, err := s.stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			err = errChanged
		}
		if err != nil {
			return nil, err
		}
		s.place++
		if s.place <= m.place {
			continue
		}
		if name, err := rename(e); err != nil || name != m.entry.Name || e.Size != m.entry.Size && e.Size != archive.SizeUnknown {
			return nil, &archive.EntryError{Op: "read", Name: m.entry.Name, Err: errChanged}
		}
		return r, nil
	}
}

var errChanged = errors.New("the checkpoint changed while it was read")

func (s *Source) closeStream() error {
	if s.stream == nil {
		return nil
	}
	err := s.stream.Close()
	s.stream = nil
	return err
}

// Close implements [archive.Source].
func (s *Source) Close() error {
	if s.err == nil {
		s.err = errClosed
	}
	return s.closeStream()
}

// ErrPartial marks one part of a checkpoint that Podman made in two, with --pre-checkpoint and then
// --with-previous. No archive holds both, and what was changed in between is told by neither alone.
var ErrPartial = errors.New("a part of a checkpoint")

// ErrBare marks images of CRIU with nothing that says of what container they are.
var ErrBare = errors.New("these are bare images: the container's runtime configuration is not among them")

var errClosed = errors.New("already closed")
