package rootfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// engine applies a difference as another engine does, without any of its care.
type engine struct {
	name      string
	whiteouts bool // it reads OCI whiteouts and no list of deletions
}

var (
	// podman (and CRI-O) unpack whiteouts as files and then remove what is listed.
	podman = engine{name: "podman"}
	// containerd reads whiteouts only.
	containerd = engine{name: "containerd", whiteouts: true}
)

func (e engine) apply(t *testing.T, root string, diff []byte, deleted []string) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(diff))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		p := filepath.Join(root, h.Name)
		dir, base := filepath.Split(p)
		if target, ok := strings.CutPrefix(base, ".wh."); ok && e.whiteouts {
			must(t, os.RemoveAll(filepath.Join(dir, target)))
			continue
		}
		if fi, err := os.Lstat(p); err == nil && (!fi.IsDir() || h.Typeflag != tar.TypeDir) {
			must(t, os.RemoveAll(p))
		}
		unpack(t, root, p, h, tr)
	}
	if e.whiteouts {
		return
	}
	for _, name := range deleted {
		must(t, os.RemoveAll(filepath.Join(root, name)))
	}
}

func unpack(t *testing.T, root, p string, h *tar.Header, r io.Reader) {
	t.Helper()
	dev := int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	case tar.TypeReg:
		f, err := os.Create(p)
		must(t, err)
		_, err = io.Copy(f, r)
		must(t, err)
		must(t, f.Close())
	case tar.TypeSymlink:
		symlink(t, h.Linkname, p)
	case tar.TypeLink:
		must(t, os.Link(filepath.Join(root, h.Linkname), p))
		return
	case tar.TypeFifo:
		must(t, unix.Mknod(p, unix.S_IFIFO, 0))
	case tar.TypeChar:
		must(t, unix.Mknod(p, unix.S_IFCHR, dev))
	case tar.TypeBlock:
		must(t, unix.Mknod(p, unix.S_IFBLK, dev))
	default:
		t.Fatalf("%q has type %q", h.Name, h.Typeflag)
	}
	must(t, os.Lchown(p, h.Uid, h.Gid))
	if h.Typeflag != tar.TypeSymlink {
		must(t, unix.Chmod(p, uint32(h.Mode)))
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			setxattr(t, p, name, value)
		}
	}
	ts, err := unix.TimeToTimespec(h.ModTime)
	must(t, err)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// Podman and CRI-O list a directory that was deleted and made again as deleted, have what is new
// in it in the tar, and lose that themselves.
func TestApplyRemadeDirectory(t *testing.T) {
	diff := makeTar(t, file("opq/sub/new", "new"), dir("opq/empty"), file("other", ""))
	for name, apply := range map[string]func(root string) bool{
		"ours": func(root string) bool {
			must(t, rootfs.Apply(t.Context(), root, bytes.NewReader(diff), []string{"/opq", "/dead"}, rootfs.ApplyOptions{}))
			return true
		},
		"podman's": func(root string) bool {
			podman.apply(t, root, diff, []string{"/opq", "/dead"})
			return false
		},
	} {
		root := t.TempDir()
		for _, d := range []string{"opq/sub", "opq/old", "dead/deep"} {
			must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
			must(t, os.WriteFile(filepath.Join(root, d, "old"), nil, 0o600))
		}
		kept := apply(root)
		for path, want := range map[string]bool{
			"opq/sub/new": kept, "opq/empty": kept,
			"opq/sub/old": false, "opq/old": false, "dead": false,
		} {
			if _, err := os.Lstat(filepath.Join(root, path)); (err == nil) != want {
				t.Errorf("%s: %s is there: %v, want %v", name, path, err == nil, want)
			}
		}
	}
}
