package criu

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// Kinds of external objects, as [archive.External] names them.
const (
	kindMount = "mount" // a mount whose source is given
	kindFile  = "file"  // an open file
	kindTTY   = "tty"   // an open terminal
	kindUnix  = "unix"  // the other end of a unix socket
	kindNet   = "net"   // the network namespace
	kindPID   = "pid"   // the PID namespace
)

// procPath gives the path of a file of a process.
func procPath(pid int, elem ...string) string {
	return path.Join(append([]string{"/proc", strconv.Itoa(pid)}, elem...)...)
}

// readMounts gives the mounts of a process as it sees them.
func readMounts(pid int) ([]*mountinfo.Info, error) {
	b, err := os.ReadFile(procPath(pid, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read mounts of process %d: %w", pid, err)
	}
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(b), nil)
	if err != nil {
		return nil, fmt.Errorf("read mounts of process %d: %w", pid, err)
	}
	return infos, nil
}

// externalMounts gives the mounts of a container that CRIU cannot make again
// from the images alone, in the order of the mount table. The table is the
// authority, not the spec: runtimes mask paths and bring submounts along in
// ways that the spec does not tell.
func externalMounts(infos []*mountinfo.Info, spec *specs.Spec, ownCgroupNS bool) []archive.External {
	var ext []archive.External
	seen := map[string]bool{}
	for _, m := range infos {
		if m.Mountpoint == "/" || seen[m.Mountpoint] {
			continue
		}
		if isExternalMount(m, infos, spec, ownCgroupNS) {
			seen[m.Mountpoint] = true
			ext = append(ext, archive.External{Kind: kindMount, Key: m.Mountpoint, Path: m.Mountpoint})
		}
	}
	return ext
}

func isExternalMount(m *mountinfo.Info, all []*mountinfo.Info, spec *specs.Spec, ownCgroupNS bool) bool {
	// A bind of the spec is supplied by whoever restores, even where CRIU could copy
	// its content: Podman's /dev/shm is the root of a tmpfs of the host.
	if _, ok := specBind(spec, m.Mountpoint); ok {
		return true
	}
	switch fsType(m) {
	case "cgroup", "cgroup2":
		return m.Root != "/" && !ownCgroupNS
	case "proc", "sysfs", "mqueue", "devpts", "tmpfs", "ramfs":
		if m.Root == "/" {
			return false
		}
	}
	return !slices.ContainsFunc(all, func(x *mountinfo.Info) bool { return covers(x, m) })
}

// covers tells whether m shows a part of the file system that x shows more of.
func covers(x, m *mountinfo.Info) bool {
	return x.ID != m.ID && x.Major == m.Major && x.Minor == m.Minor && x.Mountpoint != m.Mountpoint &&
		x.Root != m.Root && strings.HasPrefix(m.Root, strings.TrimSuffix(x.Root, "/")+"/")
}

// fsType is the type of a file system without its subtype (fuse.sshfs).
func fsType(m *mountinfo.Info) string {
	t, _, _ := strings.Cut(m.FSType, ".")
	return t
}

// specBind gives the source of the spec's bind mount at a destination.
func specBind(spec *specs.Spec, dest string) (source string, ok bool) {
	if spec == nil {
		return "", false
	}
	for _, m := range spec.Mounts {
		if archive.IsBind(m) && path.Clean(m.Destination) == dest {
			source, ok = m.Source, true // the last one is on top
		}
	}
	return source, ok
}

// markDirectories notes which external mounts are directories. Paths are
// resolved inside the container: it may have put symbolic links in the way.
func markDirectories(pid int, ext []archive.External) error {
	root, err := unix.Open(procPath(pid, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root of process %d: %w", pid, err)
	}
	defer unix.Close(root) //nolint:errcheck // read side
	for i := range ext {
		if ext[i].Kind != kindMount {
			continue
		}
		fd, err := unix.Openat2(root, ext[i].Path, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			return fmt.Errorf("open mount point %q of process %d: %w", ext[i].Path, pid, err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd) //nolint:errcheck // read side
		if err != nil {
			return fmt.Errorf("stat mount point %q of process %d: %w", ext[i].Path, pid, err)
		}
		ext[i].Directory = st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	return nil
}

// sameNamespace tells whether two processes share a namespace ("cgroup", "net", ...).
func sameNamespace(a, b int, kind string) (bool, error) {
	var x, y unix.Stat_t
	for pid, st := range map[int]*unix.Stat_t{a: &x, b: &y} {
		if err := unix.Stat(procPath(pid, "ns", kind), st); err != nil {
			return false, fmt.Errorf("read %s namespace of process %d: %w", kind, pid, err)
		}
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}
