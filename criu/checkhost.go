package criu

import (
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/creds"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

const cgroupImage = "cgroup.img"

// capabilityNames are the capabilities of Linux in the order of their numbers.
const capabilityNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
	"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE " +
	"SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL " +
	"SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"

// checkCapabilities rejects a task that would get capabilities which the spec
// does not bound: CRIU gives what the image says.
func checkCapabilities(name string, c *creds.CredsEntry, spec *specs.Spec) error {
	if spec == nil || spec.Process == nil || c == nil {
		return nil
	}
	var bounding []string
	if spec.Process.Capabilities != nil {
		bounding = spec.Process.Capabilities.Bounding
	}
	names := strings.Fields(capabilityNames)
	for _, set := range [][]uint32{c.GetCapInh(), c.GetCapPrm(), c.GetCapEff(), c.GetCapBnd(), c.GetCapAmb()} {
		for word, w := range set {
			for w != 0 {
				n := word*32 + bits.TrailingZeros32(w)
				w &= w - 1
				if n >= len(names) {
					return imageError(name, "task has the unknown capability %d", n)
				}
				if !slices.Contains(bounding, "CAP_"+names[n]) {
					return imageError(name, "task has CAP_%s, which the spec does not grant", names[n])
				}
			}
		}
	}
	return nil
}

// checkMountImages rejects mounts that CRIU would make from anything but the
// images or what it is given: a file system of a device of the host.
func checkMountImages(dir string, names []string) error {
	for _, name := range names {
		if !isMountImage(name) {
			continue
		}
		mounts, err := readEntries[mnt.MntEntry](dir, name, magicMounts)
		if err != nil {
			return err
		}
		given := map[uint32]bool{} // devices that the restorer supplies
		for _, m := range mounts {
			if m.GetExtKey() != "" || m.GetExtMount() || imagePath(m.GetMountpoint()) == "/" {
				given[m.GetRootDev()] = true
			}
		}
		for _, m := range mounts {
			if given[m.GetRootDev()] {
				continue
			}
			typ := mnt.Fstype(m.GetFstype()) //nolint:gosec // an enum
			switch typ {
			case mnt.Fstype_AUTO, mnt.Fstype_UNSUPPORTED, mnt.Fstype_SIMFS, mnt.Fstype_AUFS:
				return imageError(name, "mount point %s: file system type %v of source %s is not one of a container",
					archive.QuoteName(m.GetMountpoint()), typ, archive.QuoteName(m.GetSource()))
			}
		}
	}
	return nil
}

func isMountImage(name string) bool {
	return strings.HasPrefix(name, "mountpoints-") && strings.HasSuffix(name, ".img")
}

// imagePath makes a path of an image ("./proc" in old ones, "/proc") absolute and clean.
func imagePath(p string) string { return filepath.Clean("/" + strings.TrimPrefix(p, ".")) }

// checkCgroupImage rejects names that are not plain: CRIU opens them for writing as root.
func checkCgroupImage(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, cgroupImage)); os.IsNotExist(err) {
		return nil
	}
	entries, err := readEntries[cgroup.CgroupEntry](dir, cgroupImage, magicCgroup)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, set := range e.GetSets() {
			for _, m := range set.GetCtls() {
				if !strings.HasPrefix(m.GetPath(), "/") || m.GetPath() != filepath.Clean(m.GetPath()) {
					return imageError(cgroupImage, "path %s", archive.QuoteName(m.GetPath()))
				}
				if !plainName(m.GetName()) && m.GetName() != "" {
					return imageError(cgroupImage, "controller %s", archive.QuoteName(m.GetName()))
				}
			}
		}
		for _, ctl := range e.GetControllers() {
			for _, n := range ctl.GetCnames() {
				if n != "" && !plainName(n) {
					return imageError(cgroupImage, "controller %s", archive.QuoteName(n))
				}
			}
			if err := checkCgroupDirs(ctl.GetDirs(), true); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkCgroupDirs checks a tree of cgroups. Only the topmost are named by a path.
func checkCgroupDirs(dirs []*cgroup.CgroupDirEntry, top bool) error {
	for _, d := range dirs {
		name := d.GetDirName()
		ok := plainName(name)
		if top {
			trimmed := strings.TrimPrefix(name, "/")
			ok = trimmed == "" || trimmed == filepath.Clean(trimmed) && filepath.IsLocal(trimmed)
		}
		if !ok {
			return imageError(cgroupImage, "directory %s", archive.QuoteName(name))
		}
		for _, p := range d.GetProperties() {
			if !plainName(p.GetName()) {
				return imageError(cgroupImage, "property %s", archive.QuoteName(p.GetName()))
			}
		}
		if err := checkCgroupDirs(d.GetChildren(), false); err != nil {
			return err
		}
	}
	return nil
}

func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// checkFilters rejects packet filter rules for a container in the host's network
// namespace: CRIU would load them there.
func checkFilters(dir string, names []string, spec *specs.Spec) error {
	if spec == nil || hasNamespace(spec, specs.NetworkNamespace) {
		return nil
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "iptables-") && !strings.HasPrefix(name, "ip6tables-") && !strings.HasPrefix(name, "nftables-") {
			continue
		}
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if fi.Size() > 0 {
			return imageError(name, "packet filter rules, and the container is in the host's network namespace")
		}
	}
	return nil
}

func hasNamespace(spec *specs.Spec, typ specs.LinuxNamespaceType) bool {
	_, ok := namespacePath(spec, typ)
	return ok
}

// namespacePath gives the path of a namespace of the spec; empty for a new one.
func namespacePath(spec *specs.Spec, typ specs.LinuxNamespaceType) (path string, ok bool) {
	if spec == nil || spec.Linux == nil {
		return "", false
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == typ {
			return n.Path, true
		}
	}
	return "", false
}
