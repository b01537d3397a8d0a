package criu

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// Flags are the choices that a dump and a restore of it have in common. The zero
// value is the most careful one.
type Flags struct {
	TCPEstablished bool // keep established TCP connections
	TCPClose       bool // restore TCP connections closed
	ExtUnixSk      bool // allow unix sockets with an end outside
	ShellJob       bool // allow a session and a terminal of an outer shell
	FileLocks      bool // keep file locks; without it a restore drops them silently
	// MountCompat uses CRIU's older way of restoring mounts.
	MountCompat bool
	// SkipRWXCheck does not compare the mode of open files.
	SkipRWXCheck bool
	// CgroupMode is CRIU's name of a way to treat cgroups ("soft", "full",
	// "strict", "props", "none", "ignore"). Empty is the default of a dump (soft) and of a restore (ignore).
	CgroupMode string
	// NetworkLock is how connections are held still during a dump: "iptables",
	// "nftables", "skip", or empty for CRIU's default.
	NetworkLock string
	// ConfigFile is a file with further options, which override everything else; empty for none.
	ConfigFile string
}

func (f Flags) apply(o *rpc.CriuOpts) error {
	o.TcpEstablished = proto.Bool(f.TCPEstablished)
	o.TcpClose = proto.Bool(f.TCPClose)
	o.ExtUnixSk = proto.Bool(f.ExtUnixSk)
	o.ShellJob = proto.Bool(f.ShellJob)
	o.FileLocks = proto.Bool(f.FileLocks)
	if f.MountCompat {
		o.MntnsCompatMode = proto.Bool(true)
	}
	if f.SkipRWXCheck {
		o.SkipFileRwxCheck = proto.Bool(true)
	}
	if f.ConfigFile != "" {
		o.ConfigFile = proto.String(f.ConfigFile)
	}
	switch f.NetworkLock {
	case "":
	case "iptables":
		o.NetworkLock = rpc.CriuNetworkLockMethod_IPTABLES.Enum()
	case "nftables":
		o.NetworkLock = rpc.CriuNetworkLockMethod_NFTABLES.Enum()
	case "skip":
		o.NetworkLock = rpc.CriuNetworkLockMethod_SKIP.Enum()
	default:
		return fmt.Errorf("network lock %q: want iptables, nftables or skip", f.NetworkLock)
	}
	return nil
}

// cgroupMode gives the value of a mode's name, or fallback for the empty name.
func cgroupMode(name string, fallback rpc.CriuCgMode) (rpc.CriuCgMode, error) {
	switch name {
	case "":
		return fallback, nil
	case "soft":
		return rpc.CriuCgMode_SOFT, nil
	case "full":
		return rpc.CriuCgMode_FULL, nil
	case "strict":
		return rpc.CriuCgMode_STRICT, nil
	case "props":
		return rpc.CriuCgMode_PROPS, nil
	case "none":
		return rpc.CriuCgMode_CG_NONE, nil
	case "ignore":
		return rpc.CriuCgMode_IGNORE, nil
	default:
		return 0, fmt.Errorf("cgroup mode %q: want soft, full, strict, props, none or ignore", name)
	}
}
