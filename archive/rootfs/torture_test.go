package rootfs_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Values of extended attributes as the kernel stores them.
const (
	// capability is cap_net_bind_service=ep, revision 2.
	capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	// acl is u::rw- u:1000:rw- g::r-- m::rw- o::---.
	acl = "\x02\x00\x00\x00" +
		"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	// defaultACL is the same with execution for the owner, for new files.
	defaultACL = "\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
)

// buildBase makes the lowest layer.
func buildBase(t *testing.T, root string) {
	t.Helper()
	p := func(s string) string { return filepath.Join(root, s) }
	mkdir(t, root, 0o755)
	for _, f := range []string{
		"data/mod", "data/same", "data/chmod", "data/chown", "data/del", "data/recreated", "data/linked", "data/renamed",
		"data/file-to-dir", "data/file-to-link", "data/touched",
		"data/dir-to-file/a", "data/dir-to-file/sub/b", "data/dir-to-link/a",
		"data/deldir/a", "data/deldir/sub/b",
		"data/opaque/a", "data/opaque/keep", "data/opaque/sub/b", "data/opaque/sub/c", "data/opaque/gone/d", "data/opaque/to-file/e",
		"data/dir-chmod/a", "data/xattr-dropped", "data/untouched/deep/file", "skipped/in/base", "skipped-file",
		"layers/hidden", "layers/opaque/old", "layers/opaque-twice/old", "layers/flips", "data/" + strings.Repeat("l", 255),
	} {
		write(t, p(f), "base of "+f+"\n")
	}
	must(t, os.Link(p("data/mod"), p("data/mod-link")))
	must(t, os.Link(p("data/same"), p("data/same-link")))
	symlink(t, "mod", p("data/link"))
	symlink(t, "/data", p("abslink"))
	symlink(t, "nowhere", p("data/link-to-dir"))
	setxattr(t, p("data/xattr-dropped"), "user.old", "1")
	setxattr(t, p("data/dir-chmod"), "user.dropped", "1")
	mknod(t, p("data/fifo"), unix.S_IFIFO|0o622, 0)
	age(t, root)
}

// buildSecond changes the base as a second layer does.
func buildSecond(t *testing.T, merged string) {
	t.Helper()
	p := func(s string) string { return filepath.Join(merged, s) }
	must(t, os.Remove(p("layers/hidden")))
	must(t, os.RemoveAll(p("layers/opaque")))
	write(t, p("layers/opaque/new"), "second layer\n")
	must(t, os.RemoveAll(p("layers/opaque-twice")))
	write(t, p("layers/opaque-twice/middle"), "second layer\n")
	write(t, p("layers/second"), "second layer\n")
	write(t, p("layers/deleted-later"), "second layer\n")
	write(t, p("data/file-of-two"), "second layer\n")
}

// torture changes a container's root in every way that a difference must carry.
func torture(t *testing.T, merged string) {
	t.Helper()
	p := func(s string) string { return filepath.Join(merged, s) }
	must(t, os.WriteFile(p("data/mod"), []byte("modified\n"), 0o644))
	must(t, os.Chmod(p("data/chmod"), 0o600))
	must(t, os.Chown(p("data/chown"), 1234, 5678))
	must(t, os.Remove(p("data/del")))
	must(t, os.RemoveAll(p("data/deldir")))
	must(t, os.Remove(p("data/"+strings.Repeat("l", 255))))
	must(t, os.Remove(p("data/recreated")))
	write(t, p("data/recreated"), "made again\n")
	must(t, os.Rename(p("data/renamed"), p("data/renamed-new")))
	must(t, os.Link(p("data/linked"), p("data/linked-new")))
	replaceTypes(t, p)
	write(t, p("data/opaque/new"), "in an opaque directory\n")
	must(t, os.Chmod(p("data/dir-chmod"), 0o1770))
	must(t, unix.Removexattr(p("data/dir-chmod"), "user.dropped"))
	must(t, unix.Removexattr(p("data/xattr-dropped"), "user.old"))
	must(t, os.Remove(p("layers/deleted-later")))
	must(t, os.RemoveAll(p("layers/opaque")))
	must(t, os.RemoveAll(p("layers/opaque-twice")))
	write(t, p("layers/opaque-twice/new"), "top layer\n")
	must(t, os.RemoveAll(p("layers/flips")))
	write(t, p("layers/flips/new"), "top layer\n")
	write(t, p("skipped/in/container"), "below a mount")
	must(t, os.Remove(p("skipped/in/base")))
	write(t, p("skipped-file"), "a mounted file")
	makeNew(t, p)
	must(t, os.Chmod(merged, 0o751))
	must(t, os.Chown(merged, 7, 8))
}

func replaceTypes(t *testing.T, p func(string) string) {
	t.Helper()
	must(t, os.RemoveAll(p("data/dir-to-file")))
	write(t, p("data/dir-to-file"), "was a directory\n")
	must(t, os.RemoveAll(p("data/dir-to-link")))
	symlink(t, "/etc", p("data/dir-to-link"))
	must(t, os.Remove(p("data/file-to-dir")))
	write(t, p("data/file-to-dir/inside"), "was a file\n")
	must(t, os.Remove(p("data/file-to-link")))
	symlink(t, "mod", p("data/file-to-link"))
	must(t, os.Remove(p("data/link-to-dir")))
	mkdir(t, p("data/link-to-dir"), 0o711)
	must(t, os.RemoveAll(p("data/opaque")))
	write(t, p("data/opaque/keep"), "new content\n")
	write(t, p("data/opaque/sub/c"), "new content of c\n")
	write(t, p("data/opaque/to-file"), "was a directory\n")
}

func makeNew(t *testing.T, p func(string) string) {
	t.Helper()
	write(t, p("new/suid"), "#!/bin/sh\n")
	must(t, os.Chown(p("new/suid"), 0, 42))
	must(t, os.Chmod(p("new/suid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	write(t, p("new/empty"), "")
	write(t, p("new/h1"), "three names\n")
	must(t, os.Link(p("new/h1"), p("new/h2")))
	mkdir(t, p("another"), 0o700)
	must(t, os.Link(p("new/h1"), p("another/h3")))
	write(t, p("new/cap"), "with a capability")
	setxattr(t, p("new/cap"), "security.capability", capability)
	setxattr(t, p("new/cap"), "user.binary", "a\x00b=c\n")
	setxattr(t, p("new"), "user.dir", "on a directory")
	write(t, p("new/acl"), "with an ACL")
	must(t, os.Chmod(p("new/acl"), 0o660))
	setxattr(t, p("new/acl"), "system.posix_acl_access", acl)
	write(t, p("new/inherit/before"), "older than the default ACL")
	setxattr(t, p("new/inherit"), "system.posix_acl_default", defaultACL)
	write(t, p("new/inherit/after"), "younger than the default ACL")
	mknod(t, p("new/fifo"), unix.S_IFIFO|0o640, 0)
	mknod(t, p("new/null"), unix.S_IFCHR|0o666, unix.Mkdev(1, 3))
	mknod(t, p("new/block"), unix.S_IFBLK|0o600, unix.Mkdev(7, 300))
	symlink(t, "/run/nowhere", p("new/dangling"))
	must(t, os.Lchown(p("new/dangling"), 3, 4))
	for _, name := range []string{"line\nbreak", "blank and\ttab", "grüße-日本", "bad\xffutf8", "-dash", ".hidden", "a\\b:c,d", ".whx", strings.Repeat("n", 255)} {
		write(t, p("odd/"+name), "content of "+name)
	}
	write(t, p("odd/d\n/in\n"), "x")
	write(t, p("deep/"+strings.Repeat("d/", 200)+"file"), "deep down\n")
	f, err := os.Create(p("new/sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("end of a hole"), 3<<20)
	must(t, err)
	must(t, f.Truncate(5<<20+7))
	must(t, f.Close())
	mkdir(t, p("sock"), 0o755)
	makeSocket(t, p("sock/s"))
}

// makeSocket binds through a short path: addresses of sockets end at 108 bytes.
func makeSocket(t *testing.T, p string) {
	t.Helper()
	dir, err := os.Open(filepath.Dir(p))
	must(t, err)
	defer dir.Close()
	short, err := os.MkdirTemp("/tmp", "s")
	must(t, err)
	defer os.RemoveAll(short)
	must(t, os.Symlink(filepath.Dir(p), short+"/d"))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short + "/d/" + filepath.Base(p)})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
}
