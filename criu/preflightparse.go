package criu

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaceKinds are the kinds of namespaces of which CRIU dumps one per
// container: a task with another one stops it. Mount and network namespaces may nest.
//
//nolint:gochecknoglobals // a constant table
var namespaceKinds = []string{"user", "pid", "ipc", "uts", "cgroup", "time", "time_for_children"}

// innerIDs are the IDs of a process in its own PID namespace.
type innerIDs struct {
	pid     int
	session int // 0: the leader is outside of the namespace
}

// threadFacts are the state of a thread.
type threadFacts struct {
	state  byte
	tracer int    // the process that traces it, or 0
	waits  string // the kernel function it sleeps in, of one in state D
}

// fileNotes are the lines of fdinfo that belong to kinds of files.
type fileNotes struct {
	locks   []string // "FLOCK ADVISORY WRITE"
	watches []watch
}

// watch is a file or directory that inotify or fanotify watches.
type watch struct {
	inode      uint64
	dev        uint64 // as in struct stat
	handleType int32
	handle     []byte
}

// mapping is a file that is mapped into memory, once per path and inode.
type mapping struct {
	span string // "400000-7f3400", the name in map_files, which has no leading zeros
	path string // "/lib/x.so", "/tmp/x (deleted)", "anon_inode:[io_uring]", "[uprobes]"
}

// parseStat reads /proc/PID/stat: the name, the session and the terminal.
func parseStat(text string) (comm string, session, tty int, err error) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return "", 0, 0, fmt.Errorf("malformed stat %q", text)
	}
	f := strings.Fields(text[end+1:]) // from the state on, the third field
	const sessionField, ttyField = 6 - 3, 7 - 3
	if len(f) <= ttyField {
		return "", 0, 0, fmt.Errorf("malformed stat %q", text)
	}
	if session, err = strconv.Atoi(f[sessionField]); err != nil {
		return "", 0, 0, fmt.Errorf("malformed session %q", f[sessionField])
	}
	if tty, err = strconv.Atoi(f[ttyField]); err != nil {
		return "", 0, 0, fmt.Errorf("malformed terminal %q", f[ttyField])
	}
	return text[open+1 : end], session, tty, nil
}

// statusFields reads lines of the form "Name:\tvalue".
func statusFields(text string, visit func(name, value string)) {
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			visit(name, strings.TrimSpace(value))
		}
	}
}

// parseInnerIDs reads /proc/PID/status. The last one of a list of IDs is that of the innermost namespace.
func parseInnerIDs(text string) innerIDs {
	ids := innerIDs{pid: -1, session: -1}
	statusFields(text, func(name, value string) {
		f := strings.Fields(value)
		if len(f) == 0 {
			return
		}
		n, err := strconv.Atoi(f[len(f)-1])
		if err != nil {
			return
		}
		switch name {
		case "NSpid":
			ids.pid = n
		case "NSsid":
			ids.session = n
		}
	})
	return ids
}

func parseThread(text string) threadFacts {
	var th threadFacts
	statusFields(text, func(name, value string) {
		switch {
		case name == "State" && value != "":
			th.state = value[0]
		case name == "TracerPid":
			th.tracer, _ = strconv.Atoi(value)
		}
	})
	return th
}

// parseRollup reads /proc/PID/smaps_rollup: how many bytes a dump writes. Private
// pages are written once per process, also those that a child shares with its
// parent still; shared memory once, so that each process counts its share of it.
func parseRollup(text string) int64 {
	var sum int64
	statusFields(text, func(name, value string) {
		switch name {
		case "Anonymous", "Pss_Shmem", "Swap":
			n, err := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
			if err == nil {
				sum += n << 10
			}
		}
	})
	return sum
}

// parseMaps reads those lines of /proc/PID/maps that can matter to a dump:
// deleted files, devices, and the kernel's own mappings of files without a path.
func parseMaps(text string) []mapping {
	var mapped []mapping
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		var f [5]string // span, access, offset, device, inode
		rest := strings.TrimSuffix(line, "\n")
		for i := range f {
			f[i], rest, _ = strings.Cut(rest, " ")
		}
		name, inode := strings.TrimLeft(rest, " "), f[4]
		if !strings.HasSuffix(name, deletedSuffix) && !strings.HasPrefix(name, "/dev/") &&
			!strings.HasPrefix(name, anonPrefix) && name != "[uprobes]" {
			continue
		}
		if seen[inode+name] {
			continue
		}
		seen[inode+name] = true
		from, to, _ := strings.Cut(f[0], "-")
		mapped = append(mapped, mapping{span: strings.TrimLeft(from, "0") + "-" + strings.TrimLeft(to, "0"), path: name})
	}
	return mapped
}

var (
	// "lock:\t1: FLOCK  ADVISORY  WRITE 123 fe:00:456 0 EOF".
	lockLine = regexp.MustCompile(`(?m)^lock:\s+\d+: *(\S+)\s+(\S+)\s+(\S+) `)
	// "inotify wd:1 ino:5a sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:5a00...",
	// and the same of fanotify.
	watchLine = regexp.MustCompile(`(?m)^(?:inotify wd:\S+|fanotify) ino:([0-9a-f]+) sdev:([0-9a-f]+) .*fhandle-bytes:([0-9a-f]+) fhandle-type:([0-9a-f]+) f_handle:([0-9a-f]*)`)
)

// parseFileNotes reads the locks and watches of /proc/PID/fdinfo/FD.
func parseFileNotes(text string) fileNotes {
	var n fileNotes
	for _, m := range lockLine.FindAllStringSubmatch(text, -1) {
		n.locks = append(n.locks, strings.Join(m[1:], " "))
	}
	for _, m := range watchLine.FindAllStringSubmatch(text, -1) {
		n.watches = append(n.watches, parseWatch(m))
	}
	return n
}

// parseWatch reads the parts of a line that the pattern has found to be hexadecimal.
func parseWatch(m []string) watch {
	hex := func(s string) uint64 {
		n, _ := strconv.ParseUint(s, 16, 64) // too long a number names nothing
		return n
	}
	// The kernel's own form of a device number has 20 bits for the minor.
	const minorBits = 20
	dev := hex(m[2])
	w := watch{
		inode:      hex(m[1]),
		dev:        unix.Mkdev(uint32(dev>>minorBits), uint32(dev&(1<<minorBits-1))), //nolint:gosec // 32 bits
		handleType: int32(hex(m[4])),                                                 //nolint:gosec // 32 bits
	}
	size := int(hex(m[3]) & 0xff) // handles have at most 128 bytes
	for i := 0; i+2 <= len(m[5]) && len(w.handle) < size; i += 2 {
		w.handle = append(w.handle, byte(hex(m[5][i:i+2]))) //nolint:gosec // two digits
	}
	return w
}
