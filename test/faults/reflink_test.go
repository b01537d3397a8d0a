package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/cache"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/test/env"
)

// used is how many bytes the file system of dir has in use.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close() //nolint:errcheck // read only
	must(t, unix.Syncfs(int(d.Fd())))
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// Where files can share blocks, what a restore takes from the cache, and the copy of its base, take no room; where they
// cannot, and on another file system than the cache's, they are copies.
func TestReflinks(t *testing.T) {
	const size, little = 16 << 20, 1 << 20
	sharing, plain := env.Reflinks(t), t.TempDir()
	members := []string{archive.Image("pages-1.img"), archive.Image("core-1.img"), archive.RootfsDiff}
	src := filepath.Join(sharing, "src")
	must(t, os.MkdirAll(filepath.Join(src, archive.CheckpointDir), 0o700))
	for _, name := range members {
		must(t, os.WriteFile(filepath.Join(src, name), noise(size), 0o600))
	}
	for _, tt := range []struct {
		name, in string
		copy     func(dst string) error
		linked   []string // members that are one file in both
		most     int64
	}{
		{"cache", sharing, func(dst string) error { return cache.Share(t.Context(), dst, src) }, []string{members[0], members[2]}, little},
		{"cache elsewhere", plain, func(dst string) error { return cache.Share(t.Context(), dst, src) }, nil, -1},
		{"base", sharing, func(dst string) error { return rootfs.CopyTree(t.Context(), src, dst) }, nil, little},
		{"base elsewhere", plain, func(dst string) error { return rootfs.CopyTree(t.Context(), src, dst) }, nil, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dst := filepath.Join(tt.in, tt.name)
			before := used(t, tt.in)
			must(t, tt.copy(dst))
			if grown := used(t, tt.in) - before; tt.most >= 0 && grown > tt.most {
				t.Errorf("it takes %d bytes, want at most %d for %d", grown, tt.most, len(members)*size)
			}
			for _, name := range members {
				ours, err := os.Stat(filepath.Join(src, name))
				must(t, err)
				theirs, err := os.Stat(filepath.Join(dst, name))
				must(t, err)
				if got, want := os.SameFile(ours, theirs), slices.Contains(tt.linked, name); got != want {
					t.Errorf("%s is the same file: %v, want %v", name, got, want)
				}
				if got, err := os.ReadFile(filepath.Join(dst, name)); err != nil || !bytes.Equal(got, noise(size)) {
					t.Errorf("%s: %d bytes, %v, want the same %d", name, len(got), err, size)
				}
			}
			// What is written to a copy does not reach the original.
			must(t, os.WriteFile(filepath.Join(dst, members[1]), []byte("changed"), 0o600))
			if got, err := os.ReadFile(filepath.Join(src, members[1])); err != nil || len(got) != size {
				t.Errorf("the original has %d bytes, %v", len(got), err)
			}
		})
	}
}
