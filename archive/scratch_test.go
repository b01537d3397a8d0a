package archive_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestScratch: what a killed process left goes, what a living one has and what is not of that kind stays.
func TestScratch(t *testing.T) {
	dir := t.TempDir()
	living, closing, err := archive.Scratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	file, other, dead := filepath.Join(dir, "ckarchive-scratch-file"), filepath.Join(dir, "ckarchive-1"), filepath.Join(dir, "ckarchive-scratch-1")
	outside := t.TempDir()
	for _, err := range []error{
		os.WriteFile(file, nil, 0o600), os.Mkdir(other, 0o700), os.Mkdir(dead, 0o700),
		os.WriteFile(filepath.Join(dead, "pages-1.img"), []byte("secret"), 0o600), os.Symlink(outside, filepath.Join(dir, "ckarchive-scratch-link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	second, closeSecond, err := archive.Scratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{living: true, second: true, file: true, other: true, outside: true, dead: false} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
	if err := errors.Join(closing(), closeSecond()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{living, second} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	if os.Getuid() == 0 {
		theirs := filepath.Join(dir, "ckarchive-scratch-theirs")
		if err := errors.Join(os.Mkdir(theirs, 0o777), os.Chown(theirs, 1, 1)); err != nil {
			t.Fatal(err)
		}
		archive.RemoveScratch(dir)
		if _, err := os.Lstat(theirs); err != nil {
			t.Errorf("what is another user's was removed: %v", err)
		}
	}
}

// TestReplay: all of a stream can be read again, whatever was read of it before, and nothing of it has a name.
func TestReplay(t *testing.T) {
	want := bytes.Repeat([]byte("stream"), 100000)
	for _, ahead := range []int64{0, 1, 100001, int64(len(want))} {
		dir := t.TempDir()
		r := archive.NewReplay(iotest.HalfReader(bytes.NewReader(want)), dir)
		if _, err := io.CopyN(io.Discard, r, ahead); err != nil {
			t.Fatal(err)
		}
		path, err := r.Rest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("after %d bytes: %d bytes, %v; want all %d", ahead, len(got), err, len(want))
			}
		}
		if left := names(t, dir); len(left) > 0 {
			t.Errorf("%q has a name", left)
		}
		if n, err := r.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			t.Errorf("a reader that nobody hears gets %d bytes, %v", n, err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("it is there after Close")
		}
	}
}

// TestReplayIsNotNeeded: a stream that is read once needs no place to be kept.
func TestReplayIsNotNeeded(t *testing.T) {
	r := archive.NewReplay(bytes.NewReader([]byte("stream")), "/nonexistent")
	if _, err := io.CopyN(io.Discard, r, 3); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "eam" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
	r = archive.NewReplay(bytes.NewReader([]byte("stream")), "/nonexistent")
	if _, err := r.Rest(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kept nowhere: %v", err)
	}
	if _, err := archive.NewReplay(bytes.NewReader(nil), t.TempDir()).Rest(t.Context()); !errors.Is(err, archive.ErrNotArchive) {
		t.Errorf("an empty stream: %v", err)
	}
}

// TestCreateUnnamed: what nobody can name nobody has to remove.
func TestCreateUnnamed(t *testing.T) {
	dir := t.TempDir()
	f, err := archive.CreateUnnamed(dir)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 || st.Mode&0o777 != 0o600 {
		t.Errorf("%d names, mode %o: %v", st.Nlink, st.Mode, err)
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
