package criu

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"google.golang.org/protobuf/proto"
)

// OwnTmpfs lets images be restored where nobody supplies a tmpfs that was bound into the container: it becomes one of the
// container's own. It gives the name of the image that has to hold its content, a gzip tar of the directory (criu/filesystems.c,
// tmpfs_dump). Without a bind mount of a whole tmpfs at the mount point the name is empty and nothing is written. The other
// mounts are the same bytes as before.
func OwnTmpfs(imagesDir, mountpoint string) (content string, err error) {
	names, err := listImages(imagesDir)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if !isMountImage(name) {
			continue
		}
		image, device, err := ownTmpfs(imagesDir, name, mountpoint)
		if err != nil {
			return "", err
		}
		if device == 0 {
			continue
		}
		if err := writeImage(imagesDir, name, image); err != nil {
			return "", fmt.Errorf("write %s: %w", name, err)
		}
		content = fmt.Sprintf("tmpfs-dev-%d.tar.gz.img", device)
	}
	return content, nil
}

// ownTmpfs gives the new content of an image, and the device of the tmpfs if there is one.
func ownTmpfs(dir, name, mountpoint string) (image []byte, device uint32, err error) {
	image, err = rewritten(dir, name, magicMounts, func(m *mnt.MntEntry) (keep, changed bool) {
		whole := mnt.Fstype(m.GetFstype()) == mnt.Fstype_TMPFS && m.GetRoot() == "/" //nolint:gosec // an enum
		if !isDropped(m, []string{mountpoint}) || !whole {
			return true, false
		}
		device = m.GetRootDev()
		m.ExtKey, m.ExtMount = nil, nil
		m.MasterId = proto.Uint32(0) // what it followed is on the other host
		return true, true
	})
	return image, device, err
}
