package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Spool keeps members in the form in which an archive file will hold them: while a member is
// produced it is hashed and packed, and only the packed bytes are written. They are
// copied into the archive later, behind the metadata that needs their digests.
type Spool struct {
	dir     string
	mu      sync.Mutex
	members []spooled
}

type spooled struct {
	Member
	path string
}

// NewSpool makes the directory dir, which must not exist, for members to be packed with zstd.
func NewSpool(dir string) (*Spool, error) {
	if err := os.Mkdir(dir, dirMode); err != nil {
		return nil, fmt.Errorf("make a spool: %w", err)
	}
	return &Spool{dir: dir}, nil
}

// Put reads r to its end and keeps it as the member name. Several members may be put at once.
// An empty one is not kept.
func (s *Spool) Put(ctx context.Context, name string, r io.Reader) (err error) {
	s.mu.Lock()
	path := filepath.Join(s.dir, strconv.Itoa(len(s.members)))
	s.members = append(s.members, spooled{Member: Member{Name: name}, path: path})
	index := len(s.members) - 1
	s.mu.Unlock()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return &EntryError{Op: "spool", Name: name, Err: bare(err)}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packer, err := newZstdWriter(f)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := packer.readFrom(ctx, r, sum)
	if err := errors.Join(err, packer.Close()); err != nil {
		return &EntryError{Op: "spool", Name: name, Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[index].Size, s.members[index].SHA256 = n, hex.EncodeToString(sum.Sum(nil))
	return nil
}

// kept are the members that are not empty.
func (s *Spool) kept() []spooled {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := []spooled{}
	for _, m := range s.members {
		if m.Size > 0 {
			kept = append(kept, m)
		}
	}
	return kept
}

// packedReader is the optional ability of a member's reader to give its content as zstd frames
// that begin and end with it.
type packedReader interface {
	io.Reader
	// packed gives the frames, or nil. When they have been taken, done marks the content as read.
	packed() (frames io.Reader, done func())
}

// spooledReader reads a member of a spool. It unpacks only if it has to.
type spooledReader struct {
	member Member
	file   *os.File
	dec    *zstd.Decoder
	ended  bool
}

var _ packedReader = (*spooledReader)(nil)

func (s spooled) open() (*spooledReader, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, &EntryError{Op: "read", Name: s.Name, Err: bare(err)}
	}
	return &spooledReader{member: s.Member, file: f}, nil
}

func (r *spooledReader) Read(p []byte) (int, error) {
	if r.ended {
		return 0, io.EOF
	}
	if r.dec == nil {
		dec, err := zstd.NewReader(r.file)
		if err != nil {
			return 0, err
		}
		r.dec = dec
	}
	return r.dec.Read(p)
}

func (r *spooledReader) packed() (io.Reader, func()) {
	if r.dec != nil || r.ended {
		return nil, nil
	}
	return r.file, func() { r.ended = true }
}

func (r *spooledReader) Close() error {
	if r.dec != nil {
		r.dec.Close()
	}
	return r.file.Close()
}

// spooledSource merges the members of a spool into those of a directory, in the archive's order.
type spooledSource struct {
	dir     *Dir
	modTime time.Time
	spooled []spooled
	held    *heldEntry // of dir, not yet given
	err     error      // that dir answered instead of it
	open    *spooledReader
}

var _ Source = (*spooledSource)(nil)

func openSpooled(dir string, spool *Spool, opts DirOptions) (Source, error) {
	d, err := OpenDir(dir, opts)
	if err != nil {
		return nil, err
	}
	kept := spool.kept()
	if len(kept) == 0 {
		return d, nil
	}
	slices.SortFunc(kept, func(a, b spooled) int { return compareNames(a.Name, b.Name) })
	return &spooledSource{dir: d, modTime: opts.ModTime, spooled: kept}, nil
}

// Next implements [Source].
func (s *spooledSource) Next(ctx context.Context) (Entry, io.Reader, error) {
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
	if len(s.spooled) > 0 && (s.err != nil || Less(s.spooled[0].Name, s.held.entry.Name)) {
		m := s.spooled[0]
		s.spooled = s.spooled[1:]
		r, err := m.open()
		if err != nil {
			return Entry{}, nil, err
		}
		s.open = r
		return Entry{Name: m.Name, Size: m.Size, Mode: fileMode, ModTime: s.modTime}, r, nil
	}
	if s.err != nil {
		return Entry{}, nil, s.err
	}
	h := s.held
	s.held = nil
	return h.entry, h.r, nil
}

func (s *spooledSource) closeOpen() error {
	if s.open == nil {
		return nil
	}
	err := s.open.Close()
	s.open = nil
	return err
}

// Close implements [Source].
func (s *spooledSource) Close() error { return errors.Join(s.closeOpen(), s.dir.Close()) }
