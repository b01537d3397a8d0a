package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// collectBesides archives directories that the container's engine made for it and bound into it.
func (x *export) collectBesides(ctx context.Context, dir string) error {
	if shm := x.engineShm(); shm != "" {
		if err := archiveTree(ctx, shm, dir, archive.DevShmTar); err != nil {
			return fmt.Errorf("archive the shared memory in %q: %w", shm, err)
		}
	}
	if !x.cmd.Volumes {
		return nil
	}
	volumes := namedVolumes(x.ctr)
	if len(volumes) == 0 {
		return nil
	}
	into := filepath.Join(dir, archive.VolumesDir)
	if err := os.Mkdir(into, 0o700); err != nil {
		return err
	}
	for _, v := range volumes {
		err := archiveTree(ctx, v.source, into, v.Name+".tar")
		if err != nil && !errors.Is(err, os.ErrExist) { // it may be mounted in two places
			return fmt.Errorf("archive the volume %q: %w", v.Name, err)
		}
		x.meta.Volumes = append(x.meta.Volumes, v.Volume)
	}
	return nil
}

// archiveTree writes all of a directory to a new tar, uncompressed.
func archiveTree(ctx context.Context, tree, dir, name string) error {
	return createIn(dir, name, func(f *os.File) error {
		_, err := rootfs.Directory(ctx, f, "", tree, rootfs.Options{})
		return err
	})
}

// createIn writes a new file.
func createIn(dir, name string, write func(*os.File) error) (err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}

// engineShm is the directory that the container's engine made for it alone and bound to /dev/shm, or empty.
func (x *export) engineShm() string {
	if x.ctr.Engine == "" {
		return ""
	}
	return boundShm(x.ctr.Spec)
}

const devShm = "/dev/shm"

// boundShm is the directory that is bound to /dev/shm, or empty. With the host's own there the container has what is others' too.
func boundShm(spec *specs.Spec) string {
	for _, m := range spec.Mounts {
		if m.Destination == devShm && archive.IsBind(m) && filepath.Clean(m.Source) != devShm {
			return m.Source
		}
	}
	return ""
}

// mountedVolume is a named volume with its directory on this host.
type mountedVolume struct {
	archive.Volume
	source string
}

// namedVolumes are those of Podman and Docker, which keep them as volumes/NAME/_data, in the order of the mounts.
func namedVolumes(ctr *runtime.Container) []mountedVolume {
	if ctr.Engine != runtime.Podman && ctr.Engine != runtime.Docker {
		return nil
	}
	var all []mountedVolume
	for _, m := range ctr.Spec.Mounts {
		volume, found := strings.CutSuffix(filepath.Clean(m.Source), "/_data")
		name := filepath.Base(volume)
		clean, err := archive.CleanName(name)
		if found && err == nil && clean == name && filepath.Base(filepath.Dir(volume)) == "volumes" && archive.IsBind(m) {
			all = append(all, mountedVolume{archive.Volume{Name: name, Path: m.Destination}, m.Source})
		}
	}
	return all
}
