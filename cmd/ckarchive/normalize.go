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

// containerdRootMode are the permissions of every container's root directory in containerd, whatever its image says.
const containerdRootMode = 0o755

// adapt finds what of a checkpoint's images keeps it from being restored by the target, for the checkpoint to be written
// otherwise: with normalize, the mounts that its engine alone makes and that nothing in it depends on; and the permissions of
// its root directory, on which CRIU insists and engines do not agree.
func (a *app) adapt(ctx context.Context, open foreign.OpenFunc, to *foreign.ConvertOptions, normalize bool) (err error) {
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
	if err != nil || meta.Format != archive.FormatCRIU {
		return err
	}
	var spec specs.Spec
	if err := archive.DecodeJSON(archive.SpecDump, head[archive.SpecDump], &spec); err != nil {
		return err
	}
	var candidates []string
	if normalize {
		candidates = ownMountsIn(&spec)
	}
	// An archive of ckarchive has the root directory among the changes of the root file system, which others apply.
	if len(candidates) == 0 && meta.Rootfs != nil && to.Target != foreign.ForContainerd {
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
		if err := a.adaptRoot(dir, to); err != nil {
			return err
		}
		to.Images, err = changedImages(dir, files)
		return err
	})
}

// adaptRoot lets the images fit the target's root directory, or notes what that has to be.
func (a *app) adaptRoot(dir string, to *foreign.ConvertOptions) error {
	mode, known, err := criu.RootMode(dir)
	switch {
	case err != nil || !known:
		return err
	case to.Target != foreign.ForContainerd:
		to.RootMode = mode
		return nil
	case mode == containerdRootMode:
		return nil
	}
	a.say("the root directory has mode %04o, and will have %04o as everywhere in containerd", mode, containerdRootMode)
	return criu.SetRootMode(dir, containerdRootMode)
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
