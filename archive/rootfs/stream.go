package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// tarBlock is the unit of a tar file, in bytes; two of zeros end it.
const tarBlock = 512

// entry is one entry of a difference that was found to be well-formed.
type entry struct {
	header *tar.Header
	name   string // clean, "" for the root
	target string // of a hard link, clean

	// A whiteout: name is then what is deleted, or the directory of an opaque mark.
	whiteout bool
	opaque   bool

	xattrs map[string]string // those to carry
}

// stream reads the entries of a difference and rejects what is malformed.
type stream struct {
	tr      *tar.Reader
	raw     *meter
	unpack  io.Closer
	entries int
	most    int // entries, MaxEntries
	bytes   int64
	end     int64 // where the content of the last entry ends, padding included
}

// newStream reads the compression off the first bytes of r. The stream ends with ctx. The caller closes it, which does
// not close r.
func newStream(ctx context.Context, r io.Reader) (*stream, error) {
	rc, _, err := archive.Decompress(r)
	if err != nil {
		return nil, err
	}
	raw := &meter{r: archive.ContextReader(ctx, rc)}
	return &stream{tr: tar.NewReader(raw), raw: raw, unpack: rc, most: MaxEntries}, nil
}

func (s *stream) close() { s.unpack.Close() } //nolint:errcheck // read only

// next gives the next entry, whose content is read from s.tr. It gives io.EOF only
// when the tar has its end mark, with nothing behind it.
func (s *stream) next() (entry, error) {
	for {
		h, err := s.tr.Next()
		if errors.Is(err, io.EOF) {
			return entry{}, s.finish()
		}
		if err != nil {
			return entry{}, s.explain(err)
		}
		if s.entries++; s.entries > s.most {
			return entry{}, rejectf("more than %d entries", s.most)
		}
		size := h.Size
		if h.Typeflag == tar.TypeXGlobalHeader {
			size = 0
		}
		if size < 0 || size > archive.MaxTotalBytes-s.bytes {
			return entry{}, rejectf("more than %d bytes of content", archive.MaxTotalBytes)
		}
		s.bytes += size
		s.end = (s.raw.n + size + tarBlock - 1) / tarBlock * tarBlock
		e, err := newEntry(h)
		if err != nil {
			return entry{}, &archive.EntryError{Op: "read", Name: h.Name, Err: err}
		}
		if h.Typeflag != tar.TypeXGlobalHeader {
			return e, nil
		}
	}
}

// finish tells a whole tar from one that was cut between two entries, which
// archive/tar accepts, and reads what is left of it.
func (s *stream) finish() error {
	if s.raw.err != nil {
		return s.explain(s.raw.err)
	}
	if s.raw.n != s.end+2*tarBlock || s.raw.zeros < 2*tarBlock {
		return rejectf("the end mark is missing: the file is cut off")
	}
	marked := s.raw.n - s.raw.zeros
	if _, err := io.Copy(io.Discard, s.raw); err != nil {
		return s.explain(err)
	}
	if s.raw.n-s.raw.zeros != marked {
		return rejectf("data behind the end mark")
	}
	return io.EOF
}

// explain makes the parse errors of archive/tar rejections and leaves errors of
// the underlying stream alone.
func (s *stream) explain(err error) error {
	switch {
	case s.raw.err != nil:
		return s.raw.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return rejectf("the file is cut off")
	}
	return rejectf("%w", err)
}

// meter counts what is read and the zeros at its end.
type meter struct {
	r     io.Reader
	n     int64
	zeros int64
	err   error // of the underlying reader, other than io.EOF
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	tail := n
	for tail > 0 && p[tail-1] == 0 {
		tail--
	}
	if tail == 0 {
		m.zeros += int64(n)
	} else {
		m.zeros = int64(n - tail)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}

// newEntry checks a header by itself.
func newEntry(h *tar.Header) (entry, error) {
	e := entry{header: h}
	var err error
	if h.Typeflag == tar.TypeXGlobalHeader {
		return e, checkGlobal(h)
	}
	if e.name, err = cleanName(h.Name); err != nil {
		return e, err
	}
	if err := checkType(h, e.name); err != nil {
		return e, err
	}
	if h.Uid < 0 || int64(h.Uid) >= math.MaxUint32 || h.Gid < 0 || int64(h.Gid) >= math.MaxUint32 {
		return e, rejectf("owner %d:%d is none", h.Uid, h.Gid)
	}
	if _, err := unix.TimeToTimespec(h.ModTime); err != nil {
		return e, rejectf("time %s: %w", h.ModTime, err)
	}
	if err := e.readLink(); err != nil {
		return e, err
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !carriedXattr(name) {
			continue
		}
		if e.xattrs == nil {
			e.xattrs = map[string]string{}
		}
		e.xattrs[name] = value
	}
	if err := checkXattrs(e.xattrs); err != nil {
		return e, err
	}
	return e, e.readWhiteout()
}

// checkGlobal accepts global headers that say nothing of other entries.
func checkGlobal(h *tar.Header) error {
	for _, key := range []string{"path", "linkpath", "size"} {
		if _, ok := h.PAXRecords[key]; ok {
			return rejectf("a global header that sets %s", key)
		}
	}
	return nil
}

func checkType(h *tar.Header, name string) error {
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if h.Size != 0 {
			return rejectf("a size on an entry without content")
		}
	default:
		return rejectf("entry of type %q", h.Typeflag)
	}
	if name == "" && h.Typeflag != tar.TypeDir {
		return rejectf("the root is no directory")
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return rejectf("a sparse file")
		}
	}
	if dev := max(h.Devmajor, h.Devminor); dev > math.MaxUint32 || min(h.Devmajor, h.Devminor) < 0 {
		return rejectf("device %d:%d", h.Devmajor, h.Devminor)
	}
	return nil
}

// readLink checks where a link leads: a hard link to a name of this root, a
// symbolic link wherever it likes.
func (e *entry) readLink() (err error) {
	switch e.header.Typeflag {
	case tar.TypeLink:
		if e.target, err = cleanName(e.header.Linkname); err != nil {
			return fmt.Errorf("hard link to %s: %w", archive.QuoteName(e.header.Linkname), err)
		}
		if e.target == "" || hasWhiteoutPart(e.target) {
			return rejectf("hard link to %s", archive.QuoteName(e.header.Linkname))
		}
	case tar.TypeSymlink:
		to := e.header.Linkname
		if to == "" || len(to) > MaxNameBytes || strings.ContainsRune(to, 0) {
			return rejectf("link to a name of %d bytes", len(to))
		}
	}
	return nil
}

// readWhiteout turns the names of deletions into what they delete.
func (e *entry) readWhiteout() error {
	dir, base := splitName(e.name)
	if hasWhiteoutPart(dir) {
		return rejectf("a whiteout with something in it")
	}
	target, ok := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !ok:
		return nil
	case base == opaqueMark:
		e.opaque, e.name = true, dir
		return nil
	case target == "" || target == "." || target == ".." || strings.HasPrefix(target, whiteoutPrefix):
		return rejectf("a whiteout of %s, which is no plain name", archive.QuoteName(target))
	}
	e.whiteout, e.name = true, joinName(dir, target)
	return nil
}

// Check reads a difference to its end and rejects it unless every entry of it can
// be applied as far as the tar itself can tell: names, links, types, limits, the end mark, the
// checksum of its compression. Nothing is written. It reads r to its end; the caller owns it.
func Check(ctx context.Context, r io.Reader, opts ApplyOptions) error {
	if err := each(ctx, r, func(e entry, _ *stream) error { return opts.permit(e) }); err != nil {
		return fmt.Errorf("check root file system difference: %w", err)
	}
	return nil
}

// each reads a difference to its end and gives its entries to f, which may read their content.
func each(ctx context.Context, r io.Reader, f func(entry, *stream) error) error {
	s, err := newStream(ctx, r)
	if err != nil {
		return err
	}
	defer s.close()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(e, s); err != nil {
			return err
		}
	}
}

// DeviceError is a device node that was not allowed.
type DeviceError struct {
	Name         string // its path in the container
	Block        bool   // of a disk or the like
	Major, Minor int64
}

// Error names it.
func (e *DeviceError) Error() string {
	kind := "c"
	if e.Block {
		kind = "b"
	}
	return fmt.Sprintf("the device node %s %d:%d at %s", kind, e.Major, e.Minor, archive.QuoteName(e.Name))
}

// permit says whether the options allow an entry.
func (o ApplyOptions) permit(e entry) error {
	switch e.header.Typeflag {
	case tar.TypeChar, tar.TypeBlock:
		if e.whiteout || e.opaque {
			return nil
		}
		if name := "/" + e.name; o.Device == nil || !o.Device(name) {
			return &archive.EntryError{Op: "read", Name: e.header.Name, Err: fmt.Errorf("%w: %w", archive.ErrRejected, &DeviceError{Name: name, Block: e.header.Typeflag == tar.TypeBlock, Major: e.header.Devmajor, Minor: e.header.Devminor})}
		}
		if e.header.Typeflag == tar.TypeChar && e.header.Devmajor == 0 && e.header.Devminor == 0 {
			return &archive.EntryError{Op: "read", Name: e.header.Name, Err: rejectf("device 0:0 hides files of an overlay")}
		}
	}
	return nil
}

// checkDeleted reads the list of deletions, in which no name may be the root or climb.
func checkDeleted(deleted []string) ([]string, error) {
	if len(deleted) > 2*MaxEntries {
		return nil, rejectf("%d deletions, the limit is %d", len(deleted), 2*MaxEntries)
	}
	names := make([]string, 0, len(deleted))
	for _, d := range deleted {
		name, err := cleanName(d)
		if err == nil && name == "" {
			err = rejectf("the root cannot be deleted")
		}
		if err != nil {
			return nil, &archive.EntryError{Op: "delete", Name: d, Err: err}
		}
		names = append(names, name)
	}
	return names, nil
}
