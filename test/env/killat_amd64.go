package env

import "golang.org/x/sys/unix"

// ownSteps are those that newer architectures have no call for.
//
//nolint:gochecknoglobals // a table
var ownSteps = []uint64{unix.SYS_RENAME, unix.SYS_LINK, unix.SYS_UNLINK, unix.SYS_MKDIR, unix.SYS_RMDIR}
