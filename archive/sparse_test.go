package archive_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// TestDirSinkLeavesHoles writes data, zeros in and out of step with the blocks, and zeros at the
// end, in reads of any size.
func TestDirSinkLeavesHoles(t *testing.T) {
	data := func(n int) []byte { return bytes.Repeat([]byte{7}, n) }
	contents := map[string][]byte{
		"empty":    {},
		"one-zero": {0},
		"zeros":    make([]byte, 1<<20),
		"tail":     append(data(5000), make([]byte, 300_001)...),
		"head":     append(make([]byte, 300_001), data(1)...),
		"unequal":  bytes.Join([][]byte{data(10), make([]byte, 9000), data(4096), make([]byte, 8192), data(4000), make([]byte, 100)}, nil),
		"data":     data(100_000),
	}
	readers := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r },
		"bytes": iotest.OneByteReader,
		"halves": func(r io.Reader) io.Reader {
			return iotest.HalfReader(r)
		},
		"random": func(r io.Reader) io.Reader { return &raggedReader{r, rand.New(rand.NewPCG(1, 2))} },
	}
	for how, wrap := range readers {
		for name, want := range contents {
			dir := filepath.Join(t.TempDir(), "d")
			d, err := archive.CreateDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			e := archive.Entry{Name: name, Kind: archive.KindFile, Size: int64(len(want))}
			if err := d.Put(context.Background(), e, wrap(bytes.NewReader(want))); err != nil {
				t.Fatal(err)
			}
			if err := d.Commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s in %s: the content differs", name, how)
			}
			if name != "zeros" || how == "bytes" { // a byte is no block
				continue
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if used := st.Blocks * 512; used > int64(len(want))/2 {
				t.Errorf("%s in %s: %d bytes of zeros take %d bytes", name, how, len(want), used)
			}
		}
	}
}

// raggedReader reads as much as chance will have it, often less than a block.
type raggedReader struct {
	r    io.Reader
	rand *rand.Rand
}

func (r *raggedReader) Read(p []byte) (int, error) {
	return r.r.Read(p[:min(len(p), 1+r.rand.IntN(40_000))])
}
