package criu

import (
	"os"
	"path"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// mountRules are what mounts of the images are held against.
type mountRules struct {
	spec  *specs.Spec
	guard []string // of [CheckOptions], those that there are here
}

func newMountRules(opts CheckOptions) mountRules {
	r := mountRules{spec: opts.Spec}
	for _, p := range opts.Guard {
		if _, err := os.Lstat(p); err == nil {
			r.guard = append(r.guard, p)
		}
	}
	return r
}

// checkMountImages rejects mounts that CRIU would make from anything but the
// images or what it is given, and those that show more of the host than the spec.
func checkMountImages(dir string, names []string, opts CheckOptions) error {
	rules := newMountRules(opts)
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
			if !given[m.GetRootDev()] && !rules.permits(fstype(m)) {
				return imageError(name, "mount point %s: file system type %v of source %s is not one of a container",
					archive.QuoteName(m.GetMountpoint()), fstype(m), archive.QuoteName(m.GetSource()))
			}
			if err := rules.checkOpen(name, m, mounts); err != nil {
				return err
			}
		}
	}
	return nil
}

func fstype(m *mnt.MntEntry) mnt.Fstype { return mnt.Fstype(m.GetFstype()) } //nolint:gosec // an enum

// permits tells whether CRIU may mount a file system by its type alone. Only these show a
// container nothing but itself and the kernel's state; a spec can name more.
func (r mountRules) permits(typ mnt.Fstype) bool {
	switch typ {
	case mnt.Fstype_PROC, mnt.Fstype_SYSFS, mnt.Fstype_TMPFS, mnt.Fstype_DEVPTS, mnt.Fstype_MQUEUE, mnt.Fstype_CGROUP, mnt.Fstype_CGROUP2:
		return true
	case mnt.Fstype_AUTO, mnt.Fstype_UNSUPPORTED, mnt.Fstype_SIMFS, mnt.Fstype_AUFS:
		return false
	}
	return r.spec == nil || r.has(strings.ToLower(typ.String()))
}

// has tells whether the spec mounts a file system of a type.
func (r mountRules) has(typ string) bool {
	return slices.ContainsFunc(r.spec.Mounts, func(m specs.Mount) bool { return m.Type == typ })
}

// writable tells whether the spec lets the container write to a file system of a type.
func (r mountRules) writable(types ...string) bool {
	return slices.ContainsFunc(r.spec.Mounts, func(m specs.Mount) bool {
		return slices.Contains(types, m.Type) && !slices.Contains(m.Options, "ro")
	})
}

// checkOpen rejects a mount of the kernel's state that is open where the spec closes it.
func (r mountRules) checkOpen(name string, m *mnt.MntEntry, all []*mnt.MntEntry) error {
	if r.spec == nil || m.GetExtKey() != "" {
		return nil
	}
	var base string
	switch fstype(m) {
	case mnt.Fstype_PROC:
		base = "/proc"
	case mnt.Fstype_SYSFS:
		base = "/sys"
		if !isReadonly(m) && !r.writable("sysfs") {
			return imageError(name, "mount point %s: /sys is writable, which the spec does not grant", archive.QuoteName(m.GetMountpoint()))
		}
	case mnt.Fstype_CGROUP, mnt.Fstype_CGROUP2:
		if !isReadonly(m) && !r.writable("cgroup", "cgroup2") {
			return imageError(name, "mount point %s: control groups are writable, which the spec does not grant", archive.QuoteName(m.GetMountpoint()))
		}
		return nil
	default:
		return nil
	}
	for _, p := range r.guard {
		at, ok := seenAt(p, base, m)
		if ok && !closed(p, at, m, all) {
			return imageError(name, "mount point %s: %s is open, which the spec does not grant", archive.QuoteName(m.GetMountpoint()), p)
		}
	}
	return nil
}

// seenAt gives where a mount shows a guarded path, or shows what is in it.
func seenAt(guarded, base string, m *mnt.MntEntry) (string, bool) {
	rel, ok := strings.CutPrefix(guarded, base)
	if !ok {
		return "", false
	}
	root, point := path.Clean("/"+m.GetRoot()), imagePath(m.GetMountpoint())
	switch {
	case root == "/":
		return path.Join(point, rel), true
	case root == rel || strings.HasPrefix(root, rel+"/"):
		return point, true
	case strings.HasPrefix(rel, root+"/"):
		return path.Join(point, strings.TrimPrefix(rel, root)), true
	}
	return "", false
}

// closed tells whether what is mounted at a place, or above it, hides the guarded path or makes it read-only.
func closed(guarded, at string, m *mnt.MntEntry, all []*mnt.MntEntry) bool {
	if isReadonly(m) && guarded != "/proc/kcore" && guarded != "/proc/keys" && guarded != "/proc/timer_list" {
		return true
	}
	found := false
	for _, other := range all {
		point := imagePath(other.GetMountpoint())
		inside := point == at || strings.HasPrefix(at, point+"/") && strings.HasPrefix(point, imagePath(m.GetMountpoint())+"/")
		if !inside || other == m {
			continue
		}
		if !isReadonly(other) && (fstype(other) == mnt.Fstype_PROC || fstype(other) == mnt.Fstype_SYSFS) && other.GetExtKey() == "" {
			return false
		}
		found = true
	}
	return found
}

func isReadonly(m *mnt.MntEntry) bool {
	return (m.GetFlags()|m.GetSbFlags())&unix.MS_RDONLY != 0
}
