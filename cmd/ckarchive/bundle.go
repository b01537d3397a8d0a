package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// buildRootfs makes the root file system of the frozen moment.
func (r *restore) buildRootfs(ctx context.Context, unpacked string) (err error) {
	if err := r.makeBundle(); err != nil {
		return err
	}
	switch {
	case r.cmd.Base != "":
		if err := rootfs.CopyTree(ctx, r.cmd.Base, r.rootfs); err != nil {
			return err
		}
	case r.cmd.Rootfs == "" && !r.ownBundle():
		if err := os.MkdirAll(r.rootfs, 0o755); err != nil {
			return err
		}
	}
	deleted := []string{}
	if b, err := os.ReadFile(filepath.Join(unpacked, archive.DeletedFiles)); err == nil {
		if err := archive.DecodeJSON(archive.DeletedFiles, b, &deleted); err != nil {
			return err
		}
	}
	_, err = applyTar(ctx, r.rootfs, filepath.Join(unpacked, archive.RootfsDiff), deleted)
	return err
}

// applyTar unpacks the tar file name into dir, and tells whether there is such a file. All of it is
// checked before anything is unpacked.
func applyTar(ctx context.Context, dir, name string, deleted []string) (found bool, err error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // read only
	if err := rootfs.Check(ctx, f, rootfs.ApplyOptions{}); err != nil {
		return true, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return true, err
	}
	return true, rootfs.Apply(ctx, dir, f, deleted, rootfs.ApplyOptions{})
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
