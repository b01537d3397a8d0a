package criu

import "io/fs"

// RootMode gives the permissions that a container's root directory had when it was dumped, if a task
// had it open, as its root or working directory: CRIU insists on them. Engines do not agree: images
// of containers/storage have a root of mode 0555, others of 0755, and few archives say which.
func RootMode(imagesDir string) (mode fs.FileMode, known bool, err error) {
	files, err := readFiles(imagesDir)
	if err != nil {
		return 0, false, err
	}
	for _, f := range files {
		if reg := f.GetReg(); reg.GetName() == "/" && reg.Mode != nil {
			return fs.FileMode(reg.GetMode()) & fs.ModePerm, true, nil
		}
	}
	return 0, false, nil
}
