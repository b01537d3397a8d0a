package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// Compression is how the bytes of an archive are packed.
type Compression string

// The compressions that are written. All of them are recognised when read.
const (
	Zstd         Compression = "zstd" // the default: RFC 8878, frames with checksums
	Gzip         Compression = "gzip" // RFC 1952
	Uncompressed Compression = "none"
)

// Compressions are the names that [ParseCompression] takes.
var Compressions = []Compression{Zstd, Gzip, Uncompressed} //nolint:gochecknoglobals // a constant table

// ParseCompression reads a compression's name; empty means [Zstd].
func ParseCompression(name string) (Compression, error) {
	if name == "" {
		return Zstd, nil
	}
	if c := Compression(name); slices.Contains(Compressions, c) {
		return c, nil
	}
	return "", fmt.Errorf("unknown compression %s: use zstd, gzip or none", QuoteName(name))
}

const (
	// gzipBlockBytes is the piece of input that one goroutine of pgzip compresses.
	gzipBlockBytes = 1 << 20
	// gunzipBlockBytes and gunzipBlocks are how far pgzip unpacks ahead, which it does on one core.
	gunzipBlockBytes = 256 << 10
	gunzipBlocks     = 8
	// packedBufferBytes is the unit in which a packed stream is read.
	packedBufferBytes = 128 << 10
)

// Compress gives a writer that packs what is written to it into w, on all
// cores. Close ends the stream; it does not close w. Until then w may be written
// to from another goroutine.
func Compress(w io.Writer, c Compression) (io.WriteCloser, error) {
	switch c {
	case Zstd, "":
		return newZstdWriter(w)
	case Gzip:
		z := pgzip.NewWriter(w)
		if err := z.SetConcurrency(gzipBlockBytes, runtime.GOMAXPROCS(0)); err != nil {
			return nil, err
		}
		return z, nil
	case Uncompressed:
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("unknown compression %s", QuoteName(string(c)))
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

var (
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd} //nolint:gochecknoglobals // a constant table
	magicGzip = []byte{0x1f, 0x8b}             //nolint:gochecknoglobals // a constant table
	// foreignMagic names formats that other engines take and this package does not.
	foreignMagic = map[string][]byte{ //nolint:gochecknoglobals // a constant table
		"xz":             {0xfd, '7', 'z', 'X', 'Z', 0},
		"bzip2":          []byte("BZh"),
		"lz4":            {0x04, 0x22, 0x4d, 0x18},
		"age-encrypted":  []byte(magicAge),
		"zip":            []byte("PK\x03\x04"),
		"ELF executable": []byte("\x7fELF"),
	}
)

// sniffBytes is enough of a stream to tell its compression.
const sniffBytes = 32

// Sniff tells the compression from the first bytes of a stream, never from a
// name. Zstandard's skippable frames are rejected here as Podman and
// checkpointctl reject them.
func Sniff(b []byte) (Compression, error) {
	switch {
	case bytes.HasPrefix(b, magicZstd):
		return Zstd, nil
	case bytes.HasPrefix(b, magicGzip):
		return Gzip, nil
	case len(b) >= 4 && b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], []byte{0x2a, 0x4d, 0x18}):
		return "", rejectf("begins with a skippable zstd frame")
	}
	for name, magic := range foreignMagic {
		if bytes.HasPrefix(b, magic) {
			return "", fmt.Errorf("%w: this is %s data", ErrNotArchive, name)
		}
	}
	return Uncompressed, nil
}

// Decompress unpacks r, whose compression it finds by its first bytes. The
// returned reader is at io.EOF only when the compressed stream ended whole,
// checksum included, with nothing behind it. Close releases its memory and
// does not close r.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) { return decompress(r, false) }

func decompress(r io.Reader, sequential bool) (io.ReadCloser, Compression, error) {
	cores := min(4, runtime.GOMAXPROCS(0))
	if sequential {
		cores = 1
	}
	br := bufio.NewReaderSize(&packedSource{r}, packedBufferBytes)
	first, err := br.Peek(sniffBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", unpackError("stream", err)
	}
	if len(first) == 0 {
		return nil, "", fmt.Errorf("%w: it is empty", ErrNotArchive)
	}
	c, err := Sniff(first)
	if err != nil {
		return nil, "", err
	}
	switch c {
	case Zstd:
		z, err := zstd.NewReader(br,
			zstd.WithDecoderMaxWindow(maxZstdWindow),
			zstd.WithDecoderConcurrency(cores))
		if err != nil {
			return nil, "", unpackError("zstd", err)
		}
		return &unpacked{r: z, close: func() error { z.Close(); return nil }, name: "zstd"}, c, nil
	case Gzip:
		z, err := gunzip(br, sequential)
		if err != nil {
			return nil, "", unpackError("gzip", err)
		}
		// Its Close only says again what a Read has said or nobody asked for.
		return &unpacked{r: z, close: func() error { _ = z.Close(); return nil }, name: "gzip"}, c, nil
	default:
		return &unpacked{r: br, close: func() error { return nil }, name: "tar"}, c, nil
	}
}

// gunzip unpacks ahead on another core, or only what is asked for.
func gunzip(r io.Reader, sequential bool) (io.ReadCloser, error) {
	if sequential {
		return gzip.NewReader(r)
	}
	return pgzip.NewReaderN(r, gunzipBlockBytes, gunzipBlocks)
}

// packedSource marks the errors of the compressed stream itself: a disk that
// cannot be read is no reason to call an archive damaged.
type packedSource struct{ r io.Reader }

type packedSourceError struct{ err error }

func (e *packedSourceError) Error() string { return e.err.Error() }

func (s *packedSource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &packedSourceError{err}
	}
	return n, err
}

// unpackError makes an error of a decompressor a rejection and gives back one
// of the stream below it as it was.
func unpackError(name string, err error) error {
	var source *packedSourceError
	switch {
	case errors.As(err, &source):
		return source.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return rejectf("%s: the stream is cut off", name)
	}
	return rejectf("%s: %w", name, err)
}

// unpacked turns the errors of a decompressor into rejections, and ends it once.
type unpacked struct {
	r      io.Reader
	close  func() error
	name   string
	closed bool
}

func (u *unpacked) Read(p []byte) (int, error) {
	if u.closed {
		return 0, errClosed // pgzip would look for its next block forever
	}
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = unpackError(u.name, err)
	}
	return n, err
}

func (u *unpacked) Close() error {
	if u.closed {
		return nil
	}
	u.closed = true
	return u.close()
}
