package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	libcap "kernel.org/pub/linux/libs/security/libcap/cap"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// A verb that only reads checkpoints gives up what it does not need before it opens one: the capabilities of root,
// all files but those that the command line names, and memory without end. It does so to itself and for good, in all of
// its threads, and has nothing to go back to: so there is no second process whose signals, terminal and exit status would
// have to be passed on.

// Limits of a process that reads what somebody else has made.
const (
	// minGrowth is how many bytes of addresses may be taken beyond those that are taken already, and on a host with more
	// than twice as much memory, half of that: the index of a checkpoint grows with it. A passphrase takes 1 GiB (crypt's
	// work factor).
	minGrowth = 4 << 30
	// usualSpace is what the Go runtime takes at the start, rounded up: for a system without /proc.
	usualSpace = 2 << 30
	// maxOpenFiles is more than transfers and a store with its locks ever have open at once.
	maxOpenFiles = 1024
)

// What Landlock lets be done below the paths of a [boundary]. Nothing may be executed, and no device, socket, FIFO or
// symbolic link be made.
const (
	readFile = llsys.AccessFSReadFile
	readDir  = readFile | llsys.AccessFSReadDir
	useFile  = readFile | llsys.AccessFSWriteFile | llsys.AccessFSTruncate | llsys.AccessFSIoctlDev
	writeDir = readDir | llsys.AccessFSWriteFile | llsys.AccessFSTruncate | llsys.AccessFSMakeReg | llsys.AccessFSMakeDir |
		llsys.AccessFSRemoveFile | llsys.AccessFSRemoveDir | llsys.AccessFSRefer
)

// boundary is what is left to a process. Paths that are not there are left out.
type boundary struct {
	reads   []string // files and directories
	uses    []string // files, as a terminal
	writes  []string // directories
	network bool
}

// confine puts this process behind a boundary.
func confine(b boundary) error {
	if err := limit(); err != nil {
		return fmt.Errorf("limit this process: %w", err)
	}
	if err := dropCapabilities(b.capabilities()); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if err := b.landlock(); err != nil {
		return fmt.Errorf("restrict this process to the files it needs: %w", err)
	}
	return nil
}

// limit bounds resources. A lower limit that is there already stays.
func limit() error {
	space, err := addressSpace()
	if err != nil {
		return err
	}
	limits := map[int]uint64{unix.RLIMIT_AS: space, unix.RLIMIT_NOFILE: maxOpenFiles, unix.RLIMIT_CORE: 0}
	for resource, most := range limits {
		var is unix.Rlimit
		if err := unix.Getrlimit(resource, &is); err != nil {
			return err
		}
		lower := unix.Rlimit{Cur: min(is.Cur, most), Max: min(is.Max, most)}
		if err := unix.Setrlimit(resource, &lower); err != nil {
			return err
		}
	}
	return nil
}

// addressSpace is the limit of addresses, in bytes. What is taken by now is the Go runtime's.
func addressSpace() (uint64, error) {
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return 0, err
	}
	taken := uint64(usualSpace)
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		var pages uint64
		if _, err := fmt.Sscan(string(statm), &pages); err != nil {
			return 0, fmt.Errorf("/proc/self/statm: %w", err)
		}
		taken = pages * uint64(os.Getpagesize()) //nolint:gosec // no page has a negative size
	}
	return taken + max(minGrowth, host.Totalram*uint64(host.Unit)/2), nil
}

// capabilities are those without which the named files of somebody else could not be read, or written beside:
// "sudo ckarchive inspect" of a user's file is no mistake. Landlock bounds them to these files.
func (b boundary) capabilities() (keep []libcap.Value) {
	denied, err := deniedTo(b.reads, unix.R_OK)
	if err != nil || denied {
		keep = append(keep, libcap.DAC_READ_SEARCH)
	}
	denied, err = deniedTo(b.writes, unix.W_OK|unix.X_OK)
	if err != nil || denied {
		// FOWNER: to replace a file in a directory where only its owner may.
		keep = append(keep, libcap.DAC_OVERRIDE, libcap.FOWNER)
	}
	return keep
}

// deniedTo tells whether a process of this user without capabilities might not get at all paths in this mode. What is in
// a directory of another user may be that user's.
func deniedTo(paths []string, mode uint32) (bool, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return false, err
	}
	if have[0].Effective|have[1].Effective == 0 {
		return false, nil // there is nothing to keep
	}
	without := have
	without[0].Effective, without[1].Effective = 0, 0
	if err := unix.Capset(&header, &without[0]); err != nil {
		return false, err
	}
	denied := false
	for _, path := range paths {
		var st unix.Stat_t
		switch err := unix.Stat(path, &st); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		case err != nil, unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS) != nil:
			denied = true
		case st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) != os.Geteuid():
			denied = true
		}
	}
	return denied, unix.Capset(&header, &have[0])
}

// dropCapabilities gives up all capabilities but some, in all threads. No program that is started gets any of them back,
// whoever owns it: so the bounding set may stay as it is.
func dropCapabilities(keep []libcap.Value) error {
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	have, err := libcap.GetPID(0)
	if err != nil {
		return err
	}
	left := libcap.NewSet()
	for _, c := range keep {
		had, err := have.GetFlag(libcap.Permitted, c)
		if err == nil {
			err = errors.Join(left.SetFlag(libcap.Permitted, had, c), left.SetFlag(libcap.Effective, had, c))
		}
		if err != nil {
			return err
		}
	}
	return left.SetProc() // what is ambient goes with what is permitted
}

// landlock forbids all files but those of b, and the network unless b has it. A kernel that knows only a part of it, or
// nothing, does what it can.
func (b boundary) landlock() error {
	rules := []landlock.Rule{}
	for _, r := range []struct {
		paths     []string
		file, dir landlock.AccessFSSet
	}{{b.reads, readFile, readDir}, {b.uses, useFile, 0}, {b.writes, 0, writeDir}} {
		for _, path := range r.paths {
			if access := accessTo(path, r.file, r.dir); access != 0 {
				rules = append(rules, landlock.PathAccess(access, path).IgnoreIfMissing())
			}
		}
	}
	config := landlock.V7
	if b.network {
		config.HandledAccessNet = 0
	}
	return config.BestEffort().Restrict(rules...)
}

// accessTo gives what is allowed of a path, by what is there: nothing if it is not there, or only inside the kernel, where
// Landlock looks at nothing (/dev/fd/3 of a pipe).
func accessTo(path string, file, dir landlock.AccessFSSet) landlock.AccessFSSet {
	var st unix.Stat_t
	var fs unix.Statfs_t
	err := unix.Stat(path, &st)
	if err == nil {
		err = unix.Statfs(path, &fs)
	}
	switch {
	case err != nil, fs.Type == unix.PIPEFS_MAGIC, fs.Type == unix.SOCKFS_MAGIC:
		return 0
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return dir
	}
	return file
}

// checkLandlock tells whether readers can be kept to the files they need.
func checkLandlock() finding {
	const renames = 2 // the version from which on files may be renamed between directories
	if version, err := llsys.LandlockGetABIVersion(); err == nil && version >= renames {
		return finding{"landlock", true, false, fmt.Sprintf("version %d: verbs that only read reach no other files", version), ""}
	}
	return finding{"landlock", false, false, "verbs that only read can reach all files of the user", "Linux 5.19 or later, with landlock among its security modules (lsm=)"}
}
