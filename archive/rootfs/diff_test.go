package rootfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// fixture is a container's root file system on a real overlay of two layers.
type fixture struct {
	dir    string
	base   string // the lower layers as one directory
	upper  string
	lowers []string
	merged string
	skip   rootfs.Options
}

func newFixture(t *testing.T, extra string) fixture {
	t.Helper()
	requireRoot(t)
	dir := t.TempDir()
	p := func(s string) string { return filepath.Join(dir, s) }
	f := fixture{
		dir: dir, base: p("base"), upper: p("upper"), lowers: []string{p("l2"), p("l1")}, merged: p("merged"),
		skip: rootfs.Options{Skip: []string{"/skipped", "/skipped-file", "/absent", "/proc/"}},
	}
	buildBase(t, p("l1"))
	mkdir(t, p("l2"), 0o755)
	unmount := mountOverlay(t, p("m2"), p("l2"), []string{p("l1")}, extra)
	buildSecond(t, p("m2"))
	unmount()
	// Engines that unpack images mark no directory that replaces a file.
	write(t, p("l2/layers/flips/middle"), "second layer\n")
	mountOverlay(t, p("m2"), "", f.lowers, extra)
	must(t, rootfs.CopyTree(t.Context(), p("m2"), f.base))
	mkdir(t, f.upper, 0o755)
	mountOverlay(t, f.merged, f.upper, f.lowers, extra)
	return f
}

func (f fixture) diff(t *testing.T) ([]byte, rootfs.Result) {
	t.Helper()
	var out bytes.Buffer
	res, err := rootfs.Overlay(t.Context(), &out, f.upper, f.lowers, f.merged, f.skip)
	must(t, err)
	return out.Bytes(), res
}

// want is the merged tree, with what is left out as the base has it.
func (f fixture) want(t *testing.T) map[string]string {
	t.Helper()
	want := snapshot(t, f.merged)
	base := snapshot(t, f.base)
	for name := range want {
		if skippedName(name) {
			delete(want, name)
		}
	}
	for name, line := range base {
		if skippedName(name) {
			want[name] = line
		}
	}
	return want
}

func skippedName(name string) bool {
	return name == "skipped" || strings.HasPrefix(name, "skipped/") || name == "skipped-file"
}

// fresh is a new copy of the base.
func (f fixture) fresh(t *testing.T) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "copy")
	must(t, rootfs.CopyTree(t.Context(), f.base, dst))
	return dst
}

var allow = rootfs.ApplyOptions{Device: func(string) bool { return true }}

func applyChecked(t *testing.T, root string, diff []byte, deleted []string) {
	t.Helper()
	must(t, rootfs.Check(t.Context(), bytes.NewReader(diff), allow))
	must(t, rootfs.Apply(t.Context(), root, bytes.NewReader(diff), deleted, allow))
}

func TestOverlayRoundTrip(t *testing.T) {
	f := newFixture(t, "")
	torture(t, f.merged)
	diff, res := f.diff(t)
	if got, want := res.Method, rootfs.MethodOverlay; got != want {
		t.Errorf("method %q, want %q", got, want)
	}
	if got, want := res.Skipped, []string{"/sock/s"}; !slices.Equal(got, want) {
		t.Errorf("skipped %q, want %q", got, want)
	}
	want := f.want(t)
	// Applying is repeatable, and either dialect of deletions is enough.
	for name, deleted := range map[string][]string{"both": res.Deleted, "whiteouts": {"/data/" + strings.Repeat("l", 255)}} {
		t.Run(name, func(t *testing.T) {
			root := f.fresh(t)
			applyChecked(t, root, diff, deleted)
			compareTrees(t, snapshot(t, root), want)
			applyChecked(t, root, diff, deleted)
			compareTrees(t, snapshot(t, root), want)
		})
	}
	t.Run("deterministic", func(t *testing.T) {
		again, _ := f.diff(t)
		if !bytes.Equal(diff, again) {
			t.Error("two differences of one tree are not the same bytes")
		}
	})
	t.Run("shape", func(t *testing.T) { checkShape(t, diff, res) })
	t.Run("other engines", func(t *testing.T) {
		for _, e := range []engine{podman, containerd} {
			root := f.fresh(t)
			e.apply(t, root, diff, res.Deleted)
			got := withoutDirTimes(snapshot(t, root))
			expected := withoutDirTimes(want)
			if e.whiteouts { // it has no name for a deletion of 255 bytes
				long := "data/" + strings.Repeat("l", 255)
				delete(got, long)
			}
			// They take no attribute away from a directory, and let files inherit its ACL.
			for _, name := range []string{"data/dir-chmod", "new/inherit/before"} {
				delete(got, name)
				delete(expected, name)
			}
			t.Run(e.name, func(t *testing.T) { compareTrees(t, got, expected) })
		}
	})
}

func TestDirectoryRoundTrip(t *testing.T) {
	f := newFixture(t, "")
	torture(t, f.merged)
	var out bytes.Buffer
	res, err := rootfs.Directory(t.Context(), &out, f.base, f.merged, f.skip)
	must(t, err)
	if got, want := res.Method, rootfs.MethodDirectory; got != want {
		t.Errorf("method %q, want %q", got, want)
	}
	want := f.want(t)
	root := f.fresh(t)
	applyChecked(t, root, out.Bytes(), res.Deleted)
	compareTrees(t, snapshot(t, root), want)
	checkShape(t, out.Bytes(), res)

	_, overlay := f.diff(t)
	if got, want := res.Deleted, overlay.Deleted; !slices.Equal(got, want) {
		t.Errorf("deletions by comparison %q\n of the overlay %q", got, want)
	}
	for _, gone := range []string{"/layers/opaque-twice/middle", "/layers/flips/middle"} {
		if !slices.Contains(res.Deleted, gone) {
			t.Errorf("the list of deletions lacks %q", gone)
		}
	}
	for _, name := range []string{"data/same", "data/untouched", "data/untouched/deep/file", "abslink"} {
		if slices.Contains(tarNames(t, out.Bytes()), name) {
			t.Errorf("the difference holds %q, which did not change", name)
		}
	}
}

func TestWholeRoundTrip(t *testing.T) {
	f := newFixture(t, "")
	torture(t, f.merged)
	var out bytes.Buffer
	res, err := rootfs.Directory(t.Context(), &out, "", f.merged, f.skip)
	must(t, err)
	if res.Method != rootfs.MethodWhole || len(res.Deleted) != 0 {
		t.Errorf("method %q with deletions %q, want %q with none", res.Method, res.Deleted, rootfs.MethodWhole)
	}
	root := filepath.Join(t.TempDir(), "root")
	mkdir(t, root, 0o700)
	applyChecked(t, root, out.Bytes(), nil)
	want := f.want(t)
	for name := range want {
		if skippedName(name) {
			delete(want, name)
		}
	}
	compareTrees(t, snapshot(t, root), want)
}

// TestIndirectUpper has an upper layer that holds renamed directories and files
// without their content.
func TestIndirectUpper(t *testing.T) {
	f := newFixture(t, "redirect_dir=on,metacopy=on")
	p := func(s string) string { return filepath.Join(f.merged, s) }
	must(t, os.Rename(p("data/untouched"), p("data/moved")))
	must(t, os.Rename(p("layers"), p("data/layers")))
	must(t, os.Chmod(p("data/chmod"), 0o600))
	must(t, os.Remove(p("data/moved/deep/file")))
	write(t, p("data/moved/deep/new"), "in a renamed directory\n")
	want := f.want(t)
	diff, res := f.diff(t)
	if got, want := res.Method, rootfs.MethodDirectory; got != want {
		t.Errorf("method %q, want %q", got, want)
	}
	root := f.fresh(t)
	applyChecked(t, root, diff, res.Deleted)
	compareTrees(t, snapshot(t, root), want)
}

// TestIndirectLower has such a layer below the upper one.
func TestIndirectLower(t *testing.T) {
	requireRoot(t)
	dir := t.TempDir()
	p := func(s string) string { return filepath.Join(dir, s) }
	const options = "redirect_dir=on,metacopy=on"
	buildBase(t, p("l1"))
	mkdir(t, p("l2"), 0o755)
	unmount := mountOverlay(t, p("m2"), p("l2"), []string{p("l1")}, options)
	must(t, os.Rename(p("m2/data"), p("m2/moved")))
	must(t, os.Rename(p("m2/moved/untouched"), p("m2/moved/elsewhere")))
	must(t, os.Rename(p("m2/moved/opaque"), p("m2/far")))
	must(t, os.Chmod(p("m2/moved/chmod"), 0o600))
	must(t, os.Rename(p("m2/moved/touched"), p("m2/touched-elsewhere")))
	must(t, os.Chmod(p("m2/touched-elsewhere"), 0o640))
	unmount()
	lowers := []string{p("l2"), p("l1")}
	mountOverlay(t, p("m2"), "", lowers, options)
	must(t, rootfs.CopyTree(t.Context(), p("m2"), p("base")))
	mkdir(t, p("upper"), 0o755)
	mountOverlay(t, p("merged"), p("upper"), lowers, options)

	diffOf := func() ([]byte, rootfs.Result) {
		var out bytes.Buffer
		res, err := rootfs.Overlay(t.Context(), &out, p("upper"), lowers, p("merged"), rootfs.Options{})
		must(t, err)
		return out.Bytes(), res
	}
	must(t, os.RemoveAll(p("merged/moved/elsewhere")))
	write(t, p("merged/moved/elsewhere/new"), "instead\n")
	must(t, os.RemoveAll(p("merged/far/sub")))
	must(t, os.WriteFile(p("merged/touched-elsewhere"), []byte("written to\n"), 0o640))
	check := func(method string) {
		t.Helper()
		diff, res := diffOf()
		if got, want := res.Method, method; got != want {
			t.Errorf("method %q, want %q", got, want)
		}
		root := filepath.Join(t.TempDir(), "copy")
		must(t, rootfs.CopyTree(t.Context(), p("base"), root))
		applyChecked(t, root, diff, res.Deleted)
		compareTrees(t, snapshot(t, root), snapshot(t, p("merged")))
		for _, d := range res.Deleted {
			if !strings.HasPrefix(d, "/moved/elsewhere/") && !strings.HasPrefix(d, "/far/") {
				t.Errorf("%q was deleted in no layer", d)
			}
		}
	}
	check(rootfs.MethodOverlay)
	// A change of attributes only makes the upper layer refer to the lower ones, which
	// are then compared: of those, only what changed may be in the result.
	must(t, os.Chmod(p("merged/moved/same"), 0o611))
	check(rootfs.MethodDirectory)
	diff, _ := diffOf()
	for _, name := range []string{"moved/chmod", "moved/mod", "far/a"} {
		if slices.Contains(tarNames(t, diff), name) {
			t.Errorf("the difference holds %q, which did not change", name)
		}
	}
}

// TestXattrWhiteouts has deletions marked by attributes, as images of overlays inside overlays have them.
func TestXattrWhiteouts(t *testing.T) {
	requireRoot(t)
	d := t.TempDir()
	p := func(s string) string { return filepath.Join(d, s) }
	for _, name := range []string{"l1/data/a", "l1/data/b", "l1/data/c", "l1/data/d"} {
		write(t, p(name), "lowest")
	}
	mark := func(layer, gone string) {
		write(t, p(layer+"/data/"+gone), "")
		setxattr(t, p(layer+"/data/"+gone), "trusted.overlay.whiteout", "y")
		setxattr(t, p(layer+"/data"), "trusted.overlay.opaque", "x")
	}
	mark("l2", "a")
	mark("upper", "b")
	write(t, p("upper/data/empty"), "")
	lowers := []string{p("l2"), p("l1")}
	mountOverlay(t, p("merged"), p("upper"), lowers, "metacopy=on")
	if _, err := os.Lstat(p("merged/data/b")); err == nil {
		t.Skip("this kernel knows no whiteouts by attribute (Linux 6.7)")
	}
	for _, method := range []string{rootfs.MethodOverlay, rootfs.MethodDirectory} {
		var out bytes.Buffer
		res, err := rootfs.Overlay(t.Context(), &out, p("upper"), lowers, p("merged"), rootfs.Options{})
		must(t, err)
		if got, want := res.Deleted, []string{"/data/b", "/data/.wh.b"}; !slices.Equal(got, want) || res.Method != method {
			t.Errorf("by %s deletions %q, want by %s %q", res.Method, got, method, want)
		}
		want := []string{"/", "data", "data/.wh.b", "data/empty"}
		if method == rootfs.MethodDirectory {
			want = slices.Insert(want, 3, "data/c")
		}
		if got := tarNames(t, out.Bytes()); !slices.Equal(got, want) {
			t.Errorf("entries %q, want %q", got, want)
		}
		must(t, os.Chmod(p("merged/data/c"), 0o600)) // makes the upper layer refer to the lower ones
	}
}

// TestWithoutPrivilege cannot read overlay's marks.
func TestWithoutPrivilege(t *testing.T) {
	f := newFixture(t, "")
	torture(t, f.merged)
	var out bytes.Buffer
	var res rootfs.Result
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		if err == nil {
			data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
			err = unix.Capset(&header, &data[0])
		}
		if err == nil {
			res, err = rootfs.Overlay(t.Context(), &out, f.upper, f.lowers, f.merged, f.skip)
		}
		done <- err
	}()
	must(t, <-done)
	if got, want := res.Method, rootfs.MethodDirectory; got != want {
		t.Errorf("method %q, want %q", got, want)
	}
	root := f.fresh(t)
	applyChecked(t, root, out.Bytes(), res.Deleted)
	compareTrees(t, snapshot(t, root), f.want(t))
}

func TestReadOnlyOverlay(t *testing.T) {
	f := newFixture(t, "")
	target := filepath.Join(f.dir, "m2")
	upper, lowers, ok, err := rootfs.Layers(0, target)
	must(t, err)
	if upper != "" || !slices.Equal(lowers, f.lowers) || !ok {
		t.Fatalf("layers %q, %q, %v, want \"\", %q", upper, lowers, ok, f.lowers)
	}
	var out bytes.Buffer
	res, err := rootfs.Overlay(t.Context(), &out, upper, lowers, target, rootfs.Options{})
	must(t, err)
	if got, want := tarNames(t, out.Bytes()), []string{"/"}; !slices.Equal(got, want) || res.Files != 0 || len(res.Deleted) != 0 {
		t.Errorf("entries %q, %d files, deletions %q, want %q only", got, res.Files, res.Deleted, want)
	}
}

func TestUserMarks(t *testing.T) {
	f := newFixture(t, "userxattr")
	torture(t, f.merged)
	diff, res := f.diff(t)
	root := f.fresh(t)
	applyChecked(t, root, diff, res.Deleted)
	compareTrees(t, snapshot(t, root), f.want(t))
}

// TestForeignMarks has files of a container's own nested overlay: they are no marks of the outer one.
func TestForeignMarks(t *testing.T) {
	f := newFixture(t, "")
	setxattr(t, filepath.Join(f.merged, "data/untouched"), "user.overlay.opaque", "y")
	_, res := f.diff(t)
	if len(res.Deleted) != 0 {
		t.Errorf("deletions %q, want none", res.Deleted)
	}
}

func TestLayers(t *testing.T) {
	requireRoot(t)
	for _, name := range []string{"plain", "with:colon", "with,comma and blank", `back\slash`, "tab\tand\nline", "grüße"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			lower, second, upper := filepath.Join(dir, "lower"), filepath.Join(dir, "second"), filepath.Join(dir, "upper")
			for _, d := range []string{lower, second, upper} {
				mkdir(t, d, 0o755)
			}
			escape := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace
			target := filepath.Join(dir, "merged")
			mkdir(t, upper+".work", 0o755)
			mkdir(t, target, 0o755)
			options := fmt.Sprintf("lowerdir=%s:%s,upperdir=%s,workdir=%s", escape(second), escape(lower), escape(upper), escape(upper+".work"))
			must(t, unix.Mount("overlay", target, "overlay", 0, options))
			defer func() { must(t, unix.Unmount(target, 0)) }()
			for _, pid := range []int{0, os.Getpid()} {
				gotUpper, gotLowers, ok, err := rootfs.Layers(pid, target)
				must(t, err)
				if want := []string{second, lower}; !ok || gotUpper != upper || !slices.Equal(gotLowers, want) {
					t.Errorf("layers for process %d: %q, %q, %v, want %q, %q", pid, gotUpper, gotLowers, ok, upper, want)
				}
			}
			must(t, unix.Mount("tmpfs", target, "tmpfs", 0, "size=64k"))
			if _, _, ok, err := rootfs.Layers(0, target); ok || err != nil {
				t.Errorf("an overlay below another mount: %v, %v, want false without error", ok, err)
			}
			must(t, unix.Unmount(target, 0))
			if _, _, ok, err := rootfs.Layers(0, dir); ok || err != nil {
				t.Errorf("a directory that is no mount: %v, %v, want false without error", ok, err)
			}
		})
	}
	if _, _, _, err := rootfs.Layers(1<<30, "/"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is not there: %v, want %v", err, os.ErrNotExist)
	}
}

// checkShape holds a difference against the rules of its format.
func checkShape(t *testing.T, diff []byte, res rootfs.Result) {
	t.Helper()
	names := tarNames(t, diff)
	if names[0] != "/" {
		t.Errorf("first entry %q, want %q", names[0], "/")
	}
	seen := map[string]bool{".": true}
	var listed []string
	files := 0
	tr := tar.NewReader(bytes.NewReader(diff))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if h.Name == "/" {
			continue
		}
		name := strings.TrimSuffix(h.Name, "/")
		dir, base := filepath.Split(name)
		if filepath.Clean(name) != name || filepath.IsAbs(name) {
			t.Errorf("name %q is not clean", h.Name)
		}
		if !seen[filepath.Clean(dir)] {
			t.Errorf("%q comes before its directory", h.Name)
		}
		if seen[name] {
			t.Errorf("%q is there twice", h.Name)
		}
		seen[name] = true
		for key := range h.PAXRecords {
			if strings.Contains(key, "trusted.") || strings.Contains(key, "overlay") || strings.Contains(key, "selinux") {
				t.Errorf("%q carries %s", h.Name, key)
			}
		}
		if target, ok := strings.CutPrefix(base, ".wh."); ok {
			listed = append(listed, "/"+filepath.Join(dir, target), "/"+name)
			continue
		}
		if h.Typeflag != tar.TypeDir {
			files++
		}
		for _, gone := range res.Deleted {
			if gone == "/"+name {
				t.Errorf("%q is deleted and there", gone)
			}
		}
	}
	for _, want := range listed {
		if !slices.Contains(res.Deleted, want) {
			t.Errorf("the list of deletions lacks %q", want)
		}
	}
	if got, want := res.Files, files; got != want {
		t.Errorf("%d files in the result, want %d", got, want)
	}
}

func tarNames(t *testing.T, diff []byte) []string {
	t.Helper()
	var names []string
	tr := tar.NewReader(bytes.NewReader(diff))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		must(t, err)
		names = append(names, strings.TrimSuffix(h.Name, "/")+map[bool]string{true: "/"}[h.Name == "/"])
	}
}

func TestWhiteoutNamesAreRefused(t *testing.T) {
	for _, name := range []string{".wh.file", "dir/.wh.file", ".wh.dir/file", ".wh..wh..opq"} {
		root := t.TempDir()
		write(t, filepath.Join(root, name), "a real file")
		_, err := rootfs.Directory(t.Context(), io.Discard, "", root, rootfs.Options{})
		if err == nil || !strings.Contains(err.Error(), "/"+strings.SplitAfter(name, ".wh.")[0]) {
			t.Errorf("%q: %v, want an error that names it", name, err)
		}
	}
}

func TestDirectoryFindsChanges(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, root string)
		want   []string
	}{
		{"nothing", func(*testing.T, string) {}, nil},
		{"only times", func(t *testing.T, root string) { age(t, root) }, nil},
		{"content of one size", func(t *testing.T, root string) { write(t, root+"/d/a", "other") }, []string{"d", "d/a"}},
		{"size", func(t *testing.T, root string) { write(t, root+"/d/a", "longer content") }, []string{"d", "d/a"}},
		{"mode of a directory", func(t *testing.T, root string) { must(t, os.Chmod(root+"/d", 0o700)) }, []string{"d"}},
		{"attribute", func(t *testing.T, root string) { setxattr(t, root+"/d/b", "user.x", "1") }, []string{"d", "d/b"}},
		{"target of a link", func(t *testing.T, root string) {
			must(t, os.Remove(root+"/l"))
			symlink(t, "other", root+"/l")
		}, []string{"l"}},
		{"new link to an old file", func(t *testing.T, root string) {
			must(t, os.Link(root+"/d/a", root+"/z"))
		}, []string{"d", "d/a", "z"}},
		{"files become one", func(t *testing.T, root string) {
			must(t, os.Remove(root+"/d/b"))
			must(t, os.Link(root+"/d/a", root+"/d/b"))
		}, []string{"d", "d/a", "d/b"}},
		{"links come apart", func(t *testing.T, root string) {
			must(t, os.Remove(root+"/h2"))
			write(t, root+"/h2", "linked")
		}, []string{"h2"}},
		{"deleted", func(t *testing.T, root string) { must(t, os.RemoveAll(root+"/d")) }, []string{".wh.d"}},
		{"skipped", func(t *testing.T, root string) {
			write(t, root+"/run/secrets/x/y", "z")
			write(t, root+"/run/other/x", "z")
		}, nil},
		{"replaced by a socket", func(t *testing.T, root string) {
			must(t, os.Remove(root+"/d/a"))
			makeSocket(t, root+"/d/a")
		}, []string{"d", "d/.wh.a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := filepath.Join(t.TempDir(), "base")
			write(t, base+"/d/a", "equal")
			write(t, base+"/d/b", "equal")
			write(t, base+"/h1", "linked")
			must(t, os.Link(base+"/h1", base+"/h2"))
			symlink(t, "d/a", base+"/l")
			mkdir(t, base+"/run/secrets", 0o755)
			mkdir(t, base+"/run/other", 0o755)
			mkdir(t, base+"/var", 0o755)
			symlink(t, "../run", base+"/var/run")
			symlink(t, "/var/run", base+"/var/lock")
			root := filepath.Join(t.TempDir(), "root")
			must(t, rootfs.CopyTree(t.Context(), base, root))
			test.change(t, root)
			var out bytes.Buffer
			// The paths go through links, as those of mounts in a container may.
			opts := rootfs.Options{Skip: []string{"/var/run/secrets", "/var/lock/other"}}
			res, err := rootfs.Directory(t.Context(), &out, base, root, opts)
			must(t, err)
			if got, want := tarNames(t, out.Bytes())[1:], test.want; !slices.Equal(got, want) {
				t.Errorf("entries %q, want %q", got, want)
			}
			copied := filepath.Join(t.TempDir(), "copy")
			must(t, rootfs.CopyTree(t.Context(), base, copied))
			must(t, rootfs.Apply(t.Context(), copied, &out, res.Deleted, rootfs.ApplyOptions{}))
			var again bytes.Buffer
			_, err = rootfs.Directory(t.Context(), &again, copied, root, opts)
			must(t, err)
			if got := tarNames(t, again.Bytes()); len(got) != 1 {
				t.Errorf("after applying still different: %q", got)
			}
		})
	}
}

func TestMountsAreLeftOut(t *testing.T) {
	requireRoot(t)
	base, root := t.TempDir(), t.TempDir()
	for _, dir := range []string{base, root} {
		write(t, dir+"/keep", "x")
		write(t, dir+"/mounted/file", "below a mount")
		write(t, dir+"/one", "below a mounted file")
	}
	must(t, unix.Mount("tmpfs", root+"/mounted", "tmpfs", 0, "size=64k"))
	defer func() { must(t, unix.Unmount(root+"/mounted", 0)) }()
	write(t, root+"/mounted/secret", "not of the root file system")
	must(t, unix.Mount(root+"/mounted/secret", root+"/one", "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(root+"/one", 0)) }()
	var out bytes.Buffer
	res, err := rootfs.Directory(t.Context(), &out, base, root, rootfs.Options{})
	must(t, err)
	if got, want := tarNames(t, out.Bytes()), []string{"/"}; !slices.Equal(got, want) || len(res.Deleted) != 0 {
		t.Errorf("entries %q, deletions %q, want only %q", got, res.Deleted, want)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	must(t, rootfs.CopyTree(t.Context(), root, copied))
	if _, err := os.Lstat(copied + "/mounted/secret"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy holds what was mounted: %v", err)
	}
}

func TestChangingFileIsAnError(t *testing.T) {
	for name, size := range map[string]int64{"grows": 0, "shrinks": -1} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			path := root + "/file"
			must(t, os.WriteFile(path, nil, 0o600))
			must(t, os.Truncate(path, 8<<20))
			w := writerFunc(func(p []byte) (int, error) {
				if size == 0 {
					must(t, os.Truncate(path, 16<<20))
				} else {
					must(t, os.Truncate(path, 1<<20))
				}
				return len(p), nil
			})
			_, err := rootfs.Directory(t.Context(), w, "", root, rootfs.Options{})
			if err == nil || !strings.Contains(err.Error(), `"/file": its size changed`) {
				t.Errorf("%v, want an error about the size of /file", err)
			}
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestDiffStops(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rootfs.Directory(ctx, io.Discard, "", root, rootfs.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want %v", err, context.Canceled)
	}
	full := errors.New("disk full")
	w := writerFunc(func([]byte) (int, error) { return 0, full })
	if _, err := rootfs.Directory(t.Context(), w, "", root, rootfs.Options{}); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v, want %v", err, full)
	}
	if _, err := rootfs.Directory(t.Context(), io.Discard, root+"/absent", root, rootfs.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no base: %v, want %v", err, os.ErrNotExist)
	}
}
