package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// spoolPages are the memory of a checkpoint; one file is longer than a frame, one empty.
func spoolPages() map[string][]byte {
	return map[string][]byte{
		archive.Image("pages-1.img"):  memory(3<<20 + 4096),
		archive.Image("pages-2.img"):  memory(8192),
		archive.Image("pages-10.img"): memory(4096),
		archive.Image("pages-11.img"): {},
	}
}

// keeper keeps members aside.
type keeper interface {
	archive.Kept
	Put(ctx context.Context, name string, r io.Reader) error
}

// newSpool and newHold are the two kinds of it.
func newSpool(t *testing.T) keeper {
	t.Helper()
	spool, err := archive.NewSpool(filepath.Join(t.TempDir(), "packed"))
	if err != nil {
		t.Fatal(err)
	}
	return spool
}

func newHold(t *testing.T) keeper {
	t.Helper()
	hold, err := archive.NewHold(holdChunk)
	if err != nil {
		t.Fatal(err)
	}
	hold.Dir = filepath.Join(t.TempDir(), "held")
	t.Cleanup(func() {
		if err := hold.Close(); err != nil {
			t.Error(err)
		}
	})
	return hold
}

// sealKept seals a checkpoint whose memory is kept aside, or in the directory like the rest.
func sealKept(t *testing.T, aside keeper) (archive.Source, *archive.Metadata) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, archive.CheckpointDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{archive.Inventory, archive.Descriptors, "mm-1.img"} {
		if err := os.WriteFile(filepath.Join(dir, archive.Image(name)), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, archive.RootfsDiff), memory(1024), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	for name, content := range spoolPages() {
		if aside != nil {
			err = aside.Put(t.Context(), name, iotest.HalfReader(bytes.NewReader(content)))
		} else if len(content) > 0 {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	meta := &archive.Metadata{
		FormatVersion: archive.FormatVersion, Format: archive.FormatCRIU, Created: time.Unix(1700000000, 0).UTC(),
		Container: archive.Container{ID: "c1"},
	}
	src, err := archive.Seal(t.Context(), dir, aside, meta, []byte(`{"ociVersion":"1.0.2"}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src, meta
}

// writeSealed writes a sealed checkpoint to a file and gives its bytes and what Copy counted.
func writeSealed(t *testing.T, src archive.Source, c archive.Compression) (content []byte, sum archive.Summary, counted int64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.tar")
	dst, err := archive.CreateFile(path, archive.FileOptions{Compression: c})
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close() //nolint:errcheck // committed below
	sum, err = archive.Copy(t.Context(), dst, src, archive.CopyOptions{OnBytes: func(n int64) { counted += n }})
	if err != nil {
		t.Fatal(err)
	}
	if err := dst.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if content, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return content, sum, counted
}

// TestKeptSameArchive wants the same bytes whether memory was packed while it was dumped, held, or
// written to a disk first.
func TestKeptSameArchive(t *testing.T) {
	for _, c := range archive.Compressions {
		t.Run(string(c)+" spool", func(t *testing.T) { sameArchive(t, c, newSpool(t)) })
		t.Run(string(c)+" hold", func(t *testing.T) { sameArchive(t, c, newHold(t)) })
	}
}

func sameArchive(t *testing.T, c archive.Compression, aside keeper) {
	t.Helper()
	plain, plainMeta := sealKept(t, nil)
	packed, packedMeta := sealKept(t, aside)
	if !slices.Equal(packedMeta.Members, plainMeta.Members) {
		t.Errorf("members %v, want %v", packedMeta.Members, plainMeta.Members)
	}
	want, wantSum, _ := writeSealed(t, plain, c)
	got, gotSum, counted := writeSealed(t, packed, c)
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes that differ from the %d of a dump on a disk", len(got), len(want))
	}
	if gotSum != wantSum || counted != wantSum.Bytes {
		t.Errorf("copied %+v, counted %d, want %+v", gotSum, counted, wantSum)
	}
	src, err := archive.NewReader(bytes.NewReader(got), archive.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // read only
	if rep, err := archive.Verify(t.Context(), src, archive.CopyOptions{}); err != nil || !rep.Proven {
		t.Errorf("proven %v, %v", rep.Proven, err)
	}
}

// TestSpoolSkipped copies without the memory: what is skipped is still read to its end.
func TestSpoolSkipped(t *testing.T) {
	src, _ := sealKept(t, newSpool(t))
	sum, err := archive.Copy(t.Context(), archive.Discard{}, src, archive.CopyOptions{
		Skip: func(e archive.Entry) bool { return archive.IsPages(e.Name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	pages := int64(0)
	for _, content := range spoolPages() {
		pages += int64(len(content))
	}
	if sum.Bytes < pages {
		t.Errorf("%d bytes were read, the memory alone is %d", sum.Bytes, pages)
	}
}

func TestSpoolFailures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "packed")
	spool, err := archive.NewSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.NewSpool(dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("second spool there: %v, want ErrExist", err)
	}
	broken := errors.New("broken")
	if err := spool.Put(t.Context(), "a", io.MultiReader(bytes.NewReader(memory(4096)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("broken reader: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := spool.Put(ctx, "b", bytes.NewReader(memory(4096))); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := spool.Put(t.Context(), "c", bytes.NewReader(nil)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("spool that is gone: %v", err)
	}
}

// TestSpoolInPlace packs memory into the archive file before its head is known. The bytes are
// those of an archive that was written from its beginning, and what is not in its place is moved.
func TestSpoolInPlace(t *testing.T) {
	large := make([]byte, 64<<20)
	copy(large[1<<20:], memory(1<<20))
	for _, tt := range []struct {
		name  string
		head  int // bytes of dump.log that do not pack
		pages []string
		sizes []int
	}{
		{"alone", 0, []string{"pages-1.img"}, []int{64 << 20}},
		{"first of two", 0, []string{"pages-1.img", "pages-2.img"}, []int{64 << 20, 4096}},
		{"behind a small one", 0, []string{"pages-2.img", "pages-1.img"}, []int{64 << 20, 4096}},
		{"too small", 0, []string{"pages-1.img", "pages-2.img"}, []int{4096, 64 << 20}},
		{"large head", 600 << 10, []string{"pages-1.img"}, []int{64 << 20}},
		{"head to the brim", 255 << 10, []string{"pages-1.img"}, []int{64 << 20}},
		{"two large ones", 0, []string{"pages-3.img", "pages-1.img"}, []int{64 << 20, 64 << 20}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write := func(inPlace bool) []byte {
				dir, path := t.TempDir(), filepath.Join(t.TempDir(), "x.tar.zst")
				if err := os.Mkdir(filepath.Join(dir, archive.CheckpointDir), 0o700); err != nil {
					t.Fatal(err)
				}
				for name, content := range map[string][]byte{archive.Image(archive.Inventory): {1}, archive.DumpLog: memory(tt.head)} {
					if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				dst, err := archive.CreateFile(path, archive.FileOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer dst.Close() //nolint:errcheck // committed below
				spool, err := dst.Spool(filepath.Join(t.TempDir(), "packed"))
				if err != nil {
					t.Fatal(err)
				}
				for i, name := range tt.pages {
					content := large[:tt.sizes[i]]
					if inPlace {
						err = spool.Put(t.Context(), archive.Image(name), bytes.NewReader(content))
					} else {
						err = os.WriteFile(filepath.Join(dir, archive.Image(name)), content, 0o600)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				meta := &archive.Metadata{FormatVersion: archive.FormatVersion, Created: time.Unix(1700000000, 0), Container: archive.Container{ID: "c"}}
				src, err := archive.Seal(t.Context(), dir, spool, meta, []byte(`{"ociVersion":"1.0.2"}`))
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close() //nolint:errcheck // read only
				if _, err := archive.Copy(t.Context(), dst, src, archive.CopyOptions{}); err != nil {
					t.Fatal(err)
				}
				if err := dst.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				return content
			}
			got, want := write(true), write(false)
			if !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes that differ from the %d of an archive written from its beginning", len(got), len(want))
			}
			src, err := archive.NewReader(bytes.NewReader(got), archive.ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close() //nolint:errcheck // read only
			if rep, err := archive.Verify(t.Context(), src, archive.CopyOptions{}); err != nil || !rep.Proven {
				t.Errorf("proven %v, %v", rep.Proven, err)
			}
		})
	}
}
