package archive_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/ckarchive/ckarchive/archive"
)

// holdChunk is the size of a piece of a Hold's memory.
const holdChunk = 4 << 20

// TestHold puts members at once that end in, at and behind the chunks of the memory, and finds them
// again wherever they went.
func TestHold(t *testing.T) {
	contents := map[string][]byte{
		archive.Image("pages-1.img"):  memory(2*holdChunk + 4096),
		archive.Image("pages-2.img"):  memory(holdChunk),
		archive.Image("pages-3.img"):  memory(8192),
		archive.Image("pages-10.img"): memory(holdChunk - 1),
		archive.Image("pages-11.img"): {},
	}
	for name, size := range map[string]int64{
		"no memory": 0, "less": holdChunk + 1, "as much as it is": 4*holdChunk + 12288, "more": 16 * holdChunk,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "hold")
			h, err := archive.NewHold(size)
			if err != nil {
				t.Fatal(err)
			}
			h.Dir = dir
			var all sync.WaitGroup
			for name, content := range contents {
				all.Go(func() {
					if err := h.Put(t.Context(), name, iotest.HalfReader(bytes.NewReader(content))); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			want := []string{"pages-1.img", "pages-2.img", "pages-3.img", "pages-10.img"}
			for i := range want {
				want[i] = archive.Image(want[i])
			}
			if got := h.Names(); !slices.Equal(got, want) {
				t.Errorf("names %q, want %q", got, want)
			}
			for _, name := range want {
				checkHeld(t, h, name, contents[name])
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory is left: %v", err)
			}
		})
	}
}

func checkHeld(t *testing.T, h *archive.Hold, name string, want []byte) {
	t.Helper()
	b, err := h.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Size() != int64(len(want)) {
		t.Errorf("%s: %d bytes, want %d", name, b.Size(), len(want))
	}
	got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the content differs", name)
	}
	for _, off := range []int64{0, 1, holdChunk - 3, holdChunk, int64(len(want)) - 5} {
		p := make([]byte, 10)
		n, err := b.ReadAt(p, off)
		rest := want[min(off, int64(len(want))):]
		if whole := len(rest) >= len(p); n != min(len(p), len(rest)) || whole == errors.Is(err, io.EOF) || !bytes.Equal(p[:n], rest[:n]) {
			t.Errorf("%s: at %d: %d bytes, error %v", name, off, n, err)
		}
	}
}

// TestHoldFails tells of a reader that fails, wherever its content goes, and of a full disk.
func TestHoldFails(t *testing.T) {
	broken := errors.New("broken")
	for _, size := range []int64{0, 2 * holdChunk} {
		h, err := archive.NewHold(size)
		if err != nil {
			t.Fatal(err)
		}
		h.Dir = filepath.Join(t.TempDir(), "hold")
		r := io.MultiReader(bytes.NewReader(memory(5000)), iotest.ErrReader(broken))
		if err := h.Put(t.Context(), "x", r); !errors.Is(err, broken) {
			t.Errorf("with %d bytes: error %v, want %v", size, err, broken)
		}
		if got := h.Names(); len(got) != 0 {
			t.Errorf("with %d bytes: it keeps %q", size, got)
		}
		if _, err := h.Open("x"); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("with %d bytes: open: %v", size, err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	h, err := archive.NewHold(0)
	if err != nil {
		t.Fatal(err)
	}
	h.Dir = filepath.Join(t.TempDir(), "missing", "hold")
	if err := h.Put(t.Context(), "x", bytes.NewReader([]byte{1})); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want %v", err, os.ErrNotExist)
	}
}
