package criu

import (
	"github.com/ckarchive/ckarchive/archive"
)

// ByRuntime makes an [*Error] of the failure of a runtime that used CRIU itself: logPath is
// where CRIU wrote its log. Without a log the error stays as it is.
func ByRuntime(op, logPath string, err error) error {
	e := newError(op, logPath, err)
	if len(e.Lines) == 0 {
		return err
	}
	return e
}

// ImageExternals lists what the images refer to outside the container and
// [Dumped].Externals would list, for images that a runtime made.
func ImageExternals(imagesDir string) ([]archive.External, error) {
	mounts, err := ExternalMounts(imagesDir)
	if err != nil {
		return nil, err
	}
	list := []archive.External{}
	for _, m := range mounts {
		list = append(list, archive.External{Kind: kindMount, Key: m.Key, Path: m.Mountpoint})
	}
	return list, nil
}
