package archive

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that mounts, except where nothing may be skipped.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root, as CI has to give it")
	}
	t.Skip("needs root to mount a file system")
}

// mountTmpfs gives a directory with a small file system of its own.
func mountTmpfs(t *testing.T, dir string, options string) {
	t.Helper()
	needRoot(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// lock keeps anyone but root from changing what is in dir.
func lock(t *testing.T, dir string) {
	t.Helper()
	set := func(mode fs.FileMode) {
		if err := os.Chmod(dir, mode); err != nil {
			t.Error(err)
		}
	}
	set(0o500)
	t.Cleanup(func() { set(0o700) })
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// onlyFiles fails the test unless dir holds exactly these names.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if g, w := strings.Join(got, " "), strings.Join(want, " "); g != w {
		t.Errorf("files in the directory: got %q, want %q", g, w)
	}
}

func content(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("content of %s: got %q, %v, want %q", filepath.Base(path), got, err, want)
	}
}

// writeAtomic is one life of an AtomicFile; before is called before Commit.
func writeAtomic(ctx context.Context, path string, replace bool, data string, before func()) (err error) {
	f, err := CreateAtomic(path, replace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), f.Close()) }()
	if _, err := f.Write([]byte(data)); err != nil {
		return err
	}
	before()
	return f.Commit(ctx)
}

func TestAtomicFile(t *testing.T) {
	for _, replace := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a")
		old := unix.Umask(0)
		err := writeAtomic(t.Context(), path, replace, "new", func() {
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("before Commit: got %v, want no file", err)
			}
		})
		unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		onlyFiles(t, dir, "a")
		content(t, path, "new")
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), fs.FileMode(0o600); got != want {
			t.Errorf("mode: got %v, want %v", got, want)
		}
	}
}

func TestAtomicFileReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	write(t, path, "old")
	err := writeAtomic(t.Context(), path, true, "new", func() { content(t, path, "old") })
	if err != nil {
		t.Fatal(err)
	}
	content(t, path, "new")
	onlyFiles(t, dir, "a")
}

func TestAtomicFileRelativeName(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := writeAtomic(t.Context(), "a", false, "new", func() {}); err != nil {
		t.Fatal(err)
	}
	content(t, "a", "new")
	onlyFiles(t, ".", "a")
	long := strings.Repeat("n", MaxComponentBytes)
	if err := writeAtomic(t.Context(), long, false, "new", func() {}); err != nil {
		t.Errorf("longest name: %v", err)
	}
	if err := writeAtomic(t.Context(), long+"n", false, "new", func() {}); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("longer name: got %v, want ENAMETOOLONG", err)
	}
	onlyFiles(t, ".", "a", long)
}

// TestAtomicFileFails looks after every failure that no temporary file stays and that what was
// there is as it was.
func TestAtomicFileFails(t *testing.T) {
	link := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Symlink("target", path); err != nil {
			t.Fatal(err)
		}
	}
	mkdir := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	fifo := func(t *testing.T, path string) {
		t.Helper()
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := func(t *testing.T, path string) { t.Helper(); write(t, path, "old") }
	for name, c := range map[string]struct {
		replace   bool
		before    func(*testing.T, string) // the creation
		meanwhile func(*testing.T, string) // before Commit
		is        error
	}{
		"file":                         {before: file, is: ErrExists},
		"link":                         {before: link, is: ErrExists},
		"link, replace":                {before: link, replace: true, is: ErrExists},
		"directory":                    {before: mkdir, is: ErrExists},
		"directory, replace":           {before: mkdir, replace: true, is: ErrExists},
		"FIFO":                         {before: fifo, is: ErrExists},
		"FIFO, replace":                {before: fifo, replace: true, is: ErrExists},
		"file comes":                   {meanwhile: file, is: ErrExists},
		"link comes":                   {meanwhile: link, is: ErrExists},
		"link comes, replace":          {meanwhile: link, replace: true, is: ErrExists},
		"directory comes":              {meanwhile: mkdir, is: ErrExists},
		"directory comes, replace":     {meanwhile: mkdir, replace: true, is: ErrExists},
		"FIFO comes, replace":          {meanwhile: fifo, replace: true, is: ErrExists},
		"temporary file goes":          {meanwhile: removeTemporary, is: fs.ErrNotExist},
		"temporary file goes, replace": {meanwhile: removeTemporary, replace: true, is: fs.ErrNotExist},
		"content is changed":           {meanwhile: changeTemporary},
		"content is cut":               {meanwhile: cutTemporary},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a")
			if c.before != nil {
				c.before(t, path)
			}
			var there fs.FileInfo
			err := writeAtomic(t.Context(), path, c.replace, "new", func() {
				if c.meanwhile != nil {
					c.meanwhile(t, path)
				}
				there, _ = os.Lstat(path)
			})
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("got %v, want %v", err, c.is)
			}
			if c.before == nil && there == nil {
				onlyFiles(t, dir)
				return
			}
			onlyFiles(t, dir, "a")
			after, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if there != nil && !os.SameFile(after, there) {
				t.Error("what was there is another file now")
			}
			if after.Mode().IsRegular() {
				content(t, path, "old")
			}
		})
	}
}

// temporary finds the file that is being written for path.
func temporary(t *testing.T, path string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*.ckarchive-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("temporary files: got %q, %v, want one", found, err)
	}
	return found[0]
}

func removeTemporary(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(temporary(t, path)); err != nil {
		t.Fatal(err)
	}
}

func changeTemporary(t *testing.T, path string) {
	t.Helper()
	write(t, temporary(t, path), "nEw")
}

func cutTemporary(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(temporary(t, path), 1); err != nil {
		t.Fatal(err)
	}
}

func TestAtomicFileNames(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{"", "a/", "/", ".", "..", "missing/a", "missing/"} {
		if err := writeAtomic(t.Context(), path, true, "new", func() {}); err == nil {
			t.Errorf("%q: got nil, want an error", path)
		}
	}
	onlyFiles(t, ".")
}

func TestAtomicFileCancelled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	write(t, path, "old")
	ctx, cancel := context.WithCancel(t.Context())
	if err := writeAtomic(ctx, path, true, "new", cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	onlyFiles(t, dir, "a")
	content(t, path, "old")
}

func TestAtomicFileClosed(t *testing.T) {
	dir := t.TempDir()
	f, err := CreateAtomic(filepath.Join(dir, "a"), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(t.Context()); err == nil {
		t.Error("Commit after Close: got nil, want an error")
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("Write after Close: got nil, want an error")
	}
	onlyFiles(t, dir)
}

func TestAtomicFileReadOnly(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		// Root writes whatever the modes say, but not to a file system mounted read-only.
		mountTmpfs(t, dir, "size=64k")
		write(t, filepath.Join(dir, "a"), "old")
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
	} else {
		write(t, filepath.Join(dir, "a"), "old")
		lock(t, dir)
	}
	for _, name := range []string{"a", "b"} {
		f, err := CreateAtomic(filepath.Join(dir, name), true)
		if err == nil {
			t.Errorf("%s: got nil, want an error at once", name)
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	onlyFiles(t, dir, "a")
	content(t, filepath.Join(dir, "a"), "old")
}

func TestFileSinkNoSpace(t *testing.T) {
	dir := t.TempDir()
	mountTmpfs(t, dir, "size=64k")
	path := filepath.Join(dir, "a")
	write(t, path, "old")
	// What a compressor still holds fails at its end, more of it fails before.
	for _, size := range []int{200 << 10, 8 << 20} {
		for _, c := range Compressions {
			fillFile(t, path, c, size)
			onlyFiles(t, dir, "a")
			content(t, path, "old")
		}
	}
}

// fillFile writes an archive where there is no room for one.
func fillFile(t *testing.T, path string, c Compression, size int) {
	t.Helper()
	random := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random) // no compressor makes it fit
	sink, err := CreateFile(path, FileOptions{Compression: c, Replace: true})
	if err != nil {
		t.Fatal(err)
	}
	err = sink.Put(t.Context(), Entry{Name: "a", Size: int64(len(random))}, strings.NewReader(string(random)))
	if err == nil {
		err = sink.Commit(t.Context())
	}
	if !errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%d bytes, %s: got %v, want ErrNoSpace", size, c, err)
	}
	if err := sink.Close(); err != nil {
		t.Errorf("%d bytes, %s: Close: %v", size, c, err)
	}
}

// TestDirSinkNoSpace fills the file system behind the check of an entry of unknown size.
func TestDirSinkNoSpace(t *testing.T) {
	dir := t.TempDir()
	mountTmpfs(t, dir, "size=64k")
	sink, err := CreateDir(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	err = sink.Put(t.Context(), Entry{Name: "a", Size: SizeUnknown}, strings.NewReader(strings.Repeat("x", 128<<10)))
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	onlyFiles(t, dir)
}

// TestLinkNew is the way that file systems without RENAME_NOREPLACE get.
func TestLinkNew(t *testing.T) {
	for name, name2 := range map[string]func(from, to string) error{"rename": renameNew, "link": linkNew} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
			write(t, from, "new")
			write(t, to, "old")
			if err := name2(from, to); !errors.Is(err, ErrExists) {
				t.Errorf("onto a file: got %v, want ErrExists", err)
			}
			content(t, to, "old")
			if err := os.Remove(to); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("nowhere", to); err != nil {
				t.Fatal(err)
			}
			if err := name2(from, to); !errors.Is(err, ErrExists) {
				t.Errorf("onto a dangling link: got %v, want ErrExists", err)
			}
			if err := os.Remove(to); err != nil {
				t.Fatal(err)
			}
			if err := name2(from, to); err != nil {
				t.Errorf("onto nothing: %v", err)
			}
			content(t, to, "new")
		})
	}
}

func TestWriteFileAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	for _, want := range []string{"first", "second"} {
		if err := WriteFileAtomic(t.Context(), path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		content(t, path, want)
	}
	onlyFiles(t, dir, "a")
}

func TestCreateDir(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "old")
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("dir", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "dir", "link", "dir/"} {
		if _, err := CreateDir(filepath.Join(dir, name)); !errors.Is(err, ErrExists) {
			t.Errorf("%s: got %v, want ErrExists", name, err)
		}
	}
	if _, err := CreateDir(filepath.Join(dir, "missing", "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing parent: got %v, want ErrNotExist", err)
	}
	sink, err := CreateDir(filepath.Join(dir, "new") + "/")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "new"), "came meanwhile")
	if err := sink.Commit(t.Context()); !errors.Is(err, ErrExists) {
		t.Errorf("name taken meanwhile: got %v, want ErrExists", err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	content(t, filepath.Join(dir, "new"), "came meanwhile")
	onlyFiles(t, dir, "dir", "file", "link", "new")
}

// TestOpenDirRejects what is neither a file nor a directory, also when it becomes one later.
func TestOpenDirRejects(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"link":          func(p string) error { return os.Symlink("config.dump", p) },
		"dangling link": func(p string) error { return os.Symlink("/nowhere", p) },
		"FIFO":          func(p string) error { return unix.Mkfifo(p, 0o600) },
		"unclean name":  func(p string) error { return os.WriteFile(p+"\xff", nil, 0o600) },
	} {
		dir := t.TempDir()
		if err := change(filepath.Join(dir, "x")); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDir(dir, DirOptions{}); !errors.Is(err, ErrRejected) {
			t.Errorf("%s: got %v, want ErrRejected", name, err)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	write(t, path, "content")
	d, err := OpenDir(dir, DirOptions{ModTime: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Next(t.Context()); !errors.Is(err, ErrRejected) {
		t.Errorf("FIFO later: got %v, want ErrRejected", err)
	}
	if _, err := d.Open(t.Context(), "a"); !errors.Is(err, ErrRejected) {
		t.Errorf("FIFO later, Open: got %v, want ErrRejected", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.Open(t.Context(), "a"); err == nil {
		t.Error("Open after Close: got nil, want an error")
	}
}

// What a killed process left is removed by the next one that writes the same file; what another one is
// writing, and what only looks like it, stays.
func TestAbandonedTemporary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	killed, err := CreateAtomic(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.file.Close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	living, err := CreateAtomic(path, false)
	if err != nil {
		t.Fatal(err)
	}
	others := []string{".x.tar.ckarchive-SHORT", ".y.tar.ckarchive-ABCDEFGHIJKL", "x.tar.ckarchive-ABCDEFGHIJKL"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next, err := CreateAtomic(path, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{killed.file.Name(): false, living.file.Name(): true, next.file.Name(): true} {
		if _, err := os.Lstat(name); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
	for _, name := range others {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(living.Commit(t.Context()), next.Close()); err != nil {
		t.Error(err)
	}
}
