package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/criu"
)

// ownMounts are the mounts that Podman makes of its own accord and that CRI-O's and containerd's users
// have no counterpart of: their restores end with "No mapping" for them. /etc/hosts, /etc/hostname,
// /etc/resolv.conf and /dev/shm are not among these: every engine supplies its own, and without the
// mount a container would keep the names and servers of the host that it left.
func ownMounts() []string { return []string{"/run/.containerenv", secretsDir} }

// secretsDir is where Podman and CRI-O put what is not to be in any image.
const secretsDir = "/run/secrets"

// normalize takes the engine's own mounts out of the images and the runtime configuration, so that
// engines without them restore the archive, and gives the configuration. dir has the archive's layout.
// Mounts that are in use stay, and it is said.
func (x *export) normalize(a *app, dir string) ([]byte, error) {
	spec := x.ctr.SpecJSON
	if !x.cmd.Normalize || x.ctr.Engine == "" || x.dest.kind == locationImages || x.meta.Format != archive.FormatCRIU {
		return spec, nil
	}
	candidates := ownMountsIn(x.ctr.Spec)
	if len(candidates) == 0 {
		return spec, nil
	}
	dropped, err := criu.DropMounts(filepath.Join(dir, archive.CheckpointDir), candidates)
	if err != nil {
		return nil, err
	}
	a.tellNormalized(x.ctr.Engine, candidates, dropped)
	x.meta.Externals = slices.DeleteFunc(x.meta.Externals, func(e archive.External) bool {
		return e.Kind == "mount" && slices.Contains(dropped, e.Path)
	})
	return foreign.WithoutMounts(spec, dropped)
}

// ownMountsIn are those of a container.
func ownMountsIn(spec *specs.Spec) []string {
	return slices.DeleteFunc(ownMounts(), func(dest string) bool {
		return !slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == dest && archive.IsBind(m) })
	})
}

// tellNormalized says which of an engine's own mounts are left out, and which are not.
func (a *app) tellNormalized(engine string, candidates, dropped []string) {
	for _, dest := range candidates {
		switch {
		case !slices.Contains(dropped, dest):
			a.warn("%s of %s is in use and stays in the archive: CRI-O and containerd will want a mount there", dest, engine)
		case dest == secretsDir:
			a.warn("%s of %s is left out, and no archive has what was in it: give the restored container its secrets again", dest, engine)
		default:
			a.say("%s is left out: other engines than %s have none", dest, engine)
		}
	}
}

// leaveOut finds the mounts in a checkpoint that its engine alone makes and that nothing in it depends on, for the
// checkpoint to be written without them.
func (a *app) leaveOut(ctx context.Context, open foreign.OpenFunc, to *foreign.ConvertOptions) (err error) {
	src, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	head, rest, err := archive.Peek(ctx, src)
	if err != nil {
		return err
	}
	meta, err := archive.ParseMetadata(head[archive.MetadataFile])
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := archive.DecodeJSON(archive.SpecDump, head[archive.SpecDump], &spec); err != nil {
		return err
	}
	candidates := ownMountsIn(&spec)
	if len(candidates) == 0 || meta.Format != archive.FormatCRIU {
		return nil
	}
	files, err := archive.Collect(ctx, rest, archive.CollectOptions{Want: isSmallImage, MaxBytes: maxInspectBytes})
	if err != nil {
		return err
	}
	return withImages(files, func(dir string) error {
		if to.Without, err = criu.DropMounts(dir, candidates); err != nil {
			return err
		}
		a.tellNormalized(meta.Container.Engine, candidates, to.Without)
		to.Images, err = changedImages(dir, files)
		return err
	})
}

// changedImages are the members whose images in dir have another content than before.
func changedImages(dir string, before map[string][]byte) (map[string][]byte, error) {
	changed := map[string][]byte{}
	for name, content := range before {
		after, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(after, content) {
			changed[name] = after
		}
	}
	return changed, nil
}
