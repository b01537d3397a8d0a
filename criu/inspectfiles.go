package criu

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"golang.org/x/sys/unix"
)

func stateName(s crit.TaskState) string { return strings.ToLower(s.String()) }

func mountType(t mnt.Fstype) string {
	switch t {
	case mnt.Fstype_UNSUPPORTED, mnt.Fstype_AUTO:
		return "bind"
	case mnt.Fstype_OVERLAYFS:
		return "overlay"
	default:
		return strings.ToLower(t.String())
	}
}

// regular describes an open file that is no socket.
func regular(fd *fdinfo.FdinfoEntry, f *fdinfo.FileEntry) OpenFile {
	o := OpenFile{FD: fd.GetFd(), Type: strings.ToLower(fd.GetType().String())}
	switch fd.GetType() {
	case fdinfo.FdTypes_REG:
		o.Path, o.Pos, o.Size = f.GetReg().GetName(), f.GetReg().GetPos(), f.GetReg().GetSize()
	case fdinfo.FdTypes_PIPE:
		o.Path = fmt.Sprintf("pipe:[%d]", f.GetPipe().GetPipeId())
	case fdinfo.FdTypes_FIFO:
		o.Path = fmt.Sprintf("fifo:[%d]", f.GetFifo().GetPipeId())
	case fdinfo.FdTypes_TTY:
		o.Path = fmt.Sprintf("tty:[%d]", f.GetTty().GetTtyInfoId())
	case fdinfo.FdTypes_MEMFD:
		o.Path = fmt.Sprintf("memfd:[%d]", f.GetMemfd().GetInodeId())
	}
	return o
}

// socket describes an open file that is one.
func socket(fd *fdinfo.FdinfoEntry, f *fdinfo.FileEntry) (Socket, bool) {
	s := Socket{FD: fd.GetFd()}
	switch fd.GetType() {
	case fdinfo.FdTypes_INETSK:
		k := f.GetIsk()
		s.Protocol = protocolName(k.GetProto())
		if k.GetFamily() == unix.AF_INET6 {
			s.Protocol += "6"
		}
		s.State = socketState(k.GetState(), k.GetProto())
		s.Source = endpoint(k.GetSrcAddr(), k.GetSrcPort())
		if k.GetDstPort() != 0 {
			s.Destination = endpoint(k.GetDstAddr(), k.GetDstPort())
		}
	case fdinfo.FdTypes_UNIXSK:
		k := f.GetUsk()
		s.Protocol, s.State = "unix", socketState(k.GetState(), unix.IPPROTO_TCP)
		if name := string(k.GetName()); strings.HasPrefix(name, "\x00") {
			s.Source = "@" + strings.TrimPrefix(name, "\x00") // an abstract one
		} else {
			s.Source = strings.TrimRight(name, "\x00")
		}
	case fdinfo.FdTypes_NETLINKSK:
		s.Protocol = "netlink"
	case fdinfo.FdTypes_PACKETSK:
		s.Protocol = "packet"
	default:
		return Socket{}, false
	}
	return s, true
}

func protocolName(p uint32) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_UDPLITE:
		return "udplite"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "icmp"
	case unix.IPPROTO_RAW:
		return "raw"
	default:
		return fmt.Sprintf("proto-%d", p)
	}
}

// socketState names the kernel's TCP states, which all sockets use.
func socketState(state, proto uint32) string {
	names := [...]string{
		"", "established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait",
		"close", "close-wait", "last-ack", "listen", "closing", "new-syn-recv",
	}
	if int64(state) >= int64(len(names)) {
		return fmt.Sprintf("state-%d", state)
	}
	if proto != unix.IPPROTO_TCP && names[state] == "close" {
		return "unconnected"
	}
	return names[state]
}

// endpoint writes an address of an image: one word for IPv4, four for IPv6.
func endpoint(words []uint32, port uint32) string {
	var b [16]byte
	if len(words) != 1 && len(words) != 4 {
		return ""
	}
	for i, w := range words {
		binary.LittleEndian.PutUint32(b[4*i:], w) // network order, stored as the host read it
	}
	addr, _ := netip.AddrFromSlice(b[:4*len(words)])
	return netip.AddrPortFrom(addr, uint16(port)).String() //nolint:gosec // a port
}
