package rootfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// item is an entry of a tar made for a test: owned by whoever runs it, so that no root is needed.
type item struct {
	name    string
	kind    byte // 0: a regular file
	content string
	to      string
	mode    int64 // 0: 0644, or 0755 for directories
	header  func(h *tar.Header)
}

func dir(name string) item           { return item{name: name, kind: tar.TypeDir} }
func file(name, content string) item { return item{name: name, content: content} }
func link(name, to string) item      { return item{name: name, kind: tar.TypeSymlink, to: to} }
func hardlink(name, to string) item  { return item{name: name, kind: tar.TypeLink, to: to} }
func whiteout(dirAndTarget string) item {
	d, target := filepath.Split(dirAndTarget)
	return item{name: d + ".wh." + target}
}

func makeTar(t testing.TB, items ...item) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, it := range items {
		h := &tar.Header{
			Name: it.name, Typeflag: it.kind, Linkname: it.to, Size: int64(len(it.content)), Mode: it.mode,
			Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(1_000_000_000, 987654321), Format: tar.FormatPAX,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if it.header != nil {
			it.header(h)
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, it.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// host is a directory with a root in it and files outside that nothing may touch.
type host struct {
	dir, root, outside string
	before             map[string]string
}

func newHost(t *testing.T) host {
	t.Helper()
	d := t.TempDir()
	h := host{dir: d, root: filepath.Join(d, "root"), outside: filepath.Join(d, "outside")}
	for _, name := range []string{"secret", "dir/file", "etc/passwd"} {
		write(t, filepath.Join(h.outside, name), "of the host: "+name)
	}
	age(t, h.outside)
	h.before = snapshot(t, h.outside)
	for _, name := range []string{"etc/passwd", "run/app/state", "data/a", "data/b", "data/sub/c"} {
		write(t, filepath.Join(h.root, name), "of the container: "+name)
	}
	mkdir(t, h.root+"/var", 0o755)
	symlink(t, "/run", h.root+"/var/run")
	symlink(t, h.outside, h.root+"/abs-escape")
	symlink(t, "../outside", h.root+"/rel-escape")
	symlink(t, "../../../../../../../.."+h.outside, h.root+"/data/far-escape")
	symlink(t, h.outside+"/secret", h.root+"/file-escape")
	symlink(t, "loop", h.root+"/loop")
	symlink(t, "../data", h.root+"/data/self")
	return h
}

func (h host) read(t *testing.T, name string) string {
	t.Helper()
	fi, err := os.Lstat(filepath.Join(h.root, name))
	if err != nil || !fi.Mode().IsRegular() {
		return "(no file)"
	}
	data, err := os.ReadFile(filepath.Join(h.root, name))
	must(t, err)
	return string(data)
}

func (h host) checkOutside(t *testing.T) {
	t.Helper()
	compareTrees(t, snapshot(t, h.outside), h.before)
	var st unix.Stat_t
	must(t, unix.Lstat(h.outside+"/secret", &st))
	if got, want := st.Nlink, uint64(1); uint64(got) != want {
		t.Errorf("a file outside has %d links, want %d", got, want)
	}
	entries, err := os.ReadDir(h.dir)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("files beside the root: %v", entries)
	}
}

func TestApplyStaysInside(t *testing.T) {
	for _, test := range []struct {
		name    string
		items   []item
		deleted []string
		want    map[string]string // content by name, "(no file)" for none
	}{
		{name: "leading slash", items: []item{file("/data/a", "new")}, want: map[string]string{"data/a": "new"}},
		{name: "leading dot", items: []item{dir("./"), file("./data/a", "new")}, want: map[string]string{"data/a": "new"}},
		{name: "not in shortest form", items: []item{file("data//.//a", "new")}, want: map[string]string{"data/a": "new"}},
		{name: "missing parents", items: []item{file("x/y/z", "new")}, want: map[string]string{"x/y/z": "new"}},
		{
			name: "below a link inside", items: []item{file("var/run/app/pid", "1")},
			want: map[string]string{"run/app/pid": "1", "run/app/state": "of the container: run/app/state"},
		},
		{
			name: "through a link that leaves", items: []item{dir("outside"), file("rel-escape/secret", "x"), file("data/far-escape", "y")},
			want: map[string]string{"outside/secret": "x", "data/far-escape": "y"},
		},
		{name: "over a link to a file", items: []item{file("file-escape", "new")}, want: map[string]string{"file-escape": "new"}},
		{
			name: "link and file through it", items: []item{dir("outside"), link("s", "/outside"), file("s/secret", "x")},
			want: map[string]string{"outside/secret": "x"},
		},
		{
			name: "directory becomes a link, then a file in it", items: []item{
				dir("outside"), file("data/new", "1"), link("data", "../outside"), file("data/secret", "2"),
			}, want: map[string]string{"outside/secret": "2", "data": "(no file)"},
		},
		{
			name: "link becomes a directory", items: []item{dir("var/run"), file("var/run/x", "in var")},
			want: map[string]string{"var/run/x": "in var", "run/x": "(no file)", "run/app/state": "of the container: run/app/state"},
		},
		{
			name: "directory removed and used again", items: []item{
				file("data/one", "1"), whiteout("data"), file("data/two", "2"),
			}, want: map[string]string{"data/one": "(no file)", "data/a": "(no file)", "data/two": "2"},
		},
		{
			name: "link on the way to itself removed", items: []item{
				link("data/back", "../data"), file("data/back/one", "1"), whiteout("data/back/back"), file("data/back/two", "2"),
			}, want: map[string]string{"data/one": "1", "data/back/two": "2", "data/two": "(no file)"},
		},
		{
			name: "opaque mark that removes the way to it", items: []item{
				file("data/self/one", "1"), file("data/self/.wh..wh..opq", ""), file("data/self/two", "2"),
			}, want: map[string]string{"data/one": "1", "data/self/two": "2", "data/two": "(no file)"},
		},
		{name: "file replaces a directory", items: []item{file("data", "flat")}, want: map[string]string{"data": "flat"}},
		{
			name: "directory replaces a file", items: []item{dir("data/a"), file("data/a/in", "deep")},
			want: map[string]string{"data/a/in": "deep"},
		},
		{
			name: "hard link inside", items: []item{hardlink("new", "/var/run/app/state")},
			want: map[string]string{"new": "of the container: run/app/state"},
		},
		{
			name: "hard link to a link is that link", items: []item{hardlink("copy", "file-escape"), file("copy", "new")},
			want: map[string]string{"copy": "new", "file-escape": "(no file)"},
		},
		{
			name: "hard link to a link that leaves", items: []item{hardlink("copy", "file-escape")},
			want: map[string]string{"copy": "(no file)"},
		},
		{
			name: "hard link to itself", items: []item{hardlink("data/a", "data/a")},
			want: map[string]string{"data/a": "of the container: data/a"},
		},
		{
			name: "whiteouts", items: []item{whiteout("data/a"), whiteout("data/sub"), whiteout("absent/x"), whiteout("data/b/x")},
			want: map[string]string{"data/a": "(no file)", "data/sub/c": "(no file)", "data/b": "of the container: data/b"},
		},
		{
			name: "whiteout of a link", items: []item{whiteout("abs-escape"), whiteout("rel-escape/secret"), whiteout("data/far-escape/dir")},
			want: map[string]string{"data/a": "of the container: data/a"},
		},
		{
			name: "opaque mark", items: []item{dir("data"), file("data/new", "1"), file("data/sub/d", "2"), file("data/.wh..wh..opq", "")},
			want: map[string]string{"data/a": "(no file)", "data/b": "(no file)", "data/new": "1"},
		},
		{
			name: "opaque mark first", items: []item{dir("data"), file("data/.wh..wh..opq", ""), file("data/sub/d", "2")},
			want: map[string]string{"data/a": "(no file)", "data/sub/c": "(no file)", "data/sub/d": "2"},
		},
		{
			name: "opaque mark through a link", items: []item{file("abs-escape/.wh..wh..opq", ""), file("var/run/.wh..wh..opq", "")},
			want: map[string]string{"run/app/state": "(no file)", "data/a": "of the container: data/a"},
		},
		{
			name: "list of deletions", items: []item{dir("/")},
			deleted: []string{"/data/a", "data/sub", "/absent/x", "/data/b/x", "/var/run/app"},
			want: map[string]string{
				"data/a": "(no file)", "data/sub/c": "(no file)", "data/b": "of the container: data/b", "run/app/state": "(no file)",
			},
		},
		{
			name: "deletions through links", items: []item{dir("/")},
			deleted: []string{"/abs-escape/secret", "/rel-escape/dir", "/data/far-escape/dir", "/file-escape", "abs-escape"},
			want:    map[string]string{"data/a": "of the container: data/a"},
		},
		{
			name: "deletion through a link of the difference", items: []item{link("up", "..")}, deleted: []string{"/up/outside"},
			want: map[string]string{"data/a": "of the container: data/a"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			diff := makeTar(t, test.items...)
			must(t, rootfs.Check(t.Context(), bytes.NewReader(diff), rootfs.ApplyOptions{}))
			must(t, rootfs.Apply(t.Context(), h.root, bytes.NewReader(diff), test.deleted, rootfs.ApplyOptions{}))
			h.checkOutside(t)
			for name, want := range test.want {
				if got := h.read(t, name); got != want {
					t.Errorf("%q holds %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestApplyRejects(t *testing.T) {
	pax := func(key, value string) func(*tar.Header) {
		return func(h *tar.Header) { h.PAXRecords = map[string]string{key: value} }
	}
	whole := makeTar(t, dir("/"), file("data/new", strings.Repeat("\x00", 4096)))
	for _, test := range []struct {
		name    string
		diff    []byte
		deleted []string
		late    bool // Check cannot see it
	}{
		{name: "dot dot", diff: makeTar(t, file("../outside/secret", "x"))},
		{name: "dot dot in the middle", diff: makeTar(t, file("data/../../outside/secret", "x"))},
		{name: "dot dot at the end", diff: makeTar(t, dir("data/.."))},
		{name: "hard link with dot dot", diff: makeTar(t, hardlink("x", "../outside/secret"))},
		{name: "hard link to nothing inside", diff: makeTar(t, hardlink("x", "/outside/secret")), late: true},
		{name: "hard link through a link", diff: makeTar(t, hardlink("x", "abs-escape/secret")), late: true},
		{name: "hard link through a relative link", diff: makeTar(t, hardlink("x", "rel-escape/secret")), late: true},
		{name: "hard link to a directory", diff: makeTar(t, hardlink("x", "data")), late: true},
		{name: "hard link to the root", diff: makeTar(t, hardlink("x", "/"))},
		{name: "file below a file", diff: makeTar(t, file("data/a/x", "x")), late: true},
		{name: "file through a link to nowhere", diff: makeTar(t, file("abs-escape/secret", "x")), late: true},
		{name: "file through a new link to nowhere", diff: makeTar(t, link("data", "/outside"), file("data/secret", "x")), late: true},
		{name: "file below a loop", diff: makeTar(t, file("loop/x", "x")), late: true},
		{name: "root as a file", diff: makeTar(t, file(".", "x"))},
		{name: "root as a link", diff: makeTar(t, link("/", "/outside"))},
		{name: "whiteout of the directory", diff: makeTar(t, file("data/.wh..", ""))},
		{name: "whiteout of the parent", diff: makeTar(t, file("data/.wh...", ""))},
		{name: "whiteout of nothing", diff: makeTar(t, file("data/.wh.", ""))},
		{name: "whiteout of a whiteout", diff: makeTar(t, file("data/.wh..wh.x", ""))},
		{name: "file in a whiteout", diff: makeTar(t, file("data/.wh.x/y", ""))},
		{name: "device", diff: makeTar(t, item{name: "sda", kind: tar.TypeBlock, header: func(h *tar.Header) { h.Devmajor = 8 }})},
		{name: "unknown type", diff: makeTar(t, item{name: "x", kind: 'D', header: func(h *tar.Header) { h.Format = tar.FormatGNU }})},
		{name: "owner -1", diff: makeTar(t, item{name: "x", header: func(h *tar.Header) { h.Uid = 1<<32 - 1 }})},
		{name: "global header with a path", diff: makeTar(t, item{kind: tar.TypeXGlobalHeader, header: func(h *tar.Header) {
			*h = tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}
		}})},
		{name: "long component", diff: makeTar(t, file(strings.Repeat("n", rootfs.MaxComponentBytes+1), ""))},
		{name: "long name", diff: makeTar(t, file(strings.Repeat("nnnnnnn/", rootfs.MaxNameBytes/8+1)+"x", ""))},
		{name: "deep name", diff: makeTar(t, file(strings.Repeat("n/", rootfs.MaxDepth)+"x", ""))},
		{name: "long target", diff: makeTar(t, link("x", strings.Repeat("n", rootfs.MaxNameBytes+1)))},
		{name: "large attribute", diff: makeTar(t, item{name: "x", header: pax("SCHILY.xattr.user.x", strings.Repeat("x", rootfs.MaxXattrBytes+1))})},
		{name: "no end mark", diff: whole[:len(whole)-1024]},
		{name: "half an end mark", diff: whole[:len(whole)-512]},
		{name: "cut in the content", diff: whole[:len(whole)-2048]},
		{name: "cut in the header", diff: whole[:700]},
		{name: "data behind the end mark", diff: append(bytes.Clone(whole), "x"...)},
		{name: "second archive behind the end mark", diff: append(bytes.Clone(whole), whole...)},
		{name: "empty", diff: nil},
		{name: "garbage", diff: bytes.Repeat([]byte("garbage "), 200)},
		{name: "deletion of the root", diff: whole, deleted: []string{"/"}, late: true},
		{name: "deletion of the root by dots", diff: whole, deleted: []string{"./."}, late: true},
		{name: "deletion of nothing", diff: whole, deleted: []string{""}, late: true},
		{name: "deletion with dot dot", diff: whole, deleted: []string{"data/a", "/../outside/secret"}, late: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := rootfs.Check(t.Context(), bytes.NewReader(test.diff), rootfs.ApplyOptions{}); errors.Is(err, archive.ErrRejected) == test.late {
				t.Errorf("check: %v, want a rejection: %v", err, !test.late)
			}
			h := newHost(t)
			before := snapshot(t, h.root)
			err := rootfs.Apply(t.Context(), h.root, bytes.NewReader(test.diff), test.deleted, rootfs.ApplyOptions{})
			if !errors.Is(err, archive.ErrRejected) {
				t.Errorf("apply: %v, want a rejection", err)
			}
			h.checkOutside(t)
			if test.deleted != nil {
				compareTrees(t, snapshot(t, h.root), before) // found before anything is done
			}
		})
	}
}

func TestApplyAttributes(t *testing.T) {
	h := newHost(t)
	setxattr(t, h.root+"/data", "user.old", "1")
	diff := makeTar(
		t,
		item{name: "/", kind: tar.TypeDir, mode: 0o711},
		item{name: "data/", kind: tar.TypeDir, mode: 0o1750},
		item{name: "data/a", content: "x", mode: 0o4755, header: func(h *tar.Header) {
			h.PAXRecords = map[string]string{
				"SCHILY.xattr.user.kept": "a\x00b", "SCHILY.xattr.trusted.overlay.opaque": "y",
				"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.security.selinux": "label",
			}
		}},
		item{name: "data/fifo", kind: tar.TypeFifo, mode: 0o622},
		link("data/l", "/nowhere"),
		item{name: "comment", kind: tar.TypeXGlobalHeader, header: func(h *tar.Header) {
			*h = tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "harmless"}}
		}},
		whiteout("data/b"),
	)
	must(t, rootfs.Apply(t.Context(), h.root, bytes.NewReader(diff), nil, rootfs.ApplyOptions{}))
	for name, want := range map[string]os.FileMode{
		"": os.ModeDir | 0o711, "data": os.ModeDir | os.ModeSticky | 0o750, "data/a": os.ModeSetuid | 0o755, "data/fifo": os.ModeNamedPipe | 0o622,
	} {
		fi, err := os.Lstat(filepath.Join(h.root, name))
		must(t, err)
		if got := fi.Mode(); got != want {
			t.Errorf("%q has mode %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"", "data", "data/a", "data/fifo", "data/l"} {
		fi, err := os.Lstat(filepath.Join(h.root, name))
		must(t, err)
		if got, want := fi.ModTime().UnixNano(), int64(1_000_000_000_987654321); got != want {
			t.Errorf("%q has time %d, want %d", name, got, want)
		}
	}
	if got, want := xattrsOf(t, h.root+"/data/a"), " user.kept=610062"; got != want {
		t.Errorf("attributes%s, want%s", got, want)
	}
	if got := xattrsOf(t, h.root+"/data"); got != "" {
		t.Errorf("attributes of the directory%s, want none", got)
	}
}

func TestApplyIgnoresUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	h := newHost(t)
	diff := makeTar(t, file("not/named/file", "x"))
	must(t, rootfs.Apply(t.Context(), h.root, bytes.NewReader(diff), nil, rootfs.ApplyOptions{}))
	for name, want := range map[string]os.FileMode{"not": 0o755, "not/named": 0o755, "not/named/file": 0o644} {
		fi, err := os.Lstat(filepath.Join(h.root, name))
		must(t, err)
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("%q has mode %v, want %v", name, got, want)
		}
	}
}

func TestApplyDevices(t *testing.T) {
	requireRoot(t)
	node := item{name: "dev/null", kind: tar.TypeChar, mode: 0o666, header: func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }}
	h := newHost(t)
	must(t, rootfs.Apply(t.Context(), h.root, bytes.NewReader(makeTar(t, node)), nil, allow))
	var st unix.Stat_t
	must(t, unix.Lstat(h.root+"/dev/null", &st))
	if got, want := st.Mode, uint32(unix.S_IFCHR|0o666); got != want || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("mode %o and device %d, want %o and %d", got, st.Rdev, want, unix.Mkdev(1, 3))
	}
	node.header = nil // 0:0
	err := rootfs.Apply(t.Context(), h.root, bytes.NewReader(makeTar(t, node)), nil, allow)
	if !errors.Is(err, archive.ErrRejected) {
		t.Errorf("device 0:0: %v, want a rejection", err)
	}
}

// TestApplyStopsAtMounts has another file system below the root, as after a failed restore.
func TestApplyStopsAtMounts(t *testing.T) {
	requireRoot(t)
	for name, test := range map[string]struct {
		items   []item
		deleted []string
	}{
		"file":              {items: []item{file("run/app/x", "x")}},
		"file below":        {items: []item{file("run/app/sub/x", "x")}},
		"through a link":    {items: []item{file("var/run/app/x", "x")}},
		"directory":         {items: []item{dir("run/app")}},
		"replaced":          {items: []item{link("run/app", "/data")}},
		"replaced above":    {items: []item{file("run", "x")}},
		"whiteout":          {items: []item{whiteout("run/app")}},
		"whiteout above":    {items: []item{whiteout("run")}},
		"whiteout below":    {items: []item{whiteout("run/app/inside")}},
		"opaque":            {items: []item{file("run/.wh..wh..opq", "")}},
		"opaque inside":     {items: []item{file("run/app/.wh..wh..opq", "")}},
		"hard link":         {items: []item{hardlink("x", "run/app/inside")}},
		"deletion":          {deleted: []string{"/run/app"}},
		"deletion above":    {deleted: []string{"/run"}},
		"deletion below":    {deleted: []string{"/run/app/inside"}},
		"deletion via link": {deleted: []string{"/var/run/app/inside"}},

		"mounted file replaced":   {items: []item{file("data/b", "x")}},
		"mounted file as target":  {items: []item{hardlink("x", "data/b")}},
		"mounted file as link":    {items: []item{hardlink("data/b", "data/a")}},
		"mounted file deleted":    {deleted: []string{"/data/b"}},
		"mounted file below":      {items: []item{whiteout("data")}},
		"mounted file and opaque": {items: []item{file("data/.wh..wh..opq", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			// A bind mount of the same file system: device numbers tell nothing.
			must(t, unix.Mount(h.outside, h.root+"/run/app", "", unix.MS_BIND, ""))
			write(t, h.outside+"/inside", "mounted")
			h.before = snapshot(t, h.outside)
			defer func() { must(t, unix.Unmount(h.root+"/run/app", 0)) }()
			must(t, unix.Mount(h.outside+"/secret", h.root+"/data/b", "", unix.MS_BIND, ""))
			defer func() { must(t, unix.Unmount(h.root+"/data/b", 0)) }()
			diff := makeTar(t, append([]item{dir("/")}, test.items...)...)
			err := rootfs.Apply(t.Context(), h.root, bytes.NewReader(diff), test.deleted, rootfs.ApplyOptions{})
			if err == nil || !strings.Contains(err.Error(), "a file system is mounted there") {
				t.Errorf("%v, want an error about the mount", err)
			}
			h.checkOutside(t)
		})
	}
}

func TestApplyUnpacks(t *testing.T) {
	plain := makeTar(t, file("data/a", "new"))
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	_, err := g.Write(plain)
	must(t, err)
	must(t, g.Close())
	z, err := zstd.NewWriter(&zs)
	must(t, err)
	_, err = z.Write(plain)
	must(t, err)
	must(t, z.Close())
	for name, diff := range map[string][]byte{"none": plain, "gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			must(t, rootfs.Apply(t.Context(), h.root, bytes.NewReader(diff), nil, rootfs.ApplyOptions{}))
			if got, want := h.read(t, "data/a"), "new"; got != want {
				t.Errorf("content %q, want %q", got, want)
			}
			if name == "none" {
				return
			}
			for _, cut := range []int{1, 8, len(diff) / 2} {
				err := rootfs.Check(t.Context(), bytes.NewReader(diff[:len(diff)-cut]), rootfs.ApplyOptions{})
				if !errors.Is(err, archive.ErrRejected) {
					t.Errorf("cut off by %d bytes: %v, want a rejection", cut, err)
				}
			}
		})
	}
}

// TestApplyChecked: what is wrong at the end of a difference is found before its begin is applied.
func TestApplyChecked(t *testing.T) {
	diff := makeTar(t, file("data/a", "new"), file("../outside/secret", "x"))
	for _, test := range []struct {
		name string
		diff []byte
		good bool
	}{{"rejected", diff, false}, {"cut off", diff[:len(diff)-1536], false}, {"whole", makeTar(t, file("data/a", "new")), true}} {
		h := newHost(t)
		want := h.read(t, "data/a")
		if test.good {
			want = "new"
		}
		f := bytes.NewReader(append([]byte("other"), test.diff...))
		_, err := f.Seek(5, io.SeekStart)
		must(t, err)
		err = rootfs.ApplyChecked(t.Context(), h.root, f, nil, rootfs.ApplyOptions{})
		if got := h.read(t, "data/a"); got != want || (err == nil) != test.good {
			t.Errorf("%s: content %q and error %v, want %q", test.name, got, err, want)
		}
	}
}

func TestApplyReportsTheReader(t *testing.T) {
	broken := errors.New("connection lost")
	diff := makeTar(t, file("data/a", strings.Repeat("x", 8<<20)))
	for _, at := range []int{0, 100, 512, 4 << 20, len(diff) - 600} {
		source := func() io.Reader {
			return io.MultiReader(bytes.NewReader(diff[:at]), readerFunc(func([]byte) (int, error) { return 0, broken }))
		}
		if err := rootfs.Check(t.Context(), source(), rootfs.ApplyOptions{}); !errors.Is(err, broken) || errors.Is(err, archive.ErrRejected) {
			t.Errorf("check, broken at %d: %v, want %v and no rejection", at, err, broken)
		}
		err := rootfs.Apply(t.Context(), newHost(t).root, source(), nil, rootfs.ApplyOptions{})
		if !errors.Is(err, broken) || errors.Is(err, archive.ErrRejected) {
			t.Errorf("apply, broken at %d: %v, want %v and no rejection", at, err, broken)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := rootfs.Check(ctx, bytes.NewReader(diff), rootfs.ApplyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("check, cancelled: %v, want %v", err, context.Canceled)
	}
	if err := rootfs.Apply(ctx, newHost(t).root, bytes.NewReader(diff), nil, rootfs.ApplyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("apply, cancelled: %v, want %v", err, context.Canceled)
	}
}

// An interrupt is heard while one large file is read.
func TestInterruptedInAFile(t *testing.T) {
	var head bytes.Buffer
	must(t, tar.NewWriter(&head).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "data/a", Mode: 0o644, Size: 1 << 40, Format: tar.FormatPAX}))
	interrupted := errors.New("interrupted")
	for name, read := range map[string]func(context.Context, io.Reader) error{
		"check": func(ctx context.Context, r io.Reader) error { return rootfs.Check(ctx, r, rootfs.ApplyOptions{}) },
		"list": func(ctx context.Context, r io.Reader) error {
			return rootfs.List(ctx, r, func(rootfs.Listed) error { return nil })
		},
		"apply": func(ctx context.Context, r io.Reader) error {
			return rootfs.Apply(ctx, newHost(t).root, r, nil, rootfs.ApplyOptions{})
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		n := 0
		content := readerFunc(func(p []byte) (int, error) {
			if n += len(p); n > 4<<20 {
				cancel(interrupted)
			}
			if n > 64<<20 {
				return 0, errors.New("it is read on")
			}
			return len(p), nil
		})
		if err := read(ctx, io.MultiReader(bytes.NewReader(head.Bytes()), content)); !errors.Is(err, interrupted) || errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: %v, want the interrupt", name, err)
		}
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestEveryPrefixIsRejected(t *testing.T) {
	diff := makeTar(t, dir("/"), file("a", strings.Repeat("\x00", 600)), link("l", "a"), file("empty", ""))
	for n := range len(diff) {
		if in := n % 512; in > 2 && in < 510 && in%100 != 0 {
			continue
		}
		if err := rootfs.Check(t.Context(), bytes.NewReader(diff[:n]), rootfs.ApplyOptions{}); !errors.Is(err, archive.ErrRejected) {
			t.Fatalf("%d of %d bytes: %v, want a rejection", n, len(diff), err)
		}
	}
	must(t, rootfs.Check(t.Context(), bytes.NewReader(diff), rootfs.ApplyOptions{}))
	must(t, rootfs.Check(t.Context(), bytes.NewReader(append(diff, make([]byte, 10240)...)), rootfs.ApplyOptions{}))
}

// FuzzApply applies arbitrary bytes and deletions to a root with links that lead out of it. Run it
// with -fuzzminimizetime 10x: the coverage of the decompressors' goroutines varies, and minimizing
// what only seems interesting takes all the time.
func FuzzApply(f *testing.F) {
	for _, seed := range [][]item{
		{dir("/"), file("data/a", "x"), whiteout("data/b")},
		{link("s", "../outside"), file("s/secret", "x"), hardlink("h", "s/secret")},
		{file("data/.wh..wh..opq", ""), dir("data/sub"), item{name: "fifo", kind: tar.TypeFifo}},
		{file("../outside/secret", "x"), file("abs-escape/dir/new", "x")},
		{hardlink("data/a", "file-escape"), file("data/a", "x"), whiteout("abs-escape/dir")},
	} {
		f.Add(makeTar(f, seed...), "/rel-escape/dir\n/data/a")
	}
	f.Fuzz(func(t *testing.T, diff []byte, deleted string) {
		h := newHost(t)
		// Whatever modes it got, the test must be able to remove the tree.
		t.Cleanup(func() {
			_ = filepath.WalkDir(h.root, func(p string, d os.DirEntry, _ error) error {
				if d != nil && d.IsDir() {
					_ = os.Chmod(p, 0o700)
				}
				return nil
			})
		})
		checked := rootfs.Check(t.Context(), bytes.NewReader(diff), rootfs.ApplyOptions{})
		err := rootfs.Apply(t.Context(), h.root, bytes.NewReader(diff), strings.Split(deleted, "\n"), rootfs.ApplyOptions{})
		if checked != nil && err == nil {
			t.Errorf("applied what check rejects: %v", checked)
		}
		h.checkOutside(t)
	})
}
