package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

func TestHostileCompression(t *testing.T) {
	plain := tarOf(base("")...)
	gz, zst := packWith(t, plain, archive.Gzip), packWith(t, plain, archive.Zstd)
	cut := func(b []byte, n int) []byte { return b[:len(b)-n] }
	flip := func(b []byte, at int) []byte { b = slices.Clone(b); b[at] ^= 0x55; return b }
	two := func(c archive.Compression, at int) []byte {
		return slices.Concat(packWith(t, plain[:at], c), packWith(t, plain[at:], c))
	}
	boundary := len(plain) - len(endMark) - 4096 - blockBytes // before pages-1.img
	skippable := []byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc")
	for name, c := range map[string]struct {
		accept bool
		data   []byte
	}{
		"gz-truncated":          {false, cut(gz, len(gz)/2)},
		"gz-trunc-trailer":      {false, cut(gz, 8)},
		"gz-trunc-size":         {false, cut(gz, 4)},
		"gz-bad-checksum":       {false, flip(gz, len(gz)-8)},
		"gz-bad-size":           {false, flip(gz, len(gz)-1)},
		"gz-header-only":        {false, gz[:10]},
		"gz-garbage-after":      {false, slices.Concat(gz, []byte("garbage behind the member"))},
		"gz-two-members":        {true, two(archive.Gzip, boundary)},
		"gz-two-members-inside": {true, two(archive.Gzip, boundary+100)},
		"gz-first-member-only":  {false, packWith(t, plain[:boundary], archive.Gzip)},
		"gz-double":             {false, packWith(t, gz, archive.Gzip)},
		"gz-of-nothing":         {false, packWith(t, nil, archive.Gzip)},
		"gz-in-zst":             {false, packWith(t, gz, archive.Zstd)},
		"zst-truncated":         {false, cut(zst, len(zst)/2)},
		"zst-trunc-checksum":    {false, cut(zst, 4)},
		"zst-bad-checksum":      {false, flip(zst, len(zst)-1)},
		"zst-bad-magic":         {false, flip(zst, 0)},
		"zst-garbage-after":     {false, slices.Concat(zst, []byte("garbage behind the frame"))},
		"zst-two-frames":        {true, two(archive.Zstd, boundary)},
		"zst-first-frame-only":  {false, packWith(t, plain[:boundary], archive.Zstd)},
		"zst-skippable":         {false, slices.Concat(skippable, zst)},
		"zst-double":            {false, packWith(t, zst, archive.Zstd)},
		"zst-of-nothing":        {false, packWith(t, nil, archive.Zstd)},
		"zst-header-only":       {false, zst[:6]},
	} {
		t.Run(name, func(t *testing.T) {
			verify(t, c.data, c.accept)
			unpack(t, c.data, c.accept)
		})
	}
}

// TestForeignFormats wants the name of a format that is recognised and not read.
func TestForeignFormats(t *testing.T) {
	for want, magic := range map[string]string{
		"xz":             "\xfd7zXZ\x00",
		"bzip2":          "BZh91AY&SY",
		"lz4":            "\x04\x22\x4d\x18",
		"zip":            "PK\x03\x04",
		"ELF executable": "\x7fELF\x02",
		"is empty":       "",
	} {
		data := magic
		if magic != "" {
			data += strings.Repeat("data", 500)
		}
		_, err := archive.NewReader(strings.NewReader(data), archive.ReaderOptions{})
		if !errors.Is(err, archive.ErrNotArchive) || !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrNotArchive", want, err)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q, which does not name the format", want, err)
		}
	}
	// Encrypted once is no foreign format, twice is.
	encrypted := "age-encryption.org/v1\n" + strings.Repeat("data", 500)
	if _, err := archive.NewReader(strings.NewReader(encrypted), archive.ReaderOptions{}); !errors.Is(err, archive.ErrEncrypted) || errors.Is(err, archive.ErrRejected) {
		t.Errorf("encrypted: got %v, want ErrEncrypted", err)
	}
	same := func(r io.Reader) (io.Reader, error) { return r, nil }
	if _, err := archive.NewReader(strings.NewReader(encrypted), archive.ReaderOptions{Decrypt: same}); !errors.Is(err, archive.ErrNotArchive) {
		t.Errorf("encrypted twice: got %v, want ErrNotArchive", err)
	}
}

func TestNotArchive(t *testing.T) {
	for name, data := range map[string]string{
		"text":       strings.Repeat("no tar header here\n", 100),
		"only zeros": endMark,
	} {
		src, err := archive.NewReader(strings.NewReader(data), archive.ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := src.Next(t.Context()); !errors.Is(err, archive.ErrNotArchive) {
			t.Errorf("%s: got %v, want ErrNotArchive", name, err)
		}
	}
	if _, err := archive.OpenFile(t.TempDir(), archive.ReaderOptions{}); !errors.Is(err, archive.ErrNotArchive) {
		t.Errorf("directory: got %v, want ErrNotArchive", err)
	}
	if _, err := archive.OpenFile(filepath.Join(t.TempDir(), "x"), archive.ReaderOptions{}); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("missing file: got %v, want ErrNotFound", err)
	}
}

// TestPrefixes rejects every strict prefix of a whole archive.
func TestPrefixes(t *testing.T) {
	files := []archivetest.File{
		{Name: archive.ConfigDump, Content: []byte("{}")},
		{Name: archive.SpecDump, Content: []byte("{}")},
		{Name: archive.Image(archive.Inventory), Content: bytes.Repeat([]byte("inventory"), 60)},
	}
	for _, c := range archive.Compressions {
		t.Run(string(c), func(t *testing.T) {
			whole := pack(t, files, c)
			verify(t, whole, true)
			for n := range whole {
				src, err := archive.NewReader(bytes.NewReader(whole[:n]), archive.ReaderOptions{})
				if err == nil {
					_, err = archivetest.Read(t.Context(), src)
					if cerr := src.Close(); cerr != nil {
						t.Errorf("Close: %v", cerr)
					}
				}
				if !errors.Is(err, archive.ErrRejected) {
					t.Fatalf("the first %d of %d bytes: got %v, want ErrRejected", n, len(whole), err)
				}
			}
		})
	}
}

// TestStreamErrors keeps an error of the disk apart from a damaged archive.
func TestStreamErrors(t *testing.T) {
	broken := errors.New("input/output error")
	for _, c := range archive.Compressions {
		whole := pack(t, archivetest.Checkpoint(), c)
		for _, n := range []int{0, 3, 100, len(whole) / 2, len(whole) - 1} {
			r := io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))
			src, err := archive.NewReader(r, archive.ReaderOptions{})
			if err == nil {
				_, err = archivetest.Read(t.Context(), src)
				if cerr := src.Close(); cerr != nil {
					t.Errorf("Close: %v", cerr)
				}
			}
			if !errors.Is(err, broken) || errors.Is(err, archive.ErrRejected) {
				t.Errorf("%s, error after %d bytes: got %v, want the stream's error and no ErrRejected", c, n, err)
			}
		}
	}
}

// chunked passes content on in pieces of n bytes.
type chunked struct {
	w io.Writer
	n int
}

func (c chunked) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		n, err := c.w.Write(p[:min(c.n, len(p))])
		done += n
		if err != nil {
			return done, err
		}
		p = p[n:]
	}
	return done, nil
}

// TestSameBytes packs one checkpoint on one and more cores, as a file and in small and large
// pieces: the same checkpoint must give the same archive.
func TestSameBytes(t *testing.T) {
	plain := pack(t, archivetest.Checkpoint(), archive.Uncompressed)
	for _, c := range archive.Compressions {
		var want []byte
		packed := pack(t, archivetest.Checkpoint(), c)
		for _, cores := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s/%d cores/file", c, cores), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
				if got := pack(t, archivetest.Checkpoint(), c); !bytes.Equal(got, packed) {
					t.Errorf("got %d bytes that differ from the %d of another number of cores", len(got), len(packed))
				}
			})
			for _, piece := range []int{511, 100_000, 1 << 20, 1<<22 + 1} {
				t.Run(fmt.Sprintf("%s/%d cores/%d bytes", c, cores, piece), func(t *testing.T) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
					var b bytes.Buffer
					w, err := archive.Compress(&b, c)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := (chunked{w, piece}).Write(plain); err != nil {
						t.Fatal(err)
					}
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
					if want == nil {
						want = b.Bytes()
					}
					if !bytes.Equal(b.Bytes(), want) {
						t.Errorf("got %d bytes that differ from the %d of other cores and pieces", b.Len(), len(want))
					}
				})
			}
		}
	}
}

func TestCompressRoundTrip(t *testing.T) {
	const frame = 1 << 20
	for _, c := range archive.Compressions {
		for _, n := range []int{1, frame - 1, frame, frame + 1, 5*frame + 3} {
			want := memory(n)
			var b bytes.Buffer
			w, err := archive.Compress(&b, c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			r, _, err := archive.Decompress(&b)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s of %d bytes: got %d, %v", c, n, len(got), err)
			}
			if err := r.Close(); err != nil {
				t.Errorf("%s: close: %v", c, err)
			}
			if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%s: read after close: got %d, %v, want an error", c, n, err)
			}
		}
	}
}

// TestCompressNothing wants a stream that a decompressor takes even for no content.
func TestCompressNothing(t *testing.T) {
	for _, c := range []archive.Compression{archive.Zstd, archive.Gzip} {
		var b bytes.Buffer
		w, err := archive.Compress(&b, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, got, err := archive.Decompress(&b)
		if err != nil || got != c {
			t.Errorf("got %q, %v, want %q", got, err, c)
			continue
		}
		if content, err := io.ReadAll(r); err != nil || len(content) != 0 {
			t.Errorf("%s: got %d bytes, %v, want none", c, len(content), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// full is a disk that takes n bytes.
type full struct{ n int }

var errFull = errors.New("disk full")

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.n)
	f.n -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

// TestFullStream reports the stream's error, at the latest by Commit.
func TestFullStream(t *testing.T) {
	for _, c := range archive.Compressions {
		whole := len(pack(t, archivetest.Checkpoint(), c))
		for _, n := range []int{0, 100, whole / 2, whole - 1} {
			sink, err := archive.NewStreamSink(&full{n}, archive.StreamOptions{Compression: c})
			if err != nil {
				t.Fatal(err)
			}
			_, err = archive.Copy(t.Context(), sink, archivetest.Source(archivetest.Checkpoint()), archive.CopyOptions{})
			if err == nil {
				err = sink.Commit(t.Context())
			}
			if !errors.Is(err, errFull) {
				t.Errorf("%s on a stream that takes %d of %d bytes: got %v, want %v", c, n, whole, err, errFull)
			}
			if err := sink.Close(); err != nil {
				t.Errorf("%s: Close: %v", c, err)
			}
		}
	}
}

func TestParseCompression(t *testing.T) {
	for in, want := range map[string]archive.Compression{"": archive.Zstd, "zstd": archive.Zstd, "gzip": archive.Gzip, "none": archive.Uncompressed} {
		if got, err := archive.ParseCompression(in); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"xz", "ZSTD", "gz"} {
		if got, err := archive.ParseCompression(in); err == nil {
			t.Errorf("%q: got %q, want an error", in, got)
		}
	}
	if _, err := archive.Compress(io.Discard, "xz"); err == nil {
		t.Error("Compress with xz: got nil, want an error")
	}
	if _, err := archive.CreateFile(filepath.Join(t.TempDir(), "a"), archive.FileOptions{Compression: "xz"}); err == nil || errors.Is(err, os.ErrExist) {
		t.Errorf("CreateFile with xz: got %v, want an error", err)
	}
}
