package rootfs_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// containerThread gives a thread the view of a container: mounts of its own, a
// tmpfs among them, and root as its root directory. It lasts until the end of the test.
func containerThread(t *testing.T, root string) (tid int) {
	t.Helper()
	ready, end, gone := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
		}
		if err == nil {
			err = unix.Mount("tmpfs", filepath.Join(root, "data/untouched"), "tmpfs", 0, "size=64k")
		}
		if err == nil {
			err = unix.Chroot(root)
		}
		ready <- err
		<-end
	}()
	t.Cleanup(func() { close(end); <-gone })
	must(t, <-ready)
	return tid
}

// TestProcessRoot reads a root file system as a process has it, where mounts
// have other numbers than outside.
func TestProcessRoot(t *testing.T) {
	f := newFixture(t, "userxattr")
	torture(t, f.merged)
	want := f.want(t)
	tid := containerThread(t, f.merged)
	root := fmt.Sprintf("/proc/%d/root", tid)
	upper, lowers, ok, err := rootfs.Layers(tid, "/")
	must(t, err)
	if !ok || upper != f.upper || !slices.Equal(lowers, f.lowers) {
		t.Fatalf("layers %q, %q, %v, want %q, %q", upper, lowers, ok, f.upper, f.lowers)
	}
	diffs := map[string]func(w *bytes.Buffer) (rootfs.Result, error){
		rootfs.MethodOverlay: func(w *bytes.Buffer) (rootfs.Result, error) {
			return rootfs.Overlay(t.Context(), w, upper, lowers, root, f.skip)
		},
		rootfs.MethodDirectory: func(w *bytes.Buffer) (rootfs.Result, error) {
			return rootfs.Directory(t.Context(), w, f.base, root, f.skip)
		},
	}
	for method, diff := range diffs {
		t.Run(method, func(t *testing.T) {
			var out bytes.Buffer
			res, err := diff(&out)
			must(t, err)
			if got, want := res.Method, method; got != want {
				t.Errorf("method %q, want %q", got, want)
			}
			copied := f.fresh(t)
			applyChecked(t, copied, out.Bytes(), res.Deleted)
			compareTrees(t, snapshot(t, copied), want)
		})
	}
}
