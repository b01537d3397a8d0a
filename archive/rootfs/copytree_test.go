package rootfs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
)

func TestCopyTree(t *testing.T) {
	requireRoot(t)
	src, dst := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "dst")
	buildBase(t, src)
	torture(t, buildLayers(t, src))
	must(t, rootfs.CopyTree(t.Context(), src, dst))
	compareTrees(t, snapshot(t, dst), snapshot(t, src))
	if _, err := os.Lstat(dst + "/sock/s"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket was copied: %v", err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(dst+"/new/sparse", &st))
	if got, limit := st.Blocks*512, int64(1<<20); got > limit {
		t.Errorf("a file of holes takes %d bytes, want at most %d", got, limit)
	}
	// The copy is one: writing to it does not reach the original.
	write(t, dst+"/data/mod", "written to the copy")
	data, err := os.ReadFile(src + "/data/mod")
	must(t, err)
	if got, want := string(data), "modified\n"; got != want {
		t.Errorf("the original holds %q, want %q", got, want)
	}
}

// buildLayers adds what torture expects of a second layer.
func buildLayers(t *testing.T, root string) string {
	t.Helper()
	buildSecond(t, root)
	return root
}

func TestCopyTreeTarget(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/file", "x")
	used := t.TempDir()
	write(t, used+"/kept", "x")
	plain := filepath.Join(t.TempDir(), "file")
	write(t, plain, "x")
	for _, test := range []struct {
		name, src, dst string
		want           error
	}{
		{"new", src, filepath.Join(t.TempDir(), "new"), nil},
		{"empty", src, t.TempDir(), nil},
		{"used", src, used, archive.ErrExists},
		{"a file", src, plain, unix.ENOTDIR},
		{"no parent", src, filepath.Join(t.TempDir(), "a/b"), os.ErrNotExist},
		{"no source", src + "/absent", filepath.Join(t.TempDir(), "new"), os.ErrNotExist},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := rootfs.CopyTree(t.Context(), test.src, test.dst); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
	entries, err := os.ReadDir(used)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("a directory that was refused holds %v", entries)
	}
}

func TestCopyTreeUndoesItself(t *testing.T) {
	src := t.TempDir()
	for _, name := range []string{"a/b", "c", "d"} {
		write(t, filepath.Join(src, name), "x")
	}
	parent, empty := t.TempDir(), t.TempDir()
	for _, dst := range []string{parent + "/new", empty} {
		ctx := &countdown{Context: t.Context(), left: 2}
		if err := rootfs.CopyTree(ctx, src, dst); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
	}
	for _, dir := range []string{parent, empty} {
		entries, err := os.ReadDir(dir)
		must(t, err)
		if !slices.Equal(entries, []os.DirEntry{}) {
			t.Errorf("left behind: %v", entries)
		}
	}
}

// countdown is a context that ends after a number of looks at it.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func (c *countdown) Value(any) any { return nil }
