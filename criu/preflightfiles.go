package criu

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// defaultGhostLimit is CRIU's, in bytes.
	defaultGhostLimit = 1 << 20
	// deletedSuffix is what the kernel adds to the path of a file without its name.
	deletedSuffix = " (deleted)"
	// statBlock is the unit of a file's blocks.
	statBlock = 512
)

// Device numbers that CRIU can dump open files of, beside terminals.
const (
	majorMemory = 1 // /dev/null, /dev/zero, /dev/urandom
	majorTTYAux = 5 // /dev/tty, /dev/console, /dev/ptmx
	majorMisc   = 10
	minorTun    = 200
	minorAutofs = 235
)

// Files without a file system.
const (
	anonPrefix  = "anon_inode:"
	anonIOURing = "anon_inode:[io_uring]"
	anonBPFMap  = "anon_inode:bpf-map"
)

// anonFiles are the files without a file system that CRIU can dump.
//
//nolint:gochecknoglobals // a constant table
var anonFiles = []string{
	"anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:inotify", "anon_inode:[inotify]",
	"anon_inode:[fanotify]", "anon_inode:[signalfd]", "anon_inode:[timerfd]", "anon_inode:[pidfd]",
}

// fileSubject names an open file of a task.
func fileSubject(t taskFacts, f openFile) string {
	return fmt.Sprintf("%v, fd %d, %s", t, f.fd, f.link)
}

// files finds open files that a dump fails at or has to declare.
func (p *preflight) files() {
	for _, t := range p.survey.tasks {
		known := t.known()
		for i, f := range t.files {
			key := fmt.Sprintf("%x:%x", f.stat.Dev, f.stat.Ino)
			subject := fileSubject(t, f)
			for _, lock := range t.notes[i].locks {
				p.add("file-locks", key+lock, subject+", "+lock)
			}
			switch f.stat.Mode & unix.S_IFMT {
			case unix.S_IFSOCK:
			case unix.S_IFCHR:
				p.device(f, known, key, subject)
			case unix.S_IFBLK:
				p.add("file-type", key, subject)
			default:
				p.plainFile(t, f, known, key, subject)
			}
		}
	}
}

// device judges an open character device.
func (p *preflight) device(f openFile, known map[int]bool, key, subject string) {
	major, minor := unix.Major(f.stat.Rdev), unix.Minor(f.stat.Rdev)
	switch {
	case isTTY(f.stat.Rdev), major == majorMemory, major == majorTTYAux,
		major == majorMisc && (minor == minorTun || minor == minorAutofs):
		p.hostFile(f, known, key, subject)
	case gpuPlugin(f.link):
		p.add("gpu-plugin", key, subject)
	default:
		p.add("file-type", key, subject)
	}
}

// plainFile judges what is neither a device nor a socket.
func (p *preflight) plainFile(t taskFacts, f openFile, known map[int]bool, key, subject string) {
	switch {
	case f.link == anonIOURing:
		p.add("io-uring", fmt.Sprint(t.pid, f.fd), subject)
	case f.link == anonBPFMap:
		p.addAs(Warning, "file-type", fmt.Sprint(t.pid, f.fd), subject+", which CRIU dumps only if it was built with libbpf")
	case strings.HasPrefix(f.link, anonPrefix):
		if !slices.Contains(anonFiles, f.link) {
			p.add("file-type", fmt.Sprint(t.pid, f.fd), subject)
		}
	case !strings.HasPrefix(f.link, "/"), strings.HasPrefix(f.link, "/memfd:"):
		// pipes, namespaces and memory
	case !known[f.mountID]:
		p.hostFile(f, known, key, subject)
	default:
		p.deletedFile(t, f.link, f.stat, key, subject)
	}
}

// hostFile judges a file that may lie outside of the container's mounts.
func (p *preflight) hostFile(f openFile, known map[int]bool, key, subject string) {
	if known[f.mountID] {
		return
	}
	code := "host-file"
	if f.fd < stdioCount {
		code = "stdout-host-file"
	}
	if ext, ok := externalFile(f, known); ok {
		p.add(code, key, subject+", dumped as "+ext.Key)
		return
	}
	p.addAs(Blocker, code, key, subject+", outside of the container's mounts")
}

// deletedFile judges a file whose name may be gone. CRIU copies its content if it
// has no name at all; one with other names needs a link for the time of the dump.
func (p *preflight) deletedFile(t taskFacts, link string, st unix.Stat_t, key, subject string) {
	if !strings.HasSuffix(link, deletedSuffix) || p.unmountedFS(t, st) {
		return
	}
	if st.Nlink > 0 {
		if fd, _, err := openInside(t.pid, link, unix.O_PATH|unix.O_NOFOLLOW); err == nil {
			unix.Close(fd) //nolint:errcheck // read side
			return         // it is its name
		}
		p.add("link-remap", key, subject)
		return
	}
	limit := int64(defaultGhostLimit)
	if p.opts.GhostLimit != 0 {
		limit = int64(p.opts.GhostLimit)
	}
	size := st.Blocks * statBlock
	switch subject = fmt.Sprintf("%s, %d bytes", subject, size); {
	case size > limit:
		p.add("ghost-limit", key, fmt.Sprintf("%s, the limit is %d", subject, limit))
	case size > defaultGhostLimit:
		p.addAs(Info, "ghost-limit", key, subject)
	}
}

// unmountedFS tells whether a file is of a file system that CRIU does not look
// for names in: a process's files in proc, and terminals.
func (p *preflight) unmountedFS(t taskFacts, st unix.Stat_t) bool {
	for _, m := range t.mounts {
		if unix.Mkdev(uint32(m.Major), uint32(m.Minor)) == st.Dev { //nolint:gosec // device numbers
			return fsType(m) == "proc" || fsType(m) == "devpts"
		}
	}
	return false
}

// mappings finds mappings that a dump fails at.
func (p *preflight) mappings() {
	for _, t := range p.survey.tasks {
		for _, m := range t.mapped {
			subject := fmt.Sprintf("%v, mapping of %s", t, m.path)
			switch {
			case m.path == "[uprobes]":
				p.add("uprobes", fmt.Sprint(t.pid), subject)
			case m.path == anonIOURing:
				p.add("io-uring", fmt.Sprint(t.pid, m.span), subject)
			case memoryMapping(m.path):
			default:
				p.mappedFile(t, m, subject)
			}
		}
	}
}

// memoryMapping tells whether a mapping that seems to be of a deleted file is memory.
func memoryMapping(name string) bool {
	return slices.ContainsFunc([]string{"/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "/[aio]"}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

func (p *preflight) mappedFile(t taskFacts, m mapping, subject string) {
	var st unix.Stat_t
	if err := unix.Stat(procPath(t.pid, "map_files", m.span), &st); err != nil {
		return // unmapped meanwhile
	}
	key := fmt.Sprintf("%x:%x", st.Dev, st.Ino)
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFREG && strings.HasPrefix(m.path, "/"):
		p.deletedFile(t, m.path, st, key, subject)
	case st.Mode&unix.S_IFMT == unix.S_IFREG:
	case gpuPlugin(m.path):
		p.add("gpu-plugin", key, subject)
	default:
		p.add("device-mapping", key, subject)
	}
}

// gpuPlugin tells whether a device is a GPU's and the plugin of CRIU for it is installed.
func gpuPlugin(device string) bool {
	var plugin string
	switch {
	case strings.HasPrefix(device, "/dev/nvidia"):
		plugin = "cuda_plugin.so"
	case device == "/dev/kfd", strings.HasPrefix(device, "/dev/dri/"):
		plugin = "amdgpu_plugin.so"
	default:
		return false
	}
	for _, dir := range []string{"/usr/lib/criu", "/usr/local/lib/criu", "/usr/lib64/criu", "/usr/lib/*-linux-gnu/criu"} {
		if found, err := filepath.Glob(filepath.Join(dir, plugin)); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}
