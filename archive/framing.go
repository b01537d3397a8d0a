package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The bytes of a tar header that framing looks at (POSIX.1-1988 ustar).
const (
	tarBlock      = 512
	tarNameLen    = 100
	tarSizeOffset = 124
	tarSizeLen    = 12
	tarSumOffset  = 148
	tarSumLen     = 8
	tarTypeOffset = 156
)

// framing reads a tar stream for archive/tar and watches what that package
// forgives: a missing end mark, data behind it, sizes on directories and links,
// global headers that rename entries, two kinds of extension at one entry,
// sparse maps. It parses only the block structure.
type framing struct {
	r          io.Reader
	passParent bool // see ReaderOptions

	header  [tarBlock]byte
	filled  int   // bytes of header so far
	skip    int64 // content and padding until the next header
	pax     []byte
	paxLeft int64 // bytes of a PAX header still to be collected
	paxType byte  // 'x' or 'g'

	nextSize   int64  // the size that a PAX header gives the next entry, or -1
	extensions []byte // the extension headers before the next entry: one 'x', or of 'L' and 'K' one each
	extended   int64  // bytes of all extension headers
	headers    int    // headers of any kind
	padding    int64  // bytes behind the end mark
	zeros      int    // zero blocks in a row
	ended      bool   // both zero blocks were seen
	any        bool   // a header was seen
	err        error
}

func newFraming(r io.Reader) *framing { return &framing{r: r, nextSize: -1} }

func (f *framing) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.r.Read(p)
	if ferr := f.feed(p[:n]); ferr != nil {
		f.err = ferr
		return 0, ferr
	}
	return n, err
}

// finish reads the rest of the stream, which must be zeros after a full end mark.
func (f *framing) finish(ctx context.Context) error {
	if _, err := copyContext(ctx, io.Discard, f); err != nil {
		return asRejection(err)
	}
	switch {
	case !f.any && f.zeros == 0 && f.filled == 0:
		return fmt.Errorf("%w: it is empty", ErrNotArchive)
	case !f.ended:
		return rejectf("the end mark is missing: the archive is cut off")
	case len(f.extensions) > 0:
		return rejectf("an extension header without its entry")
	}
	return nil
}

// feed advances the state by the bytes of b.
func (f *framing) feed(b []byte) error {
	for len(b) > 0 {
		switch {
		case f.ended:
			if len(bytes.TrimLeft(b, "\x00")) > 0 {
				return rejectf("data behind the end mark")
			}
			if f.padding += int64(len(b)); f.padding > MaxPaddingBytes {
				return rejectf("more than %d zeros behind the end mark", MaxPaddingBytes)
			}
			return nil
		case f.paxLeft > 0:
			n := min(int64(len(b)), f.paxLeft)
			f.pax = append(f.pax, b[:n]...)
			f.paxLeft -= n
			b = b[n:]
			if f.paxLeft == 0 {
				if err := f.endPAX(); err != nil {
					return err
				}
			}
		case f.skip > 0:
			n := min(int64(len(b)), f.skip)
			f.skip -= n
			b = b[n:]
		default:
			n := copy(f.header[f.filled:], b)
			f.filled += n
			b = b[n:]
			if f.filled == tarBlock {
				f.filled = 0
				if err := f.endHeader(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

var zeroBlock [tarBlock]byte //nolint:gochecknoglobals // a constant

func (f *framing) endHeader() error {
	if f.header == zeroBlock {
		f.zeros++
		f.ended = f.zeros == 2
		return nil
	}
	if f.zeros > 0 {
		return rejectf("a lone zero block in the middle")
	}
	if !checksumHolds(&f.header) {
		if !f.any {
			return fmt.Errorf("%w: no tar header where the first should be", ErrNotArchive)
		}
		return rejectf("damaged tar header: its checksum is wrong")
	}
	f.any = true
	if f.headers++; f.headers > maxHeaders {
		return rejectf("more than %d tar headers", maxHeaders)
	}
	size, err := parseTarSize(f.header[tarSizeOffset : tarSizeOffset+tarSizeLen])
	if err != nil {
		return err
	}
	switch flag := f.header[tarTypeOffset]; flag {
	case 'x', 'g', 'L', 'K':
		if err := f.noteExtension(flag, size); err != nil {
			return err
		}
		if (flag == 'x' || flag == 'g') && size > 0 {
			f.pax, f.paxLeft, f.paxType = f.pax[:0], size, flag
			f.skip = padded(size) - size
			return nil
		}
		f.skip = padded(size)
	case 0, '0', '7', '5':
		if f.nextSize >= 0 {
			size = f.nextSize
		}
		if flag == '5' && size != 0 {
			return rejectf("a directory with a size")
		}
		f.nextSize, f.extensions = -1, f.extensions[:0]
		f.skip = padded(size)
	default:
		name, _, _ := bytes.Cut(f.header[:tarNameLen], []byte{0})
		if f.passParent && flag == '2' && size == 0 && string(name) == Image(ParentLink) {
			f.nextSize, f.extensions = -1, f.extensions[:0]
			return nil
		}
		return rejectEntry(string(name), "type %q: only regular files and directories are allowed", flag)
	}
	return nil
}

func padded(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }

// noteExtension takes one PAX header or GNU long names for an entry. Of
// everything else readers disagree which holds: archive/tar forgets a PAX header in front of a
// global one and takes the last of two, others merge them.
func (f *framing) noteExtension(flag byte, size int64) error {
	if size > MaxExtendedHeaderBytes {
		return rejectf("extension header of %d bytes, the limit is %d", size, MaxExtendedHeaderBytes)
	}
	if f.extended += size; f.extended > MaxAllExtendedBytes {
		return rejectf("extension headers of more than %d bytes in all", MaxAllExtendedBytes)
	}
	mixes := flag == 'x' || flag == 'g' || bytes.IndexByte(f.extensions, 'x') >= 0
	if len(f.extensions) > 0 && (mixes || bytes.IndexByte(f.extensions, flag) >= 0) {
		return rejectf("an entry with several extension headers (%q and %q)", f.extensions, flag)
	}
	if flag != 'g' {
		f.extensions = append(f.extensions, flag)
	}
	return nil
}

// checksumHolds compares a header with its checksum: the sum of its bytes, with
// spaces for the checksum's own. Old programs summed signed bytes.
func checksumHolds(h *[tarBlock]byte) bool {
	field := strings.Trim(string(h[tarSumOffset:tarSumOffset+tarSumLen]), " \x00")
	field, _, _ = strings.Cut(field, "\x00")
	want, err := strconv.ParseInt(field, 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, c := range h {
		if i >= tarSumOffset && i < tarSumOffset+tarSumLen {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}

// endPAX reads the records of a complete PAX header.
func (f *framing) endPAX() error {
	rest := string(f.pax)
	for rest != "" {
		record, tail, err := cutPAXRecord(rest)
		if err != nil {
			return err
		}
		rest = tail
		key, value, _ := strings.Cut(record, "=")
		switch {
		case f.paxType == 'g' && (key == "path" || key == "linkpath" || key == "size"):
			return rejectf("a global header that sets %s", key)
		case strings.HasPrefix(key, "GNU.sparse."):
			return rejectf("a sparse file")
		case key == "size":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return rejectf("PAX size %s", QuoteName(value))
			}
			f.nextSize = n
		}
	}
	return nil
}

// cutPAXRecord takes the first "LENGTH KEY=VALUE\n" off s.
func cutPAXRecord(s string) (record, rest string, err error) {
	digits, _, ok := strings.Cut(s, " ")
	n, convErr := strconv.Atoi(digits)
	if !ok || convErr != nil || n <= len(digits)+1 || n > len(s) || s[n-1] != '\n' {
		return "", "", rejectf("malformed PAX record")
	}
	return s[len(digits)+1 : n-1], s[n:], nil
}

// parseTarSize reads the size field: octal, or base-256 as GNU tar writes it.
func parseTarSize(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		if b[0] != 0x80 || !bytes.Equal(b[1:4], []byte{0, 0, 0}) {
			return 0, rejectf("negative or enormous size")
		}
		n := binary.BigEndian.Uint64(b[4:12])
		if n > uint64(MaxTotalBytes) {
			return 0, rejectf("size of %d bytes", n)
		}
		return int64(n), nil
	}
	s := strings.Trim(string(b), " \x00")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 8, 64)
	if err != nil || n < 0 {
		return 0, rejectf("size field %s", QuoteName(s))
	}
	return n, nil
}

// asRejection makes the parse errors of archive/tar rejections and leaves
// errors of the underlying stream alone.
func asRejection(err error) error {
	if err == nil || errors.Is(err, ErrRejected) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return rejectf("the archive is cut off")
	}
	return err
}
