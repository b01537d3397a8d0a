package criu

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// RaiseLoopback sets lo up in the network namespace of a process. Images of a
// dump without network hold no interfaces, and connections over lo could not be
// restored.
func RaiseLoopback(pid int) error {
	if err := inNetwork(pid, func() error { return bringUp("lo") }); err != nil {
		return fmt.Errorf("set up lo in the network namespace of process %d: %w", pid, err)
	}
	return nil
}

// inNetwork runs f on a thread in the network namespace of a process.
func inNetwork(pid int, f func() error) error {
	ns, err := os.Open(procPath(pid, "ns", "net"))
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // read side
	var thread errgroup.Group
	thread.Go(func() error {
		runtime.LockOSThread() // for good: the thread stays in the other namespace until it ends
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
		}
		return f()
	})
	return thread.Wait()
}

// bringUp sets an interface up in the network namespace of the calling thread.
func bringUp(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s) //nolint:errcheck // nothing was written
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}
