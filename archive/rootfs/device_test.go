package rootfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// A device node wants a grant of its own, by its path in the container.
func TestDeviceGrants(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "./data/disk", Typeflag: tar.TypeBlock, Devmajor: 8, Devminor: 1}), w.Close()); err != nil {
		t.Fatal(err)
	}
	check := func(grant string) error {
		return rootfs.Check(t.Context(), bytes.NewReader(b.Bytes()), rootfs.ApplyOptions{Device: func(name string) bool { return name == grant }})
	}
	var device *rootfs.DeviceError
	for _, err := range []error{check("/data"), rootfs.Check(t.Context(), bytes.NewReader(b.Bytes()), rootfs.ApplyOptions{})} {
		if !errors.Is(err, archive.ErrRejected) || !errors.As(err, &device) || *device != (rootfs.DeviceError{Name: "/data/disk", Block: true, Major: 8, Minor: 1}) {
			t.Errorf("not granted, and the error is %v", err)
		}
	}
	if err := check("/data/disk"); err != nil {
		t.Errorf("granted, and the error is %v", err)
	}
}
