package criu

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// ImageMount is a mount of the images that a restore has to supply.
type ImageMount struct {
	Key        string `json:"key"`        // under which CRIU asks for it
	Mountpoint string `json:"mountpoint"` // its mount point in the container
	// Mask tells that it hides a file: it is the root of a device node such as /dev/null.
	Mask bool `json:"mask,omitempty"`
	// Cgroup tells that it shows a cgroup hierarchy.
	Cgroup bool `json:"cgroup,omitempty"`
}

// ErrUnmapped says that the images need mounts for which there is no source.
var ErrUnmapped = errors.New("the images need mounts that are not given")

// ExternalMounts gives the mounts of the images that are supplied from outside,
// in the order of the images, without the root.
func ExternalMounts(imagesDir string) ([]ImageMount, error) {
	all, err := mountEntries(imagesDir)
	if err != nil {
		return nil, err
	}
	var mounts []ImageMount
	for _, m := range all {
		key := m.GetExtKey()
		if key == "" || key == "/" {
			continue
		}
		mp := imagePath(m.GetMountpoint())
		typ := mnt.Fstype(m.GetFstype()) //nolint:gosec // an enum
		mounts = append(mounts, ImageMount{
			Key: key, Mountpoint: mp, Mask: path.Base(m.GetRoot()) == "null",
			Cgroup: typ == mnt.Fstype_CGROUP || typ == mnt.Fstype_CGROUP2 || isCgroupPath(mp),
		})
	}
	return mounts, nil
}

// mountEntries gives the mounts of all mount namespaces of the images.
func mountEntries(dir string) ([]*mnt.MntEntry, error) {
	names, err := listImages(dir)
	if err != nil {
		return nil, err
	}
	var all []*mnt.MntEntry
	for _, name := range names {
		if !isMountImage(name) {
			continue
		}
		entries, err := readEntries[mnt.MntEntry](dir, name, magicMounts)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

// mapper finds the sources of external mounts on this host.
type mapper struct {
	spec     *specs.Spec
	mountMap map[string]string // by mount point; goes before everything else
	emptyDir string            // what hides directories
	cgroup   func(m ImageMount) (string, bool)
}

// source gives what a mount is made from here. Nothing of the images is used as
// a path of the host but the names of device nodes that the spec lists.
func (p mapper) source(m ImageMount) (string, bool) {
	if s, ok := p.mountMap[m.Mountpoint]; ok {
		return s, true
	}
	if s, ok := specBind(p.spec, m.Mountpoint); ok {
		return s, true
	}
	if l := p.spec.Linux; l != nil {
		if slices.Contains(l.MaskedPaths, m.Mountpoint) {
			if m.Mask {
				return devNull, true
			}
			return p.emptyDir, p.emptyDir != ""
		}
		for _, d := range l.Devices {
			if d.Path == m.Mountpoint {
				return d.Path, true
			}
		}
	}
	if slices.Contains([]string{devNull, "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}, m.Mountpoint) {
		return m.Mountpoint, true // the nodes that every container has
	}
	if m.Cgroup && p.cgroup != nil {
		return p.cgroup(m)
	}
	return "", false
}

// keyed is a CRIU key and the path that it stands for.
type keyed struct{ key, path string }

// mapAll finds the sources of all mounts and reports all that have none at once.
func (p mapper) mapAll(mounts []ImageMount) ([]keyed, error) {
	var found []keyed
	var missing []string
	byKey := map[string]string{}
	for _, m := range mounts {
		s, ok := p.source(m)
		if !ok {
			if !m.Cgroup || p.cgroup != nil {
				missing = append(missing, archive.QuoteName(m.Mountpoint))
			}
			continue // runtimes supply their cgroup mounts themselves
		}
		if old, dup := byKey[m.Key]; dup {
			if old != s {
				return nil, fmt.Errorf("map mount %s: the images give %s and another mount the same key %s, but they come from %q and %q",
					archive.QuoteName(m.Mountpoint), archive.QuoteName(m.Mountpoint), archive.QuoteName(m.Key), old, s)
			}
			continue
		}
		byKey[m.Key] = s
		found = append(found, keyed{m.Key, s})
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w: %s; map each to a path of this host", ErrUnmapped, strings.Join(missing, ", "))
	}
	return found, nil
}

// CheckMapped tells whether a restore would find a source for every mount among externals, as an
// archive lists them: an [ErrUnmapped] if not. mountMap gives sources by mount point.
func CheckMapped(spec *specs.Spec, mountMap map[string]string, externals []archive.External) error {
	_, err := mapper{spec: spec, mountMap: mountMap, emptyDir: "/"}.mapAll(externalsOf(externals))
	return err
}

// externalsOf are the external mounts as an archive lists them.
func externalsOf(externals []archive.External) (mounts []ImageMount) {
	for _, e := range externals {
		if e.Kind == kindMount && e.Path != "" {
			mounts = append(mounts, ImageMount{Key: e.Key, Mountpoint: e.Path, Cgroup: isCgroupPath(e.Path)})
		}
	}
	return mounts
}

func isCgroupPath(mountpoint string) bool {
	return mountpoint == "/sys/fs/cgroup" || strings.HasPrefix(mountpoint, "/sys/fs/cgroup/")
}

// PrepareMountpoints makes those mount points of the images that are missing in
// a root file system: CRIU needs them there and does not make them itself.
// sources are external mounts' sources by key. Nothing outside of rootfs is touched.
func PrepareMountpoints(rootfs, imagesDir string, sources map[string]string) error {
	all, err := mountEntries(imagesDir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return fmt.Errorf("prepare mount points: %w", err)
	}
	defer root.Close() //nolint:errcheck // read side
	roots := map[uint32]bool{}
	for _, m := range all {
		if imagePath(m.GetMountpoint()) == "/" {
			roots[m.GetMntId()] = true
		}
	}
	for _, m := range all {
		mp := imagePath(m.GetMountpoint())
		if mp == "/" || !roots[m.GetParentMntId()] {
			continue // it lies in a mount that CRIU fills
		}
		if err := PrepareMountpoint(root, mp, sources[m.GetExtKey()]); err != nil {
			return err
		}
	}
	return nil
}

// PrepareMountpoint makes a mount point, an absolute path in root, unless something is there: a file if
// source is one, else a directory.
func PrepareMountpoint(root *os.Root, mountpoint, source string) error {
	if err := prepareMountpoint(root, strings.TrimPrefix(mountpoint, "/"), isFile(source)); err != nil {
		return fmt.Errorf("make mount point %s in %q: %w", archive.QuoteName(mountpoint), root.Name(), err)
	}
	return nil
}

func isFile(path string) bool {
	if path == "" {
		return false
	}
	fi, err := os.Stat(path)
	return err == nil && !fi.IsDir()
}

func prepareMountpoint(root *os.Root, name string, file bool) error {
	if _, err := root.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !file {
		return makeDirs(root, name)
	}
	if err := makeDirs(root, filepath.Dir(name)); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), f.Close())
}

// makeDirs makes the directories of name that are missing, with the mode that the container's
// users need, whatever the umask.
func makeDirs(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	err := root.Mkdir(name, 0o755)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeDirs(root, filepath.Dir(name)); err != nil {
			return err
		}
		err = root.Mkdir(name, 0o755)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return root.Chmod(name, 0o755)
}
