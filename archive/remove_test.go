package archive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: got %v, want it gone", path, err)
	}
}

// tree makes a directory with files, links and more below dir.
func tree(t *testing.T, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(root, "a/b/c"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "a/file"), "x")
	write(t, filepath.Join(root, "a/b/c/read only"), "x")
	for path, target := range map[string]string{"link": "..", "a/abs": dir, "a/dangling": "nowhere", "a/b/to file": "../file"} {
		if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestRemoveTree(t *testing.T) {
	for name, path := range map[string]func(root string) string{
		"plain":         func(r string) string { return r },
		"final slash":   func(r string) string { return r + "/" },
		"final slashes": func(r string) string { return r + "///" },
		"dot":           func(r string) string { return r + "/." },
		"dot dot":       func(r string) string { return r + "/a/.." },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "outside"), "kept")
			root := tree(t, dir)
			if err := RemoveTree(path(root)); err != nil {
				t.Fatal(err)
			}
			gone(t, root)
			onlyFiles(t, dir, "outside")
			if err := RemoveTree(path(root)); err != nil {
				t.Errorf("what is gone: %v", err)
			}
		})
	}
	t.Run("relative", func(t *testing.T) {
		dir := t.TempDir()
		t.Chdir(dir)
		tree(t, dir)
		if err := RemoveTree("tree"); err != nil {
			t.Fatal(err)
		}
		onlyFiles(t, dir)
	})
	t.Run("missing parent", func(t *testing.T) {
		if err := RemoveTree(filepath.Join(t.TempDir(), "a", "b")); err != nil {
			t.Error(err)
		}
	})
}

// TestRemoveTreeLinks removes links and not what they point to.
func TestRemoveTreeLinks(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	if err := os.MkdirAll(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(outside, "file"), "kept")
	root := tree(t, dir)
	if err := os.Symlink(outside, filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{root, link} {
		if err := RemoveTree(path); err != nil {
			t.Fatal(err)
		}
		gone(t, path)
	}
	content(t, filepath.Join(outside, "file"), "kept")
}

func TestRemoveTreeStopsAtMounts(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	host := filepath.Join(dir, "host")
	if err := os.Mkdir(host, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(host, "file"), "kept")
	for name, mount := range map[string]func(t *testing.T, root string) (kept string){
		"tmpfs inside": func(t *testing.T, root string) string {
			t.Helper()
			at := filepath.Join(root, "a", "b")
			mountTmpfs(t, at, "size=64k")
			write(t, filepath.Join(at, "file"), "kept")
			return filepath.Join(at, "file")
		},
		"bind mount of the same file system": func(t *testing.T, root string) string {
			t.Helper()
			at := filepath.Join(root, "a", "b")
			bind(t, host, at)
			return filepath.Join(at, "file")
		},
		"bind mount of a file": func(t *testing.T, root string) string {
			t.Helper()
			at := filepath.Join(root, "a", "file")
			bind(t, filepath.Join(host, "file"), at)
			return at
		},
		"tree itself": func(t *testing.T, root string) string {
			t.Helper()
			bind(t, host, root)
			return filepath.Join(root, "file")
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, t.TempDir())
			kept := mount(t, root)
			err := RemoveTree(root)
			if !errors.Is(err, errMountPoint) || !strings.Contains(err.Error(), root) {
				t.Errorf("got %v, want an error that names the mount", err)
			}
			content(t, kept, "kept")
			content(t, filepath.Join(host, "file"), "kept")
		})
	}
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(to, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// TestRemoveTreeReadOnly tells why a file cannot be removed.
func TestRemoveTreeReadOnly(t *testing.T) {
	dir, want := t.TempDir(), error(unix.EACCES)
	file := filepath.Join(dir, "file")
	if os.Geteuid() == 0 {
		want = unix.EROFS
		mountTmpfs(t, dir, "size=64k")
		write(t, file, "x")
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
	} else {
		write(t, file, "x")
		lock(t, dir)
	}
	if err := RemoveTree(file); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestRemoveTreeImmutable also does so where the kernel's answer could mean a directory.
func TestRemoveTreeImmutable(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()        //nolint:errcheck // read only
	const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skipf("the file system has no immutable files: %v", err)
	}
	defer func() {
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := RemoveTree(file); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want EPERM", err)
	}
	content(t, file, "x")
}
