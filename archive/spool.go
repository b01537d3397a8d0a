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

	"github.com/klauspost/compress/zstd"
)

// Spool keeps members in the form in which an archive file will hold them: while a member is
// produced it is hashed and packed, and only the packed bytes are written. They are
// copied into the archive later, behind the metadata that needs their digests.
type Spool struct {
	dir     string
	mu      sync.Mutex
	members []*spooled
	file    *AtomicFile // that has a place for one member, or nil
}

type spooled struct {
	Member
	path   string
	placed *placed // where it is unless it was moved to path
}

// inPlace tells whether the member is in the archive file already.
func (s *spooled) inPlace() bool { return s.placed != nil && !s.placed.moved }

// NewSpool makes the directory dir, which must not exist, for members to be packed with zstd.
func NewSpool(dir string) (*Spool, error) {
	if err := os.Mkdir(dir, dirMode); err != nil {
		return nil, fmt.Errorf("make a spool: %w", err)
	}
	return &Spool{dir: dir}, nil
}

// Spool makes a spool as [NewSpool] does. Its first member goes to its place in the archive file at
// once, if the file is packed with zstd and not encrypted. Otherwise what the spool keeps is in plain
// form in dir until it is copied.
func (s *FileSink) Spool(dir string) (*Spool, error) {
	spool, err := NewSpool(dir)
	if _, ok := s.packer.(*zstdWriter); ok && err == nil && s.sealer == nil {
		spool.file = s.file
	}
	return spool, err
}

// Put reads r to its end and keeps it as the member name. Several members may be put at once.
// An empty one is not kept.
func (s *Spool) Put(ctx context.Context, name string, r io.Reader) (err error) {
	m, w, err := s.begin(name)
	if err != nil {
		return &EntryError{Op: "spool", Name: name, Err: bare(err)}
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	packer, err := newZstdWriter(w)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := packer.readFrom(ctx, r, sum)
	if err := errors.Join(err, packer.Close()); err != nil {
		return &EntryError{Op: "spool", Name: name, Err: bare(err)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Size, m.SHA256 = n, hex.EncodeToString(sum.Sum(nil))
	return nil
}

// begin notes a member and gives what its frames are written to.
func (s *Spool) begin(name string) (*spooled, io.WriteCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &spooled{Member: Member{Name: name}, path: filepath.Join(s.dir, strconv.Itoa(len(s.members)))}
	s.members = append(s.members, m)
	if s.file != nil && len(s.members) == 1 {
		m.placed = s.file.place(placedAlign, m.path)
		return m, nopCloser{m.placed}, nil
	}
	f, err := os.OpenFile(m.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	return m, f, err
}

// kept implements [Kept]. A member that is in the archive file but not where the format wants it is
// moved out.
func (s *Spool) kept() ([]keptMember, error) {
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := []*spooled{}
	for _, m := range s.members {
		if m.Size > 0 {
			kept = append(kept, m)
		}
	}
	slices.SortFunc(kept, func(a, b *spooled) int { return compareNames(a.Name, b.Name) })
	first := slices.IndexFunc(kept, func(m *spooled) bool { return m.Size >= placedBytes })
	for _, m := range s.members {
		if m.inPlace() && (first < 0 || kept[first] != m) {
			if err := m.placed.evict(); err != nil {
				return nil, &EntryError{Op: "spool", Name: m.Name, Err: bare(err)}
			}
		}
	}
	members := make([]keptMember, len(kept))
	for i, m := range kept {
		members[i] = keptMember{name: m.Name, size: m.Size, open: m.open}
	}
	return members, nil
}

// packedReader is the optional ability of a member's reader to give its content as zstd frames
// that begin and end with it.
type packedReader interface {
	io.Reader
	// packed gives the frames, or their length where they are in the archive file already. When
	// they have been taken, done marks the content as read; it is nil if there are none.
	packed() (frames io.Reader, placed int64, done func())
}

// spooledReader reads a member of a spool. It unpacks only if it has to.
type spooledReader struct {
	member Member
	frames io.Reader
	file   *os.File // that frames reads, or nil
	placed *spooled // whose frames these are, in the archive file
	dec    *zstd.Decoder
	ended  bool
}

var _ packedReader = (*spooledReader)(nil)

func (s *spooled) open() (io.ReadCloser, error) {
	r := &spooledReader{member: s.Member}
	if s.inPlace() {
		r.placed = s
		r.frames = io.NewSectionReader(s.placed.file.file, s.placed.off, s.placed.size)
		return r, nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, &EntryError{Op: "read", Name: s.Name, Err: bare(err)}
	}
	r.file, r.frames = f, f
	return r, nil
}

func (r *spooledReader) Read(p []byte) (int, error) {
	if r.ended {
		return 0, io.EOF
	}
	if r.dec == nil {
		dec, err := zstd.NewReader(r.frames)
		if err != nil {
			return 0, err
		}
		r.dec = dec
	}
	return r.dec.Read(p)
}

func (r *spooledReader) hashed() Member { return r.member }

func (r *spooledReader) packed() (frames io.Reader, placed int64, done func()) {
	if r.dec != nil || r.ended {
		return nil, 0, nil
	}
	done = func() { r.ended = true }
	if r.placed == nil {
		return r.frames, 0, done
	}
	if !r.placed.inPlace() {
		// It had to make room for a large head since it was opened.
		f, err := os.Open(r.placed.path)
		if err != nil {
			return nil, 0, nil
		}
		r.file, r.frames, r.placed = f, f, nil
		return f, 0, done
	}
	return nil, r.placed.placed.size, done
}

func (r *spooledReader) Close() error {
	if r.dec != nil {
		r.dec.Close()
	}
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
