package runtime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// runAsUser makes root run a user's runtime as that user: what is in the user's state directory
// could otherwise make root freeze and kill what is not the user's.
func runAsUser(cmd *exec.Cmd, root string) {
	uid := rootUser(root)
	if uid == 0 || os.Geteuid() != 0 {
		return
	}
	dir := filepath.Join(usersDir, strconv.Itoa(uid))
	// Nobody's group has no rights: a directory that is gone makes the command fail.
	gid := uint32(65534)
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		gid = st.Gid
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: gid} //nolint:gosec // 31 bits
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+dir)
}

// belongs tells whether the process lives in a user namespace of the user, or in one
// below it. A state directory that the user can write may name any process.
func belongs(pid, user int) error {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("find the owner of process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(ns) }()
	for {
		owner, err := unix.IoctlGetUint32(ns, unix.NS_GET_OWNER_UID)
		if err == nil && int(owner) == user {
			return nil
		}
		var parent int
		if err == nil {
			parent, err = unix.IoctlRetInt(ns, unix.NS_GET_PARENT)
		}
		if errors.Is(err, unix.EPERM) { // the first one of all has no parent
			return fmt.Errorf("process %d is not one of user %d, whose state directory names it", pid, user)
		}
		if err != nil {
			return fmt.Errorf("find the owner of process %d: %w", pid, err)
		}
		_ = unix.Close(ns)
		ns = parent
	}
}
