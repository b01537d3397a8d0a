package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// tortureBase adds to a pristine root file system what torture changes.
func tortureBase(t *testing.T, root string) {
	t.Helper()
	for _, d := range []string{"t/dir/sub", "t/opaque/old", "t/gone/deep", "t/kept"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for _, f := range []string{"t/modified", "t/chmod", "t/chown", "t/deleted", "t/dir/sub/file", "t/opaque/old/file", "t/opaque/one", "t/gone/deep/file", "t/kept/file", "t/same", "t/xattr", "t/tolink"} {
		writeFile(t, filepath.Join(root, f), "pristine "+f+"\n")
	}
	must(t, os.Symlink("same", filepath.Join(root, "t/link")))
	past := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	must(t, os.Chtimes(filepath.Join(root, "t/same"), past, past))
}

// torture changes a container's root file system in every way that an archive has to carry.
func torture(t *testing.T, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, "t", name) }
	writeFile(t, at("modified"), "pristine t/MODIFIED\n") // of the same length
	must(t, os.Chmod(at("chmod"), 0o4711))
	must(t, os.Lchown(at("chown"), 12, 34))
	must(t, os.Remove(at("deleted")))
	must(t, os.RemoveAll(at("gone")))
	// A directory becomes a file, a file a link, a link a directory.
	must(t, os.RemoveAll(at("dir")))
	writeFile(t, at("dir"), "a file now\n")
	must(t, os.Remove(at("tolink")))
	must(t, os.Symlink("/t/kept/file", at("tolink")))
	must(t, os.Remove(at("link")))
	must(t, os.Mkdir(at("link"), 0o1777))
	// A directory of the same name that hides the old one.
	must(t, os.RemoveAll(at("opaque")))
	must(t, os.Mkdir(at("opaque"), 0o750))
	writeFile(t, at("opaque/new"), "new\n")
	must(t, os.Link(at("opaque/new"), at("hard link")))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, os.Symlink("../../absent", at("dangling")))
	must(t, unix.Setxattr(at("xattr"), "user.e2e", []byte("value\x00with zero"), 0))
	must(t, os.Mkdir(at("empty"), 0o700))
	writeFile(t, at("name with \n newline"), "x")
	writeFile(t, at(strings.Repeat("long", 60)), strings.Repeat("y", 5000))
	past := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	must(t, os.Chtimes(at("modified"), past, past))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// snapshot describes every entry of a tree, but not what the running container
// writes, and nothing that is mounted.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	inodes := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%v %d:%d", d.Type(), st.Uid, st.Gid)
		if d.Type() != fs.ModeSymlink {
			text += fmt.Sprintf(" %o", st.Mode&0o7777)
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + target
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d %x at %d.%09d", st.Size, sha256.Sum256(b), st.Mtim.Sec, st.Mtim.Nsec)
			if first := inodes[st.Ino]; first != "" {
				text += " linked to " + first
			} else if st.Nlink > 1 {
				inodes[st.Ino] = name
			}
		}
		all[name] = text + xattrs(t, path)
		if slices.Contains([]string{"/tmp", "/dev", "/proc", "/sys"}, name) {
			return fs.SkipDir
		}
		return nil
	}))
	return all
}

func xattrs(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	text := ""
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		text += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return text
}

func wantSameTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%q\n got %s\nwant %s", name, got[name], text)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%q is there and should not be: %s", name, got[name])
		}
	}
}

// overlayOn mounts an overlay over base for the time of the test.
func (h *host) overlayOn(name, base string) string {
	h.t.Helper()
	dir := h.path(name)
	for _, d := range []string{"upper", "work", "merged"} {
		must(h.t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", base, dir, dir)
	must(h.t, syscall.Mount("overlay", merged, "overlay", 0, options))
	h.t.Cleanup(func() {
		if err := syscall.Unmount(merged, syscall.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
	return merged
}

func TestRootfs(t *testing.T) {
	for _, tt := range []struct {
		method string // as inspect says it
		base   bool   // --base is given to the export
	}{{"directory", true}, {"whole", false}, {"overlay", false}} {
		t.Run(tt.method, func(t *testing.T) {
			h := newHost(t)
			base := h.copyBase(h.path("base"))
			tortureBase(t, base)
			opts := counts()
			if tt.method == "overlay" {
				opts.Rootfs = h.overlayOn("overlay", base)
			} else {
				opts.Rootfs = h.path("rootfs")
				command(t, "cp", "-a", base, opts.Rootfs)
			}
			c := h.start("c", opts)
			torture(t, c.rootfs)
			var flags []string
			if tt.base {
				flags = []string{"--base", base}
			}
			path := c.export("c.tar", flags...)
			want := snapshot(t, c.rootfs)
			said := h.inspect(path)
			if got := said.Metadata.Rootfs.Method; got != tt.method {
				t.Errorf("method %q, want %q", got, tt.method)
			}
			if got := said.Metadata.Rootfs.Deleted; tt.method != "whole" && got == 0 {
				t.Error("no deletions are told of")
			}
			pristine := snapshot(t, base)

			ways := map[string][]string{"copied": {"--base", base}}
			inPlace := h.path("in-place")
			if tt.method == "whole" {
				ways = map[string][]string{"from the archive": nil}
				must(t, os.Mkdir(inPlace, 0o755))
			} else {
				command(t, "cp", "-a", base, inPlace)
				h.restoreRefused("no", []string{path}, 5, "--base", "--rootfs")
			}
			ways["in place"] = []string{"--rootfs", inPlace}
			for way, flags := range ways {
				for _, engine := range []string{"runtime", "direct"} {
					if way == "in place" && engine == "direct" {
						continue // it is no pristine copy any more
					}
					r := h.restore(strings.ReplaceAll(way, " ", "-")+engine, path, append(flags, "--engine", engine)...)
					if way == "in place" && r.rootfs != inPlace {
						t.Errorf("restored in %s, want %s", r.rootfs, inPlace)
					}
					r.wellFrom(c)
					wantSameTree(t, snapshot(t, r.rootfs), want)
				}
			}
			wantSameTree(t, snapshot(t, base), pristine)
		})
	}
}

// A bundle that the operator prepared is used as it is.
func TestOwnBundle(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar.zst", "--base", h.built.base)
	for _, engine := range []string{"runtime", "direct"} {
		bundle := env.Bundle(t, h.path("own-"+engine), env.BundleOptions{
			Args: []string{"/bin/workload"}, Mounts: nil,
		})
		rootfs := h.copyBase(filepath.Join(bundle, "rootfs"))
		config := readFile(t, filepath.Join(bundle, "config.json"))
		r := h.restore(engine, path, "--engine", engine, "--bundle", bundle)
		r.wellFrom(c)
		if r.bundle != bundle || r.rootfs != rootfs {
			t.Errorf("restored in %s with %s, want %s with %s", r.bundle, r.rootfs, bundle, rootfs)
		}
		if got := readFile(t, filepath.Join(bundle, "config.json")); got != config {
			t.Errorf("config.json was changed: %s", got)
		}
	}
	// One that is not there yet is made.
	made := h.path("made")
	r := h.restore("made", path, "--bundle", made, "--base", h.built.base)
	r.wellFrom(c)
	if want := filepath.Join(made, "rootfs"); r.rootfs != want {
		t.Errorf("restored in %s, want %s", r.rootfs, want)
	}
}
