package rootfs

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// impliedDirMode is the mode of directories that are needed without being named.
const impliedDirMode = 0o755

// attributes are what a file is given once it is there.
type attributes struct {
	perm     uint32 // permissions with set-uid, set-gid and sticky
	uid, gid int
	mtime    time.Time
	xattrs   map[string]string
}

// apply gives name in the directory dir its attributes. It acts on the file
// itself, never on what a link leads to. Order matters: a new owner clears
// set-uid and capabilities, and new permissions rewrite an ACL.
func (a attributes) apply(dir int, name string) error {
	h, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(h) //nolint:errcheck // read only
	st, err := statAt(h, "")
	if err != nil {
		return err
	}
	if err := unix.Fchownat(h, "", a.uid, a.gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", a.uid, a.gid, err)
	}
	if st.kind() != unix.S_IFLNK {
		if err := unix.Chmod(procPath(h), a.perm); err != nil {
			return fmt.Errorf("set mode %#o: %w", a.perm, err)
		}
	}
	if err := writeXattrs(h, a.xattrs); err != nil {
		return err
	}
	return setTime(dir, name, a.mtime)
}

// makeImpliedDir makes a directory of which nothing is known, whatever the umask.
func makeImpliedDir(dir int, name string) error {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return err
	}
	h, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(h) //nolint:errcheck // read only
	return unix.Chmod(procPath(h), impliedDirMode)
}

// setTime sets the time of the last change and leaves that of the last access.
func setTime(dir int, name string, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err == nil {
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}
		err = unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("set time %s: %w", mtime, err)
	}
	return nil
}

// makeNode makes a FIFO or a device.
func makeNode(dir int, name string, kind, major, minor uint32) error {
	if err := unix.Mknodat(dir, name, kind|0o600, int(unix.Mkdev(major, minor))); err != nil { //nolint:gosec // a device number
		return fmt.Errorf("make node: %w", err)
	}
	return nil
}

// errMounted stops a change that would reach into another file system.
var errMounted = errors.New("a file system is mounted there: unmount it")
