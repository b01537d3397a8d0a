package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/ckarchive/ckarchive/archive"
)

// magic and version begin an index.
const (
	magic   = "CKPI"
	version = 1
)

// The flags of a frame.
const (
	flagRaw    = 1 // not compressed
	flagSealed = 2 // encrypted
)

// Marshal gives the bytes of the index, which depend on nothing but its content: the format of
// docs/formats.md, packed with zstd. An index that [ParseIndex] would reject is an error.
func (ix *Index) Marshal() ([]byte, error) {
	if err := ix.check(); err != nil {
		return nil, fmt.Errorf("write page index: %w", err)
	}
	plain := ix.encode()
	if len(plain) > MaxIndexBytes {
		return nil, fmt.Errorf("write page index: %d bytes, the limit is %d", len(plain), MaxIndexBytes)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(plain, nil), z.Close()
}

// encode gives the bytes before compression.
func (ix *Index) encode() []byte {
	b := append([]byte(magic), version)
	b = binary.AppendUvarint(b, PageBytes)
	b = binary.AppendUvarint(b, FramePages)
	b = binary.AppendUvarint(b, uint64(len(ix.Packs)))
	for i := range ix.Packs {
		p := &ix.Packs[i]
		b = append(append(b, p.Sum[:]...), byte(p.Kind))
		b = binary.AppendUvarint(b, uint64(len(p.Frames)))
		for j := range p.Frames {
			b = p.Frames[j].encode(b, p.Kind)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(ix.Files)))
	for i := range ix.Files {
		f := &ix.Files[i]
		b = binary.AppendUvarint(b, uint64(len(f.Name)))
		b = append(b, f.Name...)
		b = binary.AppendUvarint(b, uint64(f.Size)) //nolint:gosec // check has seen that it is not negative
		b = append(b, f.Sum[:]...)
		b = binary.AppendUvarint(b, uint64(len(f.Runs)))
		next := int64(0)
		for _, r := range f.Runs {
			if r.Page == zeroPages {
				b = binary.AppendUvarint(b, uint64(r.Count)<<1|1) //nolint:gosec // positive
				continue
			}
			b = binary.AppendUvarint(b, uint64(r.Count)<<1) //nolint:gosec // positive
			b = binary.AppendVarint(b, r.Page-next)
			next = r.Page + r.Count
		}
	}
	return b
}

func (f *Frame) encode(b []byte, kind Kind) []byte {
	flags := byte(0)
	if f.Raw {
		flags = flagRaw
	}
	if f.Sealed {
		flags |= flagSealed
	}
	b = binary.AppendUvarint(b, uint64(f.Length)) //nolint:gosec // positive
	b = append(b, byte(f.Pages), flags)           //nolint:gosec // at most FramePages
	b = append(b, f.Sum[:]...)
	if kind == Literal {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(f.Bases)))
	next := int64(0)
	for _, r := range f.Bases {
		b = binary.AppendVarint(b, r.Page-next)
		b = binary.AppendUvarint(b, uint64(r.Count)) //nolint:gosec // positive
		next = r.Page + r.Count
	}
	return b
}

// ParseIndex reads an index as [Index.Marshal] writes it. Whatever differs from that in its meaning or
// in the form of its numbers is an archive.ErrRejected; memory is taken for what
// the input holds, never for what it announces.
func ParseIndex(packed []byte) (*Index, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxIndexBytes))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	plain, err := z.DecodeAll(packed, nil)
	if err != nil {
		return nil, rejectf("page index: %w", err)
	}
	return parsePlain(plain)
}

// parsePlain reads an unpacked index.
func parsePlain(plain []byte) (*Index, error) {
	ix, err := decodeIndex(plain)
	if err == nil {
		err = ix.check()
	}
	if err != nil {
		return nil, rejectf("page index: %w", err)
	}
	return ix, nil
}

func decodeIndex(b []byte) (*Index, error) {
	d := &decoder{b: b}
	if string(d.bytes(len(magic))) != magic {
		return nil, errors.New("does not begin with " + magic)
	}
	if v := d.byte(); d.err == nil && v != version {
		return nil, fmt.Errorf("version %d, this program knows %d", v, version)
	}
	if p, f := d.uvarint(), d.uvarint(); d.err == nil && (p != PageBytes || f != FramePages) {
		return nil, fmt.Errorf("frames of %d pages of %d bytes, this program knows %d of %d", f, p, FramePages, PageBytes)
	}
	ix := &Index{}
	for range d.count("packs", MaxPacks) {
		p := Pack{Sum: d.sum(), Kind: Kind(d.byte())}
		for range d.count("frames", MaxFrames) {
			p.Frames = append(p.Frames, d.frame(p.Kind))
			if d.err != nil {
				return nil, d.err
			}
		}
		ix.Packs = append(ix.Packs, p)
		if d.err != nil {
			return nil, d.err
		}
	}
	for range d.count("files", MaxFiles) {
		ix.Files = append(ix.Files, d.file())
		if d.err != nil {
			return nil, d.err
		}
	}
	if d.err == nil && len(d.b) > 0 {
		return nil, fmt.Errorf("%d bytes behind the end", len(d.b))
	}
	return ix, d.err
}

// decoder takes an index apart. After an error it gives zeros.
type decoder struct {
	b            []byte
	err          error
	frames, runs uint64 // how many there were so far
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err, d.b = err, nil
	}
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail(io.ErrUnexpectedEOF)
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) sum() (s Sum) {
	copy(s[:], d.bytes(len(s)))
	return s
}

// uvarint reads a number of up to 63 bits in its shortest form.
func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 || v >= 1<<63 {
		d.fail(errors.New("a number that is cut off, too large or not in its shortest form"))
		return 0
	}
	d.b = d.b[n:]
	return v
}

// int reads a number that must not be negative.
func (d *decoder) int() int64 { return int64(d.uvarint()) } //nolint:gosec // below 1<<63

// varint reads a signed number in zigzag form.
func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail(errors.New("a number that is cut off, too large or not in its shortest form"))
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads how many things follow. Each takes a byte at least.
func (d *decoder) count(what string, limit uint64) uint64 {
	n := d.uvarint()
	if n > limit {
		d.fail(fmt.Errorf("%d %s, the limit is %d", n, what, limit))
		return 0
	}
	if n > uint64(len(d.b)) {
		d.fail(io.ErrUnexpectedEOF)
		return 0
	}
	return n
}

// page adds what a run says to the number expected, without overflow.
func (d *decoder) page(next int64) int64 {
	delta := d.varint()
	const limit = MaxFileBytes // far above any page number
	if delta > limit || delta < -limit || next > limit {
		d.fail(errors.New("a page number out of range"))
		return 0
	}
	return next + delta
}

func (d *decoder) frame(kind Kind) Frame {
	f := Frame{}
	length := d.uvarint()
	if length > maxStoredBytes {
		d.fail(fmt.Errorf("a frame of %d bytes, the limit is %d", length, maxStoredBytes))
	}
	f.Length = int(length) //nolint:gosec // at most maxStoredBytes
	f.Pages = int(d.byte())
	flags := d.byte()
	if flags > flagRaw|flagSealed {
		d.fail(fmt.Errorf("unknown flags %#x", flags))
	}
	f.Raw, f.Sealed = flags&flagRaw != 0, flags&flagSealed != 0
	f.Sum = d.sum()
	if d.frames++; d.frames > MaxFrames {
		d.fail(fmt.Errorf("more than %d frames", MaxFrames))
	}
	if kind != Delta {
		return f
	}
	next := int64(0)
	for range d.runCount() {
		r := Run{Page: d.page(next), Count: d.int()}
		if r.Count > FramePages {
			d.fail(errors.New("more base pages than a frame has pages"))
		}
		next = r.Page + r.Count
		f.Bases = append(f.Bases, r)
		if d.err != nil {
			break
		}
	}
	return f
}

// runCount is count for the runs of a frame or file.
func (d *decoder) runCount() uint64 {
	n := d.count("runs", MaxRuns)
	if d.runs += n; d.runs > MaxRuns {
		d.fail(fmt.Errorf("more than %d runs", MaxRuns))
		return 0
	}
	return n
}

func (d *decoder) file() File {
	f := File{}
	n := d.uvarint()
	if n > archive.MaxNameBytes {
		d.fail(fmt.Errorf("a name of %d bytes, the limit is %d", n, archive.MaxNameBytes))
		return f
	}
	f.Name = string(d.bytes(int(n)))
	f.Size = d.int()
	f.Sum = d.sum()
	count := d.runCount()
	f.Runs = make([]Run, 0, count)
	next := int64(0)
	for range count {
		v := d.int()
		r := Run{Page: zeroPages, Count: v >> 1}
		if r.Count > MaxFileBytes/PageBytes {
			d.fail(errors.New("a run that is longer than any file"))
		}
		if v&1 == 0 {
			r.Page = d.page(next)
			if r.Page < 0 {
				d.fail(errors.New("a page number out of range"))
			}
			next = r.Page + r.Count
		}
		f.Runs = append(f.Runs, r)
		if d.err != nil {
			break
		}
	}
	return f
}

// rejectf makes an error that is an archive.ErrRejected.
func rejectf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", archive.ErrRejected, fmt.Errorf(format, args...))
}
