package criu

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// The states of TCP sockets that matter, as the kernel numbers them; the others
// that a task can hold belong to connections.
const (
	tcpClose  = 7
	tcpListen = 10
)

// protocolMPTCP is Multipath TCP.
const protocolMPTCP = 262

// openSocket is a socket of a task.
type openSocket struct {
	task   taskFacts
	file   openFile
	domain int
	typ    int
	proto  int
	tcp    uint8  // state, of TCP
	queued uint32 // connections that wait to be accepted, of a listening one
	local  string
	remote string
}

// inode gives the number of a unix socket as the kernel tells it, in 32 bits.
func (s openSocket) inode() uint32 { return uint32(s.file.stat.Ino) } //nolint:gosec // so it does

// sockets finds sockets that a dump fails at.
func (p *preflight) sockets(ctx context.Context) error {
	var unixSockets []openSocket
	seen := map[uint64]bool{}
	for _, t := range p.survey.tasks {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, f := range t.files {
			if f.stat.Mode&unix.S_IFMT != unix.S_IFSOCK || seen[f.stat.Ino] {
				continue
			}
			s, err := lookIntoSocket(t, f)
			if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
				continue // closed meanwhile
			}
			if err != nil {
				p.add("sockets-unseen", fmt.Sprint(f.stat.Ino), fmt.Sprintf("%s: %v", fileSubject(t, f), err))
				continue
			}
			seen[f.stat.Ino] = true
			if s.domain == unix.AF_UNIX {
				unixSockets = append(unixSockets, s)
				continue
			}
			p.socket(s)
		}
	}
	if len(unixSockets) == 0 {
		return nil
	}
	peers, err := unixSocketsOf(p.opts.PID)
	if err != nil {
		p.add("sockets-unseen", "unix", err.Error())
		return nil
	}
	if slices.ContainsFunc(unixSockets, func(s openSocket) bool { return !reaches(s, peers) }) {
		// It may have been closed while the kernel told: only what is missing twice is.
		if peers, err = unixSocketsOf(p.opts.PID); err != nil {
			return err
		}
	}
	p.unixSockets(unixSockets, peers)
	return nil
}

// reaches tells whether a unix socket and its other end are among those of the namespace.
func reaches(s openSocket, all map[uint32]unixSocket) bool {
	own, ok := all[s.inode()]
	if ok && own.peer != 0 {
		_, ok = all[own.peer]
	}
	return ok
}

// lookIntoSocket asks a socket of another process what it is. It takes hold of
// the socket for that moment, which the process does not notice.
func lookIntoSocket(t taskFacts, f openFile) (openSocket, error) {
	s := openSocket{task: t, file: f}
	pidfd, err := unix.PidfdOpen(t.pid, 0)
	if err != nil {
		return s, fmt.Errorf("open process: %w", err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // read side
	fd, err := unix.PidfdGetfd(pidfd, f.fd, 0)
	if err != nil {
		return s, fmt.Errorf("look into descriptor: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // the process has it still
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != f.stat.Ino {
		return s, unix.EBADF // another one has its number now
	}
	for option, value := range map[int]*int{unix.SO_DOMAIN: &s.domain, unix.SO_TYPE: &s.typ, unix.SO_PROTOCOL: &s.proto} {
		if *value, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); err != nil {
			return s, fmt.Errorf("read option %d of socket: %w", option, err)
		}
	}
	if s.domain != unix.AF_INET && s.domain != unix.AF_INET6 || s.typ != unix.SOCK_STREAM || s.proto != unix.IPPROTO_TCP {
		return s, nil
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return s, fmt.Errorf("read state of connection: %w", err)
	}
	s.tcp = info.State
	if s.tcp == tcpListen {
		s.queued = info.Unacked
	}
	if sa, err := unix.Getsockname(fd); err == nil {
		s.local = socketAddress(sa)
	}
	if sa, err := unix.Getpeername(fd); err == nil {
		s.remote = socketAddress(sa)
	}
	return s, nil
}

func socketAddress(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String() //nolint:gosec // a port
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)).String() //nolint:gosec // a port
	}
	return ""
}

// socket judges a socket that is not of the unix family.
func (p *preflight) socket(s openSocket) {
	key := fmt.Sprint(s.file.stat.Ino)
	subject := fmt.Sprintf("%v, fd %d", s.task, s.file.fd)
	inet := s.domain == unix.AF_INET || s.domain == unix.AF_INET6
	switch {
	case !inet && s.domain != unix.AF_PACKET && s.domain != unix.AF_NETLINK:
		p.add("socket-type", key, fmt.Sprintf("%s, a socket of family %d", subject, s.domain))
	case !inet, s.typ == unix.SOCK_RAW: // a raw socket has any protocol
	case s.proto == protocolMPTCP:
		p.add("mptcp-socket", key, subject)
	case !slices.Contains([]int{unix.IPPROTO_IP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}, s.proto):
		p.add("socket-type", key, fmt.Sprintf("%s, a socket of protocol %d", subject, s.proto))
	case s.proto != unix.IPPROTO_TCP || s.typ != unix.SOCK_STREAM, s.tcp == tcpClose:
	case s.tcp == tcpListen:
		if s.queued > 0 {
			p.add("tcp-in-flight", key, fmt.Sprintf("%s, listening on %s, %d waiting", subject, s.local, s.queued))
		}
	default:
		p.add("tcp-established", key, fmt.Sprintf("%s, %s to %s", subject, s.local, s.remote))
	}
}

// unixSockets judges the unix sockets of the container by their other ends.
func (p *preflight) unixSockets(held []openSocket, all map[uint32]unixSocket) {
	inside := map[uint32]bool{}
	for _, s := range held {
		inside[s.inode()] = true
	}
	for _, s := range held {
		ino := s.inode()
		key := fmt.Sprint(ino)
		subject := fmt.Sprintf("%v, fd %d", s.task, s.file.fd)
		if !reaches(s, all) {
			// The accepted end of a stream belongs to the network namespace of the end that connected.
			if link, err := os.Readlink(procPath(s.task.pid, "fd", strconv.Itoa(s.file.fd))); err == nil && link == s.file.link {
				p.add("unix-other-namespace", key, subject)
			}
			continue
		}
		own := all[ino]
		if own.peer == 0 || inside[own.peer] {
			continue
		}
		peer := all[own.peer]
		if peer.name != "" {
			subject += ", connected to " + socketName(peer.name)
		}
		code := "unix-stream-external"
		if peer.typ == unix.SOCK_DGRAM && peer.name != "" {
			code = "unix-external"
		}
		subject += fmt.Sprintf(" (unix[%d])", ino)
		if p.declared(s.file, ino) || slices.Contains(p.opts.ExternalSockets, plainSocketName(peer.name)) {
			p.addAs(Info, code, key, subject+", declared as external")
			continue
		}
		p.add(code, key, subject)
	}
}

// socketName makes the name of a unix socket readable, whatever bytes it holds.
func socketName(name string) string { return strconv.QuoteToGraphic(plainSocketName(name)) }

// declared tells whether a dump tells CRIU that a socket's other end is outside:
// because it was asked to, or because the container was started with the socket.
func (p *preflight) declared(f openFile, ino uint32) bool {
	return slices.Contains(p.opts.External, fmt.Sprintf("unix[%d]", ino)) || slices.Contains(p.opts.Descriptors, f.link)
}
