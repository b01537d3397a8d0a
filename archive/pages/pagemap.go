package pages

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

// The magic numbers of CRIU's page maps: that of all images, then that of the kind.
const (
	magicCommon  = 0x54564319
	magicPagemap = 0x56084025
)

// Flags of an entry of a page map.
const (
	flagInParent = 1 << 0
	flagPresent  = 1 << 2
)

// Range is a piece of an address space whose pages are in a pages file.
type Range struct {
	Addr  uint64 // virtual address in bytes; for shared memory the offset in it
	Pages int64
}

// Pagemap is what CRIU's page map image says of a pages file: the address of each of its pages.
type Pagemap struct {
	Name    string  // of the image without directory; it stands for the task or the shared memory
	PagesID uint32  // the pages file is pages-ID.img
	Ranges  []Range // in the order of the pages file
}

// IsPagemap tells whether a member of an archive is a page map.
func IsPagemap(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, "pagemap-") && strings.HasSuffix(base, ".img")
}

// PagesFile is the name of the pages file, without directory.
func (m *Pagemap) PagesFile() string { return fmt.Sprintf("pages-%d.img", m.PagesID) }

// ReadPagemap reads the image called name from r to its end. What is malformed is an
// archive.ErrRejected.
func ReadPagemap(name string, r io.Reader) (*Pagemap, error) {
	m := &Pagemap{Name: path.Base(name)}
	if err := m.read(bufio.NewReaderSize(r, 64<<10)); err != nil {
		var source *sourceError
		if errors.As(err, &source) {
			return nil, fmt.Errorf("read page map %q: %w", m.Name, source.err)
		}
		return nil, rejectf("page map %q: %w", m.Name, err)
	}
	return m, nil
}

// sourceError is an error of the reader, which says nothing about the image.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

func (m *Pagemap) read(r io.Reader) error {
	for _, want := range []uint32{magicCommon, magicPagemap} {
		if got, err := readWord(r); err != nil || got != want {
			return errors.Join(errors.New("it does not begin as one"), err)
		}
	}
	entry, err := readEntry(r)
	if err != nil {
		return errors.Join(errors.New("no head"), err)
	}
	var head pagemap.PagemapHead
	if err := proto.Unmarshal(entry, &head); err != nil {
		return err
	}
	m.PagesID = head.GetPagesId()
	var e pagemap.PagemapEntry
	for {
		entry, err := readEntry(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		e.Reset()
		if err := proto.Unmarshal(entry, &e); err != nil {
			return err
		}
		if err := m.add(&e); err != nil {
			return err
		}
	}
}

func (m *Pagemap) add(e *pagemap.PagemapEntry) error {
	inFile := e.GetFlags()&flagPresent != 0 && e.GetFlags()&flagInParent == 0
	if e.Flags == nil {
		inFile = !e.GetInParent()
	}
	n := e.GetNrPages()
	if e.NrPages == nil {
		n = uint64(e.GetCompatNrPages())
	}
	if n > math.MaxInt64/PageBytes || e.GetVaddr() > math.MaxUint64-n*PageBytes {
		return fmt.Errorf("%d pages at %#x", n, e.GetVaddr())
	}
	if !inFile || n == 0 {
		return nil
	}
	if len(m.Ranges) == MaxPagemapRanges {
		return fmt.Errorf("more than %d entries", MaxPagemapRanges)
	}
	m.Ranges = append(m.Ranges, Range{e.GetVaddr(), int64(n)})
	return nil
}

// readWord reads a number of 32 bits; io.EOF stands for a clean end.
func readWord(r io.Reader) (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, endOrSource(err)
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// readEntry reads one entry; io.EOF stands for a clean end.
func readEntry(r io.Reader) ([]byte, error) {
	n, err := readWord(r)
	if err != nil {
		return nil, err
	}
	if n > MaxPagemapEntryBytes {
		return nil, fmt.Errorf("entry of %d bytes, the limit is %d", n, MaxPagemapEntryBytes)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, endOrSource(err)
	}
	return b, nil
}

// endOrSource tells the end of an image from an error of its reader.
func endOrSource(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // a wrapped one comes from below
		return err
	}
	return &sourceError{err}
}
