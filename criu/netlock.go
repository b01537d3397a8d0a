package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockName is CRIU's chain of iptables, and the beginning of the names of its nftables tables.
	lockName = "CRIU"
	// lockMark is what packets of CRIU's own carry, which pass the lock (SOCCR_MARK).
	lockMark = "0xc114"
	// unlockTimeout bounds the programs that list and remove rules.
	unlockTimeout = 30 * time.Second
)

// Unlock gives a container back its TCP connections, which a CRIU that was killed in the middle of a dump
// left locked: packet filter rules drop their packets, and the sockets are in repair mode. pid is the
// container's first process; one that is gone, and a network that is not locked, are no error. No CRIU may be
// at work on the container. In a network namespace that is not the container's alone, as the host's, only rules about
// its own connections are removed; what CRIU locks as a whole, it unlocks as a whole.
func Unlock(ctx context.Context, pid int) error {
	if !alive(pid) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, unlockTimeout)
	defer cancel()
	held, err := holdConnections(pid)
	if err != nil {
		return fmt.Errorf("unlock the network of process %d: %w", pid, err)
	}
	defer held.close()
	ours, err := sameNamespace(pid, os.Getpid(), "net")
	if err != nil {
		return fmt.Errorf("unlock the network of process %d: %w", pid, err)
	}
	l := &netLock{whole: !ours, connections: held.pairs}
	if err := inNetwork(pid, func() error { return l.remove(ctx) }); err != nil {
		return fmt.Errorf("unlock the network of process %d: %w", pid, err)
	}
	// Only now: the end of the repair mode sends a packet.
	if err := held.endRepair(); err != nil {
		return fmt.Errorf("unlock the connections of process %d: %w", pid, err)
	}
	return nil
}

// connection is both ends of a TCP connection. It is equal to its reverse only when reversed.
type connection struct{ from, to netip.AddrPort }

func (c connection) reverse() connection { return connection{c.to, c.from} }

// heldConnections are the TCP connections of a container, with descriptors of our own of them.
type heldConnections struct {
	fds   []int
	pairs map[connection]bool // both ways
}

// holdConnections takes hold of all TCP connections of a process and its descendants.
func holdConnections(pid int) (*heldConnections, error) {
	tree, err := taskTree(pid)
	if err != nil {
		return nil, err
	}
	h := &heldConnections{pairs: map[connection]bool{}}
	for _, task := range tree {
		if err := h.take(task); err != nil {
			h.close()
			return nil, err
		}
	}
	return h, nil
}

func (h *heldConnections) take(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil // it has ended, or is a thread
	}
	if err != nil {
		return err
	}
	defer unix.Close(pidfd) //nolint:errcheck // read side
	links, err := filepath.Glob(procPath(pid, "fd", "*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		number, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			return err
		}
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
			continue // closed meanwhile
		}
		if err != nil {
			return fmt.Errorf("look into socket %d of process %d: %w", number, pid, err)
		}
		h.add(fd)
	}
	return nil
}

// add keeps a socket that is a TCP connection, and closes every other.
func (h *heldConnections) add(fd int) {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err == nil && protocol == unix.IPPROTO_TCP {
		local, lerr := unix.Getsockname(fd)
		remote, rerr := unix.Getpeername(fd)
		if c := (connection{addrPort(local), addrPort(remote)}); lerr == nil && rerr == nil {
			h.fds = append(h.fds, fd)
			h.pairs[c], h.pairs[c.reverse()] = true, true
			return
		}
	}
	unix.Close(fd) //nolint:errcheck // the process has it still
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)) //nolint:gosec // a port
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)) //nolint:gosec // a port
	}
	return netip.AddrPort{}
}

// endRepair lets the sockets send and receive again. SO_REUSEADDR, which the repair mode overwrites,
// stays off; it says nothing to a connection that exists.
func (h *heldConnections) endRepair() (err error) {
	for _, fd := range h.fds {
		on, gerr := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR)
		if gerr != nil || on == 0 {
			continue // closed by its other end
		}
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0))
	}
	return err
}

func (h *heldConnections) close() {
	for _, fd := range h.fds {
		unix.Close(fd) //nolint:errcheck // the process has it still
	}
}

// netLock finds and removes CRIU's rules in the network namespace of the calling thread.
type netLock struct {
	whole       bool                // the namespace was locked as a whole, and not single connections
	connections map[connection]bool // of the container, both ways
}

func (l *netLock) remove(ctx context.Context) error {
	err := l.iptables(ctx, "iptables")
	if _, serr := os.Stat("/proc/thread-self/net/if_inet6"); serr == nil {
		err = errors.Join(err, l.iptables(ctx, "ip6tables"))
	}
	return errors.Join(err, l.nftables(ctx))
}

// iptables removes CRIU's rules of one family. A program that is not installed can have made none.
func (l *netLock) iptables(ctx context.Context, tool string) error {
	rules, err := filterTool(ctx, "", tool+"-save", "-t", "filter")
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	jumps, chain := l.chosen(rules)
	if len(jumps) > 0 {
		// Two steps: iptables-nft does not delete a chain and what jumps to it at once.
		if _, err := filterTool(ctx, restoreInput(jumps...), tool+"-restore", "-w", "--noflush"); err != nil {
			return err
		}
	}
	if !chain {
		return nil
	}
	_, err = filterTool(ctx, restoreInput(":"+lockName+" - [0:0]", "-X "+lockName), tool+"-restore", "-w", "--noflush")
	return err
}

func restoreInput(lines ...string) string {
	return "*filter\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
}

// chosen gives, of what iptables-save printed, the rules to delete, as commands that do, and whether CRIU's chain is there.
func (l *netLock) chosen(rules string) (deletions []string, chain bool) {
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		rule, ok := strings.CutPrefix(line, "-A ")
		switch {
		case l.whole && line == "-A "+lockName+" -m mark --mark "+lockMark+" -j ACCEPT":
			chain = true
		case !ok:
		case l.whole && strings.HasSuffix(rule, " -j "+lockName), !l.whole && l.locksOurs(rule):
			deletions = append(deletions, "-D "+rule)
		}
	}
	if l.whole && !chain {
		return nil, false // somebody else's chain of that name
	}
	return deletions, chain
}

// locksOurs tells whether a rule is CRIU's lock of one of the container's connections: -s ADDRESS -d ADDRESS
// -p tcp -m mark ! --mark 0xc114 -m tcp --sport PORT --dport PORT -j DROP, the matches in any order.
func (l *netLock) locksOurs(rule string) bool {
	if !strings.Contains(rule, " -m mark ! --mark "+lockMark+" ") || !strings.HasSuffix(rule, " -j DROP") {
		return false
	}
	options := map[string]string{}
	fields := strings.Fields(rule)
	for i := 0; i+1 < len(fields); i++ {
		options[fields[i]] = fields[i+1]
	}
	from, ferr := ruleEnd(options["-s"], options["--sport"])
	to, terr := ruleEnd(options["-d"], options["--dport"])
	return ferr == nil && terr == nil && l.connections[connection{from, to}]
}

// ruleEnd reads an address, which may have the length of its prefix behind it, and a port.
func ruleEnd(address, port string) (netip.AddrPort, error) {
	address, _, _ = strings.Cut(address, "/")
	a, err := netip.ParseAddr(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(a, uint16(n)), err
}

// nftables removes the tables of a CRIU.
func (l *netLock) nftables(ctx context.Context) error {
	tables, err := filterTool(ctx, "", "nft", "list", "tables")
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(tables) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "table inet ")
		if !ok || !strings.HasPrefix(name, lockName+"-") {
			continue
		}
		if !l.whole {
			content, err := filterTool(ctx, "", "nft", "--numeric", "list", "table", "inet", name)
			if err != nil {
				return err
			}
			if !l.namesOurs(content) {
				continue
			}
		}
		if _, err := filterTool(ctx, "", "nft", "delete", "table", "inet", name); err != nil {
			return err
		}
	}
	return nil
}

// namesOurs tells whether one of the container's connections is in the sets of a table, whose elements are
// ADDRESS . PORT . ADDRESS . PORT.
func (l *netLock) namesOurs(table string) bool {
	words := strings.FieldsFunc(table, func(r rune) bool { return strings.ContainsRune(" \t\n,{}=", r) })
	for i := 0; i+6 < len(words); i++ {
		if words[i+1] != "." || words[i+3] != "." || words[i+5] != "." {
			continue
		}
		from, ferr := ruleEnd(words[i], words[i+2])
		to, terr := ruleEnd(words[i+4], words[i+6])
		if ferr == nil && terr == nil && l.connections[connection{from, to}] {
			return true
		}
	}
	return false
}

// filterTool runs one of the programs that CRIU locks the network with, in the network namespace of the
// calling thread, and gives what it prints.
func filterTool(ctx context.Context, input, name string, args ...string) (string, error) {
	path := findProgram(name)
	if path == "" {
		return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // one of the names above
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath, "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no Ctrl-C in the middle
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
