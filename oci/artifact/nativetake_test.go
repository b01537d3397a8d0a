package artifact

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/pages"
	"github.com/ckarchive/ckarchive/registry"
)

// sealed writes a checkpoint as an export does: images are in a directory, memory is kept aside by keep, the metadata
// are made with the digests of both.
func sealed(t *testing.T, w archive.Sink, files []archivetest.File, keep func(dir string, memory []archivetest.File) archive.Kept) error {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, archive.CheckpointDir), 0o700); err != nil {
		t.Fatal(err)
	}
	var memory []archivetest.File
	for _, f := range files {
		switch {
		case archive.IsPages(f.Name):
			memory = append(memory, f)
		case !f.Dir && filepath.Dir(f.Name) == archive.CheckpointDir:
			if err := os.WriteFile(filepath.Join(dir, f.Name), f.Content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	meta := archive.Metadata{FormatVersion: archive.FormatVersion, Created: archivetest.Time, Container: archive.Container{ID: "c"}}
	src, err := archive.Seal(t.Context(), dir, keep(dir, memory), &meta, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := archive.Copy(t.Context(), w, src, archive.CopyOptions{}); err != nil {
		return err
	}
	return w.Commit(t.Context())
}

// held keeps memory in a Hold, which is read when everything is put.
func held(t *testing.T) func(string, []archivetest.File) archive.Kept {
	return func(_ string, memory []archivetest.File) archive.Kept {
		h, err := archive.NewHold(0)
		if err != nil {
			t.Fatal(err)
		}
		h.Dir = filepath.Join(t.TempDir(), "hold")
		t.Cleanup(func() { _ = h.Close() })
		for _, f := range memory {
			if err := h.Put(t.Context(), f.Name, bytes.NewReader(f.Content)); err != nil {
				t.Fatal(err)
			}
		}
		return h
	}
}

// taken lets w take the memory at once.
func taken(t *testing.T, w *NativeWriter) func(string, []archivetest.File) archive.Kept {
	return func(dir string, memory []archivetest.File) archive.Kept {
		images, err := os.ReadDir(filepath.Join(dir, archive.CheckpointDir))
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range images {
			name := archive.Image(i.Name())
			if !pages.IsPagemap(name) {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = w.TakeMap(name, bytes.NewReader(b))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		all := archive.Taken{}
		for _, f := range memory {
			m, err := w.Take(t.Context(), f.Name, bytes.NewReader(f.Content))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, m)
		}
		return all
	}
}

// Memory that is taken before the metadata, and hashed once, gives the same checkpoint as memory that is
// hashed for the metadata and read again for the packs; with a parent, too.
func TestTake(t *testing.T) {
	life := newLife(700)
	var last [2]*Native
	stores := [2]*registry.Store{newStore(t), newStore(t)}
	for generation := range 3 {
		files := life.checkpoint()
		var digests [2]digest.Digest
		for i, store := range stores {
			w, err := NewNativeWriter(t.Context(), store, NativeOptions{Parent: last[i]})
			if err != nil {
				t.Fatal(err)
			}
			keep := held(t)
			if i == 1 {
				keep = taken(t, w)
			}
			if err := sealed(t, w, files, keep); err != nil {
				t.Fatal(err)
			}
			digests[i] = w.Descriptor().Digest
			last[i] = openNative(t, store, w.Descriptor())
			if s := w.Stats(); generation > 0 && s.Same == 0 {
				t.Errorf("generation %d: %+v, want pages of the parent", generation, s)
			}
			if report, err := archive.Verify(t.Context(), openNative(t, store, w.Descriptor()), archive.CopyOptions{}); err != nil || !report.Proven {
				t.Errorf("generation %d: %v, want it proven", generation, err)
			}
		}
		if digests[0] != digests[1] {
			t.Errorf("generation %d: taken at once it is %s, held first it is %s", generation, digests[1], digests[0])
		}
		life.change(20)
	}
}

// What one writer has taken is nothing for another, whatever it is told about it.
func TestTakenElsewhere(t *testing.T) {
	files := newLife(20).checkpoint()
	writer := func() *NativeWriter {
		w, err := NewNativeWriter(t.Context(), newStore(t), NativeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		return w
	}
	if err := sealed(t, writer(), files, taken(t, writer())); err == nil {
		t.Error("a writer accepts what another one has taken")
	}
	w := writer()
	lying := func(dir string, memory []archivetest.File) archive.Kept {
		all, _ := taken(t, w)(dir, memory).(archive.Taken)
		all[0].SHA256, all[1].SHA256 = all[1].SHA256, all[0].SHA256
		return all
	}
	if err := sealed(t, w, files, lying); err == nil {
		t.Error("a writer accepts other digests than it gave")
	}
	// A sink that takes nothing before gets an error, and not an empty file.
	src := taken(t, writer())
	image, err := NewWriter(t.Context(), newStore(t), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := sealed(t, image, files, src); err == nil || errors.Is(err, archive.ErrRejected) {
		t.Errorf("an image of memory that went elsewhere: %v", err)
	}
}
