package criu

import (
	"fmt"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"

	"github.com/ckarchive/ckarchive/archive"
)

// DropMounts takes external mounts out of images, so that they restore where nobody supplies these
// mounts. candidates are mount points. One that something in the images depends on stays, because
// CRIU could not restore that without it: an open file, a bound socket or a watch on it, a mount below it,
// or one that follows it. It gives the mount points that are gone, in the order of candidates. Nothing
// is written before everything was read.
func DropMounts(imagesDir string, candidates []string) (dropped []string, err error) {
	names, err := listImages(imagesDir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !isMountImage(name) })
	all, err := mountEntries(imagesDir)
	if err != nil || len(all) > maxMounts { // so many are not restored anywhere
		return nil, err
	}
	files, err := readFiles(imagesDir)
	if err != nil {
		return nil, err
	}
	for _, c := range candidates {
		mounts := mountsAt(all, c)
		if len(mounts) > 0 && !slices.ContainsFunc(mounts, func(m *mnt.MntEntry) bool { return isNeeded(m, all, files) }) {
			dropped = append(dropped, c)
		}
	}
	if len(dropped) == 0 {
		return nil, nil
	}
	written := map[string][]byte{}
	for _, name := range names {
		if written[name], err = withoutMounts(imagesDir, name, dropped); err != nil {
			return nil, err
		}
	}
	for name, content := range written {
		if err := writeImage(imagesDir, name, content); err != nil {
			return nil, fmt.Errorf("write %s: %w", archive.Image(name), err)
		}
	}
	return dropped, nil
}

// mountsAt gives the external mounts of a mount point, of all mount namespaces.
func mountsAt(all []*mnt.MntEntry, mountpoint string) []*mnt.MntEntry {
	var found []*mnt.MntEntry
	for _, m := range all {
		if isDropped(m, []string{mountpoint}) {
			found = append(found, m)
		}
	}
	return found
}

func isDropped(m *mnt.MntEntry, mountpoints []string) bool {
	return m.GetExtKey() != "" && slices.Contains(mountpoints, imagePath(m.GetMountpoint()))
}

// isNeeded tells whether anything else of the images depends on a mount.
func isNeeded(m *mnt.MntEntry, all []*mnt.MntEntry, files map[uint32]*fdinfo.FileEntry) bool {
	id := m.GetMntId()
	for _, other := range all {
		follows := m.GetSharedId() != 0 && other.GetMasterId() == m.GetSharedId()
		if other.GetParentMntId() == id && other.GetMntId() != id || follows {
			return true
		}
	}
	for _, f := range files {
		if isOn(f, m) {
			return true
		}
	}
	return false
}

// isOn tells whether an open file is on a mount, or may be: of a watch the device is known, not the mount.
func isOn(f *fdinfo.FileEntry, m *mnt.MntEntry) bool {
	id := int64(m.GetMntId())
	switch {
	case f.Reg != nil && int64(f.Reg.GetMntId()) == id,
		f.Usk != nil && int64(f.Usk.GetMntId()) == id,
		f.Bpf != nil && int64(f.Bpf.GetMntId()) == id:
		return true
	}
	for _, w := range f.GetIfy().GetWd() {
		if w.GetSDev() == m.GetRootDev() {
			return true
		}
	}
	for _, mark := range f.GetFfy().GetMark() {
		if mark.GetSDev() == m.GetRootDev() || int64(mark.GetMe().GetMntId()) == id && mark.Me != nil {
			return true
		}
	}
	return false
}

// withoutMounts gives the content of an image without some of its entries. The others are the same
// bytes as before.
func withoutMounts(dir, name string, mountpoints []string) ([]byte, error) {
	return rewritten(dir, name, magicMounts, func(m *mnt.MntEntry) (keep, changed bool) { return !isDropped(m, mountpoints), false })
}
