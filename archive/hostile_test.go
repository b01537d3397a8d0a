package archive_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// hostile is one tar and the verdict on it.
type hostile struct {
	name   string
	accept bool
	// build gives the tar; prefix goes in front of the names of harmless members.
	build func(prefix string) []byte
}

// with puts members behind a harmless checkpoint.
func with(members ...raw) func(string) []byte {
	return func(prefix string) []byte { return tarOf(append(base(prefix), members...)...) }
}

// without leaves out and puts in.
func without(name string, members ...raw) func(string) []byte {
	return func(prefix string) []byte {
		rest := slices.DeleteFunc(base(prefix), func(r raw) bool { return r.name == prefix+name })
		return tarOf(append(members, rest...)...)
	}
}

// bytesOf changes the bytes of a harmless tar.
func bytesOf(change func(b []byte) []byte) func(string) []byte {
	return func(prefix string) []byte { return change(tarOf(base(prefix)...)) }
}

const secret = "the content of a host file"

// hostileNames are the cases of names and links.
func hostileNames(canary string) []hostile {
	link := func(name, target string) raw { return raw{name: name, flag: '2', link: target} }
	hard := func(name, target string) raw { return raw{name: name, flag: '1', link: target} }
	file := func(name string) raw { return raw{name: name, body: "x"} }
	return []hostile{
		{"tar-abs-name", false, with(file(filepath.Join(canary, "new")))},
		{"tar-dotdot-name", false, with(file("../new"))},
		{"tar-dotdot-inside", false, with(file("checkpoint/../../new"))},
		{"tar-dotdot-harmless", false, with(file("checkpoint/../new"))},
		{"tar-dotdot-matching", false, with(file("../../tmp/config.dump"))},
		{"tar-dotdot-end", false, with(file("checkpoint/.."))},
		{"tar-empty-name", false, with(file(""))},
		{"tar-root-is-symlink", false, with(link("./", canary))},
		{"tar-root-is-file", false, with(file("./"))},
		{"tar-symlink-then-write", false, with(link("out", canary), file("out/new"))},
		{"tar-symlink-checkpoint-dir", false, without("checkpoint/", link("checkpoint", canary))},
		{"tar-symlink-config-dump", false, without("config.dump", link("config.dump", filepath.Join(canary, "host")))},
		{"tar-symlink-restore-log", false, with(link("restore.log", filepath.Join(canary, "host")))},
		{"tar-symlink-image-file", false, without("checkpoint/pages-1.img", link("checkpoint/pages-1.img", filepath.Join(canary, "host")))},
		{"tar-symlink-parent-escape", false, with(link("checkpoint/parent", "../../.."))},
		{"tar-symlink-with-size", false, with(raw{name: "l", flag: '2', link: "config.dump", body: "x"})},
		{"tar-hardlink-abs", false, with(hard("hard", filepath.Join(canary, "host")))},
		{"tar-hardlink-inside", false, with(hard("hard", "config.dump"))},
		{"tar-hardlink-via-symlink", false, with(link("out", canary), hard("hard", "out/host"))},
		{"tar-hardlink-cwd", false, with(hard("hard", "go.mod"))},
		{"tar-chardev", false, with(raw{name: "mem", flag: '3'})},
		{"tar-blockdev", false, with(raw{name: "sda", flag: '4'})},
		{"tar-fifo", false, with(raw{name: "fifo", flag: '6'})},
		{"tar-cont-type", true, without("config.dump", raw{name: "config.dump", flag: '7', body: "{}"})},
		{"tar-unknown-type", false, with(raw{name: "vendor", flag: 'V', body: "x"})},
		{"tar-dump-dir-type", false, with(raw{name: "gnu", flag: 'D', body: "x"})},
		{"tar-dup", false, with(file("spec.dump"))},
		{"tar-dup-dot-slash", false, with(file("./spec.dump"))},
		{"tar-dup-slashes", false, with(file("checkpoint//inventory.img"))},
		{"tar-dup-dir", false, with(raw{name: "checkpoint", flag: '5'})},
		{"tar-dup-file-and-dir", false, with(raw{name: "spec.dump/", flag: '5'})},
		{"tar-below-file", false, with(file("spec.dump/x"))},
		{"tar-file-above", false, without("checkpoint/", file("checkpoint"))},
		{"tar-file-above-later", false, without("checkpoint/", file("artifacts/a"), file("artifacts"))},
		{"tar-dir-after-content", true, without("checkpoint/", file("artifacts/a"), raw{name: "artifacts/", flag: '5'})},
		{"tar-dir-as-file", false, without("spec.dump", raw{name: "spec.dump/", flag: '5'})},
		{"tar-file-with-slash", false, with(raw{name: "a/", body: "x"})},
		{"tar-old-dir", true, with(raw{name: "a/", edit: func(h *[blockBytes]byte) { h[156] = 0 }})},
		{"tar-nested-in-prefix", false, func(prefix string) []byte { return tarOf(base(prefix + "foo/")...) }},
		{"tar-name-nul", false, with(pax(paxRecord("path", "a\x00b")), file("a"))},
		{"tar-name-nonutf8", false, with(file("artifacts/\xff\xfe"))},
		{"tar-name-long-component", false, with(gnuLong(strings.Repeat("n", 300)), file("n"))},
		{"tar-name-deep", false, with(pax(paxRecord("path", strings.Repeat("d/", 2000)+"f")), file("f"))},
		{"tar-pax-path-override", false, with(pax(paxRecord("path", "../../new")), file("harmless"))},
		{"tar-pax-linkpath", false, with(pax(paxRecord("linkpath", canary)), link("l", "harmless"))},
		{"tar-gnu-longname-override", false, with(gnuLong("../../new"), raw{name: "harmless", body: "x", edit: gnu})},
		{"tar-vendor-names", true, with(file("artifacts/üñí"), file("artifacts/new\nline\x1b[2J"))},
	}
}

// hostileStructure are the cases of headers, sizes and ends.
func hostileStructure() []hostile {
	file := raw{name: "a", body: "x"}
	long := strings.Repeat("long/", 30) + "name"
	hidden := string(raw{name: "hidden", body: "h"}.bytes())
	oldDir := func(h *[blockBytes]byte) { h[156] = 0 }
	return []hostile{
		{"ok-plain", true, with()},
		{"ok-root-dir", true, func(p string) []byte { return tarOf(append([]raw{{name: "./", flag: '5'}}, base(p)...)...) }},
		{"ok-no-dir-entries", true, without("checkpoint/")},
		{"ok-zero-padded", true, bytesOf(func(b []byte) []byte { return append(b, make([]byte, -len(b)&10239)...) })},
		{"ok-odd-padding", true, bytesOf(func(b []byte) []byte { return append(b, 0) })},
		{"ok-gnu-format", true, with(gnuLong(long), raw{name: "l", body: "x", edit: gnu})},
		{"ok-gnu-long-name-and-link", true, with(raw{name: "././@LongLink", flag: 'K', body: long, edit: gnu}, gnuLong(long), raw{name: "l", edit: gnu})},
		{"ok-pax-format", true, with(pax(paxRecord("path", long), paxRecord("mtime", "1700000000.123456789")), file)},
		{"ok-pax-size", true, with(pax(paxRecord("size", "1")), raw{name: "a", body: "x", size: size(0)})},
		{"ok-other-order", true, func(p string) []byte { m := base(p); slices.Reverse(m); return tarOf(m...) }},
		{"ok-base256-size", true, with(raw{name: "a", body: "x", edit: func(h *[blockBytes]byte) { copy(h[124:136], "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01") }})},
		{"tar-world-readable", true, with(raw{name: "w", mode: 0o666}, raw{name: "wd/", flag: '5', mode: 0o777})},
		{"tar-setuid", true, with(raw{name: "w", mode: 0o6755})},
		{"tar-dir-unreadable", true, without("checkpoint/", raw{name: "d/", flag: '5', mode: 0o1}, raw{name: "d/f", body: "x"})},
		{"tar-xattr-capability", true, with(pax(paxRecord("SCHILY.xattr.security.capability", "\x01\x00\x00\x02\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")), file)},
		{"tar-xattr-selinux", true, with(pax(paxRecord("SCHILY.xattr.security.selinux", "spc_t"), paxRecord("SCHILY.xattr.trusted.overlay.opaque", "y")), file)},
		{"tar-pax-global-comment", true, func(p string) []byte {
			return tarOf(append([]raw{global(paxRecord("comment", "c0ffee"))}, base(p)...)...)
		}},
		{"tar-pax-global-empty", true, with(global())},
		{"tar-pax-global-path", false, with(global(paxRecord("path", "b")), file)},
		{"tar-pax-global-linkpath", false, with(global(paxRecord("linkpath", "b")), file)},
		{"tar-pax-global-size", false, with(global(paxRecord("size", "0")), file)},
		{"tar-pax-then-global", false, with(pax(paxRecord("path", "b")), global(paxRecord("comment", "c")), file)},
		{"tar-pax-twice", false, with(pax(paxRecord("size", "1024"), paxRecord("path", "b")), pax(paxRecord("path", "c")), file)},
		{"tar-pax-malformed", false, with(raw{name: "x", flag: 'x', body: "99 path=b\n"}, file)},
		{"tar-pax-no-newline", false, with(raw{name: "x", flag: 'x', body: "9 path=bb"}, file)},
		{"tar-pax-size-garbage", false, with(pax(paxRecord("size", "0x1")), file)},
		{"tar-pax-size-negative", false, with(pax(paxRecord("size", "-1")), file)},
		{"tar-pax-alone", false, with(pax(paxRecord("path", "b")))},
		{"tar-pax-and-gnu", false, with(pax(paxRecord("path", "b")), gnuLong("c"), file)},
		{"tar-gnu-and-pax", false, with(gnuLong("c"), pax(paxRecord("path", "b")), file)},
		{"tar-gnu-twice", false, with(gnuLong("c"), gnuLong("d"), raw{name: "a", edit: gnu})},
		{"tar-size-negative", false, with(raw{name: "a", body: "x", size: size(-1)})},
		{"tar-size-enormous", false, with(raw{name: "a", size: size(1 << 60)})},
		{"tar-size-garbage", false, with(raw{name: "a", edit: func(h *[blockBytes]byte) { copy(h[124:], "0x1") }})},
		{"tar-dir-with-size", false, with(raw{name: "d/", flag: '5', body: hidden})},
		{"tar-dir-with-pax-size", false, with(pax(paxRecord("size", "1024")), raw{name: "d/", flag: '5'})},
		{"tar-old-dir-with-size", false, with(raw{name: "d/", body: hidden, edit: oldDir})},
		{"tar-checksum", false, without("spec.dump", raw{name: "spec.dump", body: "{}", patch: func(h *[blockBytes]byte) { h[0] = 'S' }})},
		{"tar-checksum-first", false, bytesOf(func(b []byte) []byte { b[0] ^= 1; return b })},
		{"tar-sparse-bomb-pax", false, with(pax(paxRecord("GNU.sparse.major", "1"), paxRecord("GNU.sparse.minor", "0"), paxRecord("GNU.sparse.realsize", "1125899906842624"), paxRecord("GNU.sparse.name", "a")), raw{name: "a", body: "0\n" + strings.Repeat("\x00", 510)})},
		{"tar-sparse-pax-small", false, with(pax(paxRecord("GNU.sparse.major", "1"), paxRecord("GNU.sparse.minor", "0"), paxRecord("GNU.sparse.realsize", "8"), paxRecord("GNU.sparse.name", "a")), raw{name: "a", body: "1\n0\n4\n" + strings.Repeat("\x00", 506) + "data"})},
		{"tar-sparse-pax-01", false, with(pax(paxRecord("GNU.sparse.map", "0,0"), paxRecord("GNU.sparse.size", "9")), file)},
		{"tar-sparse-map-flood", false, with(raw{name: "a", flag: 'S', edit: func(h *[blockBytes]byte) { gnu(h); h[482] = 1 }, body: strings.Repeat("\x01", 64<<10)})},
		{"tar-trunc-header", false, bytesOf(func(b []byte) []byte { return b[:len(b)-len(endMark)-4096-blockBytes/2] })},
		{"tar-trunc-data", false, bytesOf(func(b []byte) []byte { return b[:len(b)-len(endMark)-2000] })},
		{"tar-trunc-boundary", false, bytesOf(func(b []byte) []byte { return b[:len(b)-len(endMark)-4096-blockBytes] })},
		{"tar-trunc-boundary-ended", false, func(string) []byte { return tarOf(base("")[:3]...) }},
		{"tar-trunc-no-trailer", false, bytesOf(func(b []byte) []byte { return b[:len(b)-len(endMark)] })},
		{"tar-trunc-half-trailer", false, bytesOf(func(b []byte) []byte { return b[:len(b)-blockBytes] })},
		{"tar-empty-file", false, func(string) []byte { return nil }},
		{"tar-only-trailer", false, func(string) []byte { return tarOf() }},
		{"tar-only-root", false, func(string) []byte { return tarOf(raw{name: "./", flag: '5'}) }},
		{"tar-garbage-after", false, bytesOf(func(b []byte) []byte { return append(b, "garbage"...) })},
		{"tar-garbage-after-padding", false, bytesOf(func(b []byte) []byte { return append(append(b, make([]byte, 20480)...), 1) })},
		{"tar-second-archive", false, bytesOf(func(b []byte) []byte { return append(b, b...) })},
		{"tar-lone-zero-block", false, func(p string) []byte {
			return append(append(joined(base(p)...), make([]byte, blockBytes)...), tarOf(file)...)
		}},
		{"tar-text", false, func(string) []byte { return []byte(strings.Repeat("this is no tar file.\n", 100)) }},
	}
}

// TestHostileTar holds each verdict for all compressions and both forms of names, and looks that
// an unpacker leaves nothing behind and touches nothing outside.
func TestHostileTar(t *testing.T) {
	canary := t.TempDir()
	host := filepath.Join(canary, "host")
	if err := os.WriteFile(host, []byte(secret), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(host, 0o640); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	for _, h := range append(hostileNames(canary), hostileStructure()...) {
		for _, prefix := range []string{"", "./"} {
			for _, c := range archive.Compressions {
				t.Run(h.name+"/"+prefix+string(c), func(t *testing.T) {
					b := packWith(t, h.build(prefix), c)
					verify(t, b, h.accept)
					unpack(t, b, h.accept)
				})
			}
		}
	}
	noLeftovers(t, canary, "host")
	if got, err := os.ReadFile(host); err != nil || string(got) != secret {
		t.Errorf("host file: got %q, %v, want %q", got, err, secret)
	}
	info, err := os.Lstat(host)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), fs.FileMode(0o640); got != want || st.Nlink != 1 {
		t.Errorf("host file: got mode %v with %d links, want %v with 1", got, st.Nlink, want)
	}
}

// judge holds an error against a verdict.
func judge(t *testing.T, what string, err error, accept bool) {
	t.Helper()
	switch {
	case accept && err != nil:
		t.Errorf("%s: got %v, want it accepted", what, err)
	case !accept && err == nil:
		t.Errorf("%s: got it accepted, want it rejected", what)
	case !accept && !errors.Is(err, archive.ErrRejected):
		t.Errorf("%s: got %v, which is no ErrRejected", what, err)
	case err != nil && strings.Contains(err.Error(), secret):
		t.Errorf("%s: the error tells the content of a host file: %v", what, err)
	case err != nil && strings.ContainsAny(err.Error(), "\n\x1b\x00"):
		t.Errorf("%s: the error has control characters: %q", what, err)
	}
}

func verify(t *testing.T, b []byte, accept bool) {
	t.Helper()
	src, err := archive.NewReader(bytes.NewReader(b), archive.ReaderOptions{})
	if err == nil {
		_, err = archive.Verify(t.Context(), src, archive.CopyOptions{})
		if cerr := src.Close(); cerr != nil {
			t.Errorf("Close: %v", cerr)
		}
	}
	judge(t, "verify", err, accept)
}

// unpack unpacks a file as a restore does.
func unpack(t *testing.T, b []byte, accept bool) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "x.tar.zst") // a name says nothing
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	err := unpackFile(t, file, filepath.Join(dir, "out"))
	judge(t, "unpack", err, accept)
	if err != nil {
		noLeftovers(t, dir, "x.tar.zst")
		return
	}
	noLeftovers(t, dir, "x.tar.zst", "out")
	err = filepath.WalkDir(filepath.Join(dir, "out"), func(path string, de fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := de.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if de.IsDir() {
			want = fs.ModeDir | 0o700
		}
		if got := info.Mode(); got != want {
			t.Errorf("%s: got mode %v, want %v", path, got, want)
		}
		for _, name := range []string{"security.capability", "trusted.overlay.opaque"} {
			if n, err := unix.Lgetxattr(path, name, make([]byte, 64)); err == nil {
				t.Errorf("%s: got %s of %d bytes, want none", path, name, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func unpackFile(t *testing.T, file, dir string) (err error) {
	t.Helper()
	src, err := archive.OpenFile(file, archive.ReaderOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	sink, err := archive.CreateDir(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	if _, err := archive.Copy(t.Context(), sink, archive.NewVerified(src), archive.CopyOptions{}); err != nil {
		return err
	}
	return sink.Commit(t.Context())
}
