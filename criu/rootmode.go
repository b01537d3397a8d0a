package criu

import (
	"fmt"
	"io/fs"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"google.golang.org/protobuf/proto"
)

// RootMode gives the permissions that a container's root directory had when it was dumped, if a task
// had it open, as its root or working directory: CRIU insists on them. Engines do not agree: images
// of containers/storage have a root of mode 0555, others of 0755, and few archives say which.
func RootMode(imagesDir string) (mode fs.FileMode, known bool, err error) {
	files, err := readFiles(imagesDir)
	if err != nil {
		return 0, false, err
	}
	for _, f := range files {
		if isRoot(f) {
			return fs.FileMode(f.GetReg().GetMode()) & fs.ModePerm, true, nil
		}
	}
	return 0, false, nil
}

func isRoot(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == "/" && f.GetReg().Mode != nil }

// SetRootMode lets images be restored where the container's root directory has other permissions. All entries but that
// directory's are the same bytes as before.
func SetRootMode(imagesDir string, mode fs.FileMode) error {
	out, err := rewritten(imagesDir, FilesImage, magicFiles, func(e *fdinfo.FileEntry) (keep, changed bool) {
		if !isRoot(e) {
			return true, false
		}
		e.Reg.Mode = proto.Uint32(e.GetReg().GetMode()&^uint32(fs.ModePerm) | uint32(mode.Perm()))
		return true, true
	})
	if err != nil {
		return err
	}
	if err := writeImage(imagesDir, FilesImage, out); err != nil {
		return fmt.Errorf("write %s: %w", FilesImage, err)
	}
	return nil
}
