package archive_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

// TestImagesLayout wants images where a runtime looks for them.
func TestImagesLayout(t *testing.T) {
	dir := t.TempDir()
	parent := filepath.Join(dir, "before", "pre-1")
	sink, err := archive.CreateImages(filepath.Join(dir, "now"), parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sink.Dir(), "by-criu.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	copyAll(t, sink, archivetest.Source(archivetest.Checkpoint()))
	for _, name := range []string{"inventory.img", "pages-1.img", "descriptors.json", "by-criu.img", "spec.dump", "rootfs-diff.tar", "volumes/data ü.tar"} {
		if _, err := os.Lstat(filepath.Join(dir, "now", name)); err != nil {
			t.Errorf("%v, want the file among the images", err)
		}
	}
	if got, err := os.Readlink(filepath.Join(dir, "now", "parent")); err != nil || got != "../before/pre-1" {
		t.Errorf("the link to the parent is %q, %v; want it relative, so that both can be moved", got, err)
	}
	if _, err := archive.CreateImages(filepath.Join(dir, "now"), ""); !errors.Is(err, archive.ErrExists) {
		t.Errorf("a second time: %v, want %v", err, archive.ErrExists)
	}
}

// TestImagesRefuse does not take what could not be told apart again.
func TestImagesRefuse(t *testing.T) {
	for _, name := range []string{"x.img", "descriptors.json", "checkpoint/notes.txt", "checkpoint/sub/x.img"} {
		sink, err := archive.CreateImages(filepath.Join(t.TempDir(), "images"), "")
		if err != nil {
			t.Fatal(err)
		}
		err = sink.Put(t.Context(), archive.Entry{Name: name, Size: 1}, io.LimitReader(strings.NewReader("x"), 1))
		var entry *archive.EntryError
		if !errors.As(err, &entry) || entry.Name != name {
			t.Errorf("%s: %v, want an error that names it", name, err)
		}
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
	}
}
