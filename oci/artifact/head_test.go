package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

// counting is a store that counts what is read of blobs with random access.
type counting struct {
	*memStore
	read *int64
}

func (c counting) OpenBlob(ctx context.Context, desc ocispec.Descriptor) (blob, error) {
	b, err := c.memStore.OpenBlob(ctx, desc)
	return countedBlob{b, c.read}, err
}

type countedBlob struct {
	blob
	read *int64
}

func (b countedBlob) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.blob.ReadAt(p, off)
	*b.read += int64(n)
	return n, err
}

// headOf opens the head of an image of the files, and counts what is read of it.
func headOf(t *testing.T, files []archivetest.File, c archive.Compression) (archive.Source, *int64) {
	t.Helper()
	store := newMem()
	w, err := NewWriter(t.Context(), store, WriterOptions{Compression: c})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Copy(t.Context(), w, archivetest.Source(files), archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Commit(t.Context()), w.Close()); err != nil {
		t.Fatal(err)
	}
	read := new(int64)
	img, err := Open(t.Context(), counting{store, read}, w.Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	head, err := img.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return head, read
}

func TestHeadContract(t *testing.T) {
	for _, c := range archive.Compressions {
		t.Run(string(c), func(t *testing.T) {
			files := archivetest.Checkpoint()
			archivetest.TestSource(t, func(t *testing.T) archive.Source {
				head, _ := headOf(t, files, c)
				return head
			}, files)
		})
	}
}

// Who reads only the beginning has only that read, and who passes over a member of an uncompressed
// layer has it passed over.
func TestHeadReadsLittle(t *testing.T) {
	noise := make([]byte, 8<<20)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	files := archivetest.Checkpoint()
	files = append(files[:len(files):len(files)], archivetest.File{Name: "volumes/a.tar", Content: noise}, archivetest.File{Name: "volumes/b.tar", Content: []byte("b")})
	for _, c := range archive.Compressions {
		head, read := headOf(t, files, c)
		if _, _, err := head.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		if *read > 300<<10 {
			t.Errorf("%s: %d bytes were read for the first member", c, *read)
		}
		if c != archive.Uncompressed {
			continue
		}
		for {
			e, r, err := head.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if e.Name != "volumes/b.tar" {
				continue
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, []byte("b")) {
				t.Errorf("%s: %q, %v", e.Name, got, err)
			}
			break
		}
		if *read > 2<<20 {
			t.Errorf("%d bytes were read to pass over %d", *read, len(noise))
		}
	}
}

func TestHeadRejects(t *testing.T) {
	store := newMem()
	desc := writeImage(t, store, sample(t), WriterOptions{Compression: archive.Uncompressed})
	img, err := Open(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"cut in a header":  func(b []byte) []byte { return b[:100] },
		"damaged header":   func(b []byte) []byte { b[3] ^= 1; return b },
		"not what it says": func(b []byte) []byte { return append([]byte{0x28, 0xb5, 0x2f, 0xfd}, b...) },
	} {
		raw, err := io.ReadAll(must(store.Fetch(t.Context(), img.Layer())))
		if err != nil {
			t.Fatal(err)
		}
		damaged := &walked{newWalker(&readAhead{blob: memReader{bytes.NewReader(change(raw))}})}
		if _, _, err := damaged.Next(t.Context()); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: %v, want ErrRejected", name, err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
