package criu

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// content is a pages file, one byte for each page.
func content(list string) []byte {
	var all []byte
	for _, b := range []byte(list) {
		all = append(all, bytes.Repeat([]byte{b}, pageBytes)...)
	}
	return all
}

func writeImages(t *testing.T, images map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range images {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Pages that had not changed are taken from the images before, across their entries; what is whole stays as it is.
func TestJoinParent(t *testing.T) {
	before := map[string][]byte{
		"pagemap-1.img": encode(t, magicPagemap, pagemapHead(7), pages(0x1000, 2, pagePresent), pages(0x3000, 2, pagePresent), pages(0x9000, 1, pagePresent)),
		"pages-7.img":   content("abcde"),
	}
	whole := encode(t, magicPagemap, pagemapHead(2), pages(0x1000, 1, pagePresent))
	now := map[string][]byte{
		"pagemap-1.img": encode(t, magicPagemap, pagemapHead(1), pages(0x2000, 2, pageInParent), pages(0x4000, 1, pagePresent), pages(0x9000, 1, pageInParent|1<<1)),
		"pages-1.img":   content("D"),
		"pagemap-2.img": whole,
		"pages-2.img":   content("w"),
	}
	dir := writeImages(t, now)
	if err := JoinParent(t.Context(), dir, writeImages(t, before)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"pagemap-1.img": encode(t, magicPagemap, pagemapHead(1), pages(0x2000, 2, pagePresent), pages(0x4000, 1, pagePresent), pages(0x9000, 1, pagePresent|1<<1)),
		"pages-1.img":   content("bcDe"),
		"pagemap-2.img": whole,
		"pages-2.img":   content("w"),
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(want))
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(now) {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// interruptedContext ends when it has been asked a few times.
type interruptedContext struct {
	context.Context
	left int
}

func (c *interruptedContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// An interrupt is heard in the middle of one large map or file, and is no fault of the images.
func TestReadingIsInterrupted(t *testing.T) {
	t.Run("join", func(t *testing.T) {
		before := map[string][]byte{"pagemap-1.img": encode(t, magicPagemap, pagemapHead(1), pages(0x1000, 9, pagePresent)), "pages-1.img": content("abcdefghi")}
		now := map[string][]byte{"pagemap-1.img": encode(t, magicPagemap, pagemapHead(1), pages(0x1000, 1, pageInParent), pages(0x3000, 1, pageInParent), pages(0x5000, 1, pageInParent))}
		err := JoinParent(&interruptedContext{t.Context(), 3}, writeImages(t, now), writeImages(t, before))
		if !errors.Is(err, context.Canceled) || errors.Is(err, archive.ErrRejected) {
			t.Errorf("error %v, want only the interrupt", err)
		}
	})
	t.Run("tmpfs", func(t *testing.T) {
		var image bytes.Buffer
		z := gzip.NewWriter(&image)
		w := tar.NewWriter(z)
		random := make([]byte, 2<<20) // which cannot be packed
		_, _ = rand.Read(random)
		must(t, w.WriteHeader(&tar.Header{Name: "./x", Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(random))}))
		_, err := w.Write(random)
		must(t, errors.Join(err, w.Close(), z.Close()))
		dir := writeImages(t, map[string][]byte{"tmpfs-dev-1.tar.gz.img": image.Bytes()})
		err = checkTmpfs(&interruptedContext{t.Context(), 4}, dir, "tmpfs-dev-1.tar.gz.img", nil)
		if !errors.Is(err, context.Canceled) || errors.Is(err, archive.ErrRejected) {
			t.Errorf("error %v, want only the interrupt", err)
		}
	})
}

func TestJoinParentRejects(t *testing.T) {
	one := func(entries ...proto.Message) []byte {
		return encode(t, magicPagemap, append([]proto.Message{pagemapHead(1)}, entries...)...)
	}
	now := one(pages(0x2000, 2, pageInParent))
	for name, before := range map[string]map[string][]byte{
		"no map":                      {},
		"a page too few":              {"pagemap-1.img": one(pages(0x1000, 2, pagePresent)), "pages-1.img": content("ab")},
		"a gap":                       {"pagemap-1.img": one(pages(0x2000, 1, pagePresent), pages(0x5000, 2, pagePresent)), "pages-1.img": content("abc")},
		"not whole itself":            {"pagemap-1.img": one(pages(0x2000, 2, pageInParent)), "pages-1.img": content("")},
		"a pages file that is cut":    {"pagemap-1.img": one(pages(0x2000, 2, pagePresent)), "pages-1.img": content("a")},
		"a pages file that is absent": {"pagemap-1.img": one(pages(0x2000, 2, pagePresent))},
	} {
		err := JoinParent(t.Context(), writeImages(t, map[string][]byte{"pagemap-1.img": now}), writeImages(t, before))
		if !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: %v, want ErrRejected", name, err)
		}
	}
}
