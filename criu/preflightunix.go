package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// The kernel's messages about unix sockets (linux/unix_diag.h).
const (
	unixDiagShowName = 1
	unixDiagShowPeer = 4
	unixDiagName     = 0 // attributes
	unixDiagPeer     = 2
	unixDiagRequest  = 24 // bytes
	unixDiagMessage  = 16 // bytes
)

// unixSocket is a unix socket of a network namespace.
type unixSocket struct {
	typ  int
	name string // may hold any bytes; "" for none
	peer uint32 // inode of the other end; 0: none
}

// unixSocketsOf gives the unix sockets of the network namespace of a process by
// their inode, as CRIU sees them.
func unixSocketsOf(pid int) (map[uint32]unixSocket, error) {
	var found map[uint32]unixSocket
	err := inNetwork(pid, func() (err error) {
		found, err = unixSocketsHere()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list unix sockets of process %d: %w", pid, err)
	}
	return found, nil
}

// unixSocketsHere lists the unix sockets of the network namespace of the calling thread.
func unixSocketsHere() (map[uint32]unixSocket, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(s) //nolint:errcheck // read side
	req := make([]byte, unix.NLMSG_HDRLEN+unixDiagRequest)
	ne := binary.NativeEndian
	ne.PutUint32(req[0:], uint32(len(req))) //nolint:gosec // 40
	ne.PutUint16(req[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	body := req[unix.NLMSG_HDRLEN:]
	body[0] = unix.AF_UNIX
	ne.PutUint32(body[4:], ^uint32(0)) // all states
	ne.PutUint32(body[12:], unixDiagShowName|unixDiagShowPeer)
	if err := unix.Sendto(s, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	found := map[uint32]unixSocket{}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(s, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		done, err := parseUnixSockets(buf[:n], found)
		if done || err != nil {
			return found, err
		}
	}
}

// parseUnixSockets reads an answer of the kernel about unix sockets, and tells whether it was the last.
func parseUnixSockets(b []byte, found map[uint32]unixSocket) (done bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false, fmt.Errorf("read answer of the kernel: %w", err)
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return false, errors.New("read answer of the kernel: error without a number")
			}
			return true, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))) //nolint:gosec // a negative number
		}
		if len(m.Data) < unixDiagMessage {
			return false, fmt.Errorf("read answer of the kernel: message of %d bytes", len(m.Data))
		}
		s := unixSocket{typ: int(m.Data[1])}
		for attr := m.Data[unixDiagMessage:]; len(attr) >= unix.SizeofNlAttr; {
			size := int(binary.NativeEndian.Uint16(attr))
			if size < unix.SizeofNlAttr || size > len(attr) {
				return false, fmt.Errorf("read answer of the kernel: attribute of %d bytes", size)
			}
			value := attr[unix.SizeofNlAttr:size]
			switch binary.NativeEndian.Uint16(attr[2:]) {
			case unixDiagName:
				s.name = string(value)
			case unixDiagPeer:
				if len(value) == 4 {
					s.peer = binary.NativeEndian.Uint32(value)
				}
			}
			attr = attr[min(len(attr), (size+3)&^3):]
		}
		found[binary.NativeEndian.Uint32(m.Data[4:])] = s
	}
	return false, nil
}

// socketsTo gives the unix sockets of a container that are connected to one of the named sockets
// outside of it, as CRIU's external objects. A name is a path, or an abstract one with "@" in front.
func socketsTo(pid int, names []string) ([]archive.External, error) {
	if len(names) == 0 {
		return nil, nil
	}
	tasks, err := taskTree(pid)
	if err != nil {
		return nil, err
	}
	all, err := unixSocketsOf(pid)
	if err != nil {
		return nil, err
	}
	var found []archive.External
	seen := map[string]bool{}
	reached := map[string]bool{}
	for _, t := range tasks {
		files, err := openFiles(t)
		if err != nil {
			continue // it has ended
		}
		for _, f := range files {
			s, ok := all[uint32(f.stat.Ino)] //nolint:gosec // the kernel tells sockets by 32 bits
			if !ok || s.peer == 0 || f.stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
				continue
			}
			name := plainSocketName(all[s.peer].name)
			key := fmt.Sprintf("unix[%d]", f.stat.Ino)
			if !slices.Contains(names, name) {
				continue
			}
			reached[name] = true
			if !seen[key] {
				seen[key] = true
				found = append(found, archive.External{Kind: kindUnix, Key: key, Path: name, FD: f.fd, Flags: f.flags})
			}
		}
	}
	for _, n := range names {
		if !reached[n] {
			return nil, fmt.Errorf("no task is connected to a unix socket %q", n)
		}
	}
	return found, nil
}

// plainSocketName is the name of a unix socket as people write it: an abstract one begins with a
// zero byte, a path ends with one.
func plainSocketName(name string) string {
	return strings.ReplaceAll(strings.TrimSuffix(name, "\x00"), "\x00", "@")
}
