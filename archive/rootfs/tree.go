package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// fileID tells files apart, and hard links of one file together.
type fileID struct{ dev, ino uint64 }

// attr is what stat knows of a file.
type attr struct {
	mode         uint32 // type and permission bits
	uid, gid     uint32
	nlink        uint32
	size         int64
	mtime        time.Time
	major, minor uint32 // of the device that the file is, not of the one it lies on
	id           fileID
	mount        uint64
}

func (a attr) kind() uint32    { return a.mode & unix.S_IFMT }
func (a attr) isDir() bool     { return a.kind() == unix.S_IFDIR }
func (a attr) isRegular() bool { return a.kind() == unix.S_IFREG }

// isNullDevice tells whether the file is a character device 0:0, which is what
// overlay marks a deletion with.
func (a attr) isNullDevice() bool {
	return a.kind() == unix.S_IFCHR && a.major == 0 && a.minor == 0
}

// statAt looks at name in the directory dir, or at dir itself when name is "".
// It follows no link.
func statAt(dir int, name string) (attr, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	err := unix.Statx(dir, name, flags, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st)
	if err != nil {
		return attr{}, err
	}
	return attr{
		mode: uint32(st.Mode), uid: st.Uid, gid: st.Gid, nlink: st.Nlink,
		size:  int64(st.Size), //nolint:gosec // the kernel's sizes fit 63 bits
		mtime: time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)),
		major: st.Rdev_major, minor: st.Rdev_minor,
		id:    fileID{dev: uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), ino: st.Ino},
		mount: st.Mnt_id,
	}, nil
}

// tree is a directory tree that is read by names below its root. It follows no
// links and crosses no mounts, whatever happens in the tree meanwhile.
type tree struct {
	root  *os.File
	attr  attr
	layer int // its place in a layered view, from the top
}

// openTree opens the directory at path, which may be a link. The caller closes the tree.
func openTree(path string) (*tree, error) {
	root, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root file system: %w", err)
	}
	a, err := statAt(int(root.Fd()), "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at root file system %q: %w", path, err), root.Close())
	}
	return &tree{root: root, attr: a}, nil
}

func (t *tree) close() { t.root.Close() } //nolint:errcheck // read only

// open opens a clean name below the root. The caller closes the file.
func (t *tree) open(name string, flags int) (*os.File, error) {
	at := name
	if at == "" {
		at = "."
	}
	fd, err := unix.Openat2(int(t.root.Fd()), at, &unix.OpenHow{
		Flags: uint64(flags) | unix.O_NOFOLLOW | unix.O_CLOEXEC, //nolint:gosec // flags are not negative
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS |
			unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: containerPath(name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// handle opens a name without reading it: of any type, without side effects.
func (t *tree) handle(name string) (*os.File, error) { return t.open(name, unix.O_PATH) }

// stat looks at a clean name below the root.
func (t *tree) stat(name string) (attr, error) {
	h, err := t.handle(name)
	if err != nil {
		return attr{}, err
	}
	defer h.Close() //nolint:errcheck // read only
	return statAt(int(h.Fd()), "")
}

// list gives what is in a directory.
func (t *tree) list(dir string) (map[string]attr, error) {
	f, err := t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", archive.QuoteName(containerPath(dir)), err)
	}
	entries := make(map[string]attr, len(names))
	for _, name := range names {
		a, err := statAt(int(f.Fd()), name)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", archive.QuoteName(containerPath(joinName(dir, name))), err)
		}
		entries[name] = a
	}
	return entries, nil
}

// xattrs reads the extended attributes to carry of a name.
func (t *tree) xattrs(name string) (map[string]string, error) {
	h, err := t.handle(name)
	if err != nil {
		return nil, err
	}
	defer h.Close() //nolint:errcheck // read only
	x, err := readXattrs(int(h.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive.QuoteName(containerPath(name)), err)
	}
	return x, nil
}

// readlink gives the target of the link at name.
func (t *tree) readlink(name string) (string, error) {
	h, err := t.handle(name)
	if err != nil {
		return "", err
	}
	defer h.Close() //nolint:errcheck // read only
	return readlinkOf(h)
}

// readlinkOf gives the target of an open link.
func readlinkOf(h *os.File) (string, error) {
	buf := make([]byte, MaxNameBytes+1)
	n, err := unix.Readlinkat(int(h.Fd()), "", buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: containerPath(h.Name()), Err: err}
	}
	return string(buf[:n]), nil
}

// reopen opens the file behind a handle for reading. The caller closes it.
func reopen(h *os.File) (*os.File, error) {
	fd, err := unix.Open(procPath(int(h.Fd())), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: containerPath(h.Name()), Err: err}
	}
	return os.NewFile(uintptr(fd), h.Name()), nil
}
