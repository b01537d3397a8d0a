package criu

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// tmpfsWarnBytes is how much data in tmpfs is worth a warning: at
// [freezeTmpfsPerMiB] it adds 0.6 seconds to the freeze.
const tmpfsWarnBytes = 32 << 20

// strays finds the processes that a dump would leave out.
func (p *preflight) strays() error {
	pids, err := Strays(p.opts.PID)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		comm, err := hostProc.read(pid, "comm")
		if err != nil {
			continue // it has ended
		}
		p.add("stray-process", strconv.Itoa(pid), fmt.Sprintf("task %d (%s)", pid, strings.TrimSpace(comm)))
	}
	return nil
}

// rootfs compares the given root file system with what the container sees.
func (p *preflight) rootfs() error {
	if p.opts.Rootfs == "" {
		return nil
	}
	var given, seen unix.Stat_t
	if err := unix.Stat(p.opts.Rootfs, &given); err != nil {
		return fmt.Errorf("find root file system %q: %w", p.opts.Rootfs, err)
	}
	if err := unix.Stat(procPath(p.opts.PID, "root"), &seen); err != nil {
		return fmt.Errorf("find root of process %d: %w", p.opts.PID, err)
	}
	if given.Dev != seen.Dev || given.Ino != seen.Ino {
		p.add("rootfs-mismatch", p.opts.Rootfs, p.opts.Rootfs)
	}
	return nil
}

// tasks finds threads that cannot be stopped.
func (p *preflight) tasks() {
	for _, t := range p.survey.tasks {
		for _, th := range t.threads {
			if th.tracer != 0 {
				p.add("ptrace", strconv.Itoa(t.pid), fmt.Sprintf("%v, traced by process %d", t, th.tracer))
			}
			if th.state == 'D' && !p.survey.paused {
				p.add("freeze-timeout", strconv.Itoa(t.pid), fmt.Sprintf("%v, waiting in the kernel (%s)", t, th.waits))
			}
		}
	}
}

// isPaused tells whether a container is paused by the freezer of cgroup v1, whose
// tasks look as if they hung in the kernel. Those of cgroup v2 do not.
func isPaused(pid int) (bool, error) {
	f, err := gatherFacts(pid)
	if err != nil {
		return false, err
	}
	dir := freezeCgroup(f.hierarchies, f.cgroups, f.self)
	if dir == "" {
		return false, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
	if err != nil && !gone(err) {
		return false, fmt.Errorf("read whether the container is paused: %w", err)
	}
	return strings.TrimSpace(string(b)) == "FROZEN", nil
}

// sessions finds tasks that hang on a session outside of the container.
func (p *preflight) sessions() {
	for i, t := range p.survey.tasks {
		key := strconv.Itoa(t.pid)
		switch {
		case t.inner.session == 0:
			p.add("session-outside", key, t.String())
		case i == 0 && t.inner.session != t.inner.pid:
			p.add("shell-job", key, fmt.Sprintf("%v, of session %d", t, t.session))
		case t.tty != 0 && !p.survey.has(t.session) && p.holdsTTY(t):
			p.add("shell-job", key, fmt.Sprintf("%v, on the terminal of session %d", t, t.session))
		}
	}
}

func (p *preflight) holdsTTY(t taskFacts) bool {
	return slices.ContainsFunc(t.files, func(f openFile) bool {
		return f.stat.Mode&unix.S_IFMT == unix.S_IFCHR && isTTY(f.stat.Rdev)
	})
}

// namespaces finds tasks with namespaces of their own. Those of CRIU, which are
// this process's, it knows.
func (p *preflight) namespaces() {
	root := p.survey.first()
	for _, t := range p.survey.tasks {
		for _, kind := range namespaceKinds {
			link, own := t.links[kind], false
			if kind == "time_for_children" {
				own = link != "" && strings.TrimPrefix(link, "time_for_children:") != t.links["time"] && link != t.links["time"]
			} else if link != root.links[kind] {
				host, err := os.Readlink(path.Join(string(hostProc), "self", "ns", kind))
				own = err == nil && host != link
			}
			if own {
				p.add("nested-namespace", t.String()+kind, fmt.Sprintf("%v, %s", t, link))
			}
		}
	}
}

// mounts finds mounts that a dump treats in a way that may surprise, or not at all.
func (p *preflight) mounts() {
	root := p.survey.first()
	ownCgroupNS := true
	if same, err := sameNamespace(p.opts.PID, os.Getpid(), "cgroup"); err == nil {
		ownCgroupNS = !same
	}
	external := map[string]bool{}
	for _, m := range root.mounts {
		if strings.Contains(m.Mountpoint, "\n") {
			p.add("mount-newline", m.Mountpoint, archive.QuoteName(m.Mountpoint))
		}
	}
	for _, e := range externalMounts(root.mounts, p.opts.Spec, ownCgroupNS) {
		external[e.Path] = true
		if configWord(e.Path) != nil && !strings.Contains(e.Path, "\n") {
			p.add("mount-name", e.Path, archive.QuoteName(e.Path))
		}
		if _, bound := specBind(p.opts.Spec, e.Path); !bound && p.volume(e.Path) != "" {
			p.add("nested-mount", e.Path, e.Path+" below the volume "+p.volume(e.Path))
		}
	}
	measured := map[string]bool{} // by device: a tmpfs may be mounted twice
	for _, m := range root.mounts {
		if m.Mountpoint == "/" || external[m.Mountpoint] {
			continue
		}
		dev := fmt.Sprintf("%d:%d", m.Major, m.Minor)
		switch fsType(m) {
		case "ramfs", "hugetlbfs":
			p.add("mount-unsupported", m.Mountpoint, fmt.Sprintf("%s (%s)", m.Mountpoint, m.FSType))
		case "tmpfs":
			if v := p.volume(m.Mountpoint); v != "" {
				p.add("nested-tmpfs", m.Mountpoint, m.Mountpoint+" below the volume "+v)
			}
			if size, ok := tmpfsBytes(p.opts.PID, m); ok && !measured[dev] {
				measured[dev] = true
				p.report.Tmpfs += size
				if size > tmpfsWarnBytes {
					p.add("tmpfs-size", m.Mountpoint, fmt.Sprintf("%s, %d MiB", m.Mountpoint, size>>20))
				}
			}
		}
	}
}

// volume gives the destination of the spec's bind mount that a mount point lies
// below, or "" if there is none.
func (p *preflight) volume(mountpoint string) string {
	for dir := path.Dir(mountpoint); dir != "/"; dir = path.Dir(dir) {
		if _, ok := specBind(p.opts.Spec, dir); ok {
			return dir
		}
	}
	return ""
}

// tmpfsBytes gives how much a tmpfs of a process holds. One that is mounted over
// has no way to it.
func tmpfsBytes(pid int, m *mountinfo.Info) (int64, bool) {
	fd, st, err := openInside(pid, m.Mountpoint, unix.O_PATH)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)                                        //nolint:errcheck // read side
	if st.Dev != unix.Mkdev(uint32(m.Major), uint32(m.Minor)) { //nolint:gosec // device numbers
		return 0, false
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, false
	}
	return int64(fs.Blocks-fs.Bfree) * fs.Bsize, true //nolint:gosec // sizes of memory
}

// openInside opens a path as a process sees it; the caller closes it.
func openInside(pid int, name string, flags uint64) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	root, err := unix.Open(procPath(pid, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, err
	}
	defer unix.Close(root) //nolint:errcheck // read side
	fd, err := unix.Openat2(root, filepath.Clean("/"+name), &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd) //nolint:errcheck // read side
		return -1, st, err
	}
	return fd, st, nil
}
