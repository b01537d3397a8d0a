package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/oci/policy"
)

// buildRootfs makes the root file system of the frozen moment.
func (r *restore) buildRootfs(ctx context.Context, unpacked string) (err error) {
	if err := r.makeBundle(); err != nil {
		return err
	}
	granted, err := r.cmd.grantedDevices()
	if err != nil {
		return err
	}
	if err := r.copyBase(ctx); err != nil {
		return err
	}
	deleted, err := readDeleted(filepath.Join(unpacked, archive.DeletedFiles))
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(unpacked, archive.RootfsDiff))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	opts := rootfs.ApplyOptions{Device: func(name string) bool { return r.own || granted(name) }}
	return refusedDevice(rootfs.ApplyChecked(ctx, r.rootfs, f, deleted, opts), "among the changes of the root file system")
}

// refusedDevice names the grant for a device node that none was given for; where says in what it is.
func refusedDevice(err error, where string) error {
	var device *rootfs.DeviceError
	if errors.As(err, &device) {
		return &policy.RefusedError{Reasons: []policy.Reason{{What: device.Error(), Why: where, Grant: "--allow device:" + device.Name}}}
	}
	return err
}

// readDeleted reads the list of deletions, if there is one.
func readDeleted(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > archive.MaxJSONBytes {
		return nil, fmt.Errorf("%w: %s of %d bytes, the limit is %d", archive.ErrRejected, archive.DeletedFiles, info.Size(), archive.MaxJSONBytes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var deleted []string
	err = archive.DecodeJSON(archive.DeletedFiles, b, &deleted)
	return deleted, err
}

// writeBundle makes the bundle's config.json, unless the operator's is there.
func (r *restore) writeBundle(spec *specs.Spec) error {
	if r.ownBundle() {
		return nil
	}
	if err := r.makeBundle(); err != nil {
		return err
	}
	return r.writeConfig(spec)
}

// writeConfig writes the bundle's config.json.
func (r *restore) writeConfig(spec *specs.Spec) error {
	b, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.bundle, "config.json"), append(b, '\n'), 0o600)
}

// ownBundle tells whether the operator prepared the bundle.
func (r *restore) ownBundle() bool {
	if r.cmd.Bundle == "" || r.madeBundle {
		return false
	}
	_, err := os.Stat(filepath.Join(r.bundle, "config.json"))
	return err == nil
}

// makeBundle makes the bundle's directory where there is none.
func (r *restore) makeBundle() error {
	if _, err := os.Lstat(r.bundle); errors.Is(err, os.ErrNotExist) {
		r.madeBundle = true
	}
	return os.MkdirAll(r.bundle, 0o700)
}
