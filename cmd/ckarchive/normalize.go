package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

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
	if len(candidates) == 0 && meta.Rootfs != nil && !forContainerd(to) {
		return nil
	}
	want := func(e archive.Entry) bool { return isSmallImage(e) || wantShm(e, to, &spec) }
	files, err := archive.Collect(ctx, rest, archive.CollectOptions{Want: want, MaxBytes: maxInspectBytes})
	if err != nil {
		return err
	}
	shm := files[archive.DevShmTar]
	delete(files, archive.DevShmTar)
	return withImages(files, func(dir string) error {
		if to.Without, err = criu.DropMounts(dir, candidates); err != nil {
			return err
		}
		a.tellNormalized(meta.Container.Engine, candidates, to.Without)
		if err := a.adaptRoot(dir, to); err != nil {
			return err
		}
		content, err := adaptShm(dir, to, &spec)
		if err != nil {
			return err
		}
		a.tellNeeded(to, &spec)
		if to.Images, err = changedImages(dir, files); err != nil || content == "" {
			return err
		}
		to.Images[archive.Image(content)], err = packShm(shm, meta.Created)
		return err
	})
}

// tellNeeded says what has to be on the host of containerd's client, which makes nothing that was an engine's.
func (a *app) tellNeeded(to *foreign.ConvertOptions, spec *specs.Spec) {
	if to.Target != foreign.ForClient {
		return
	}
	for _, path := range foreign.NeededByClient(spec, slices.Concat(to.Without, to.OwnTmpfs)) {
		a.warn("%s is not in the archive, and has to be on the host where ctr restores it", archive.QuoteName(path))
	}
}

// forContainerd tells whether containerd makes the root directory, through the CRI or for its client.
func forContainerd(to *foreign.ConvertOptions) bool {
	return to.Target == foreign.ForContainerd || to.Target == foreign.ForClient
}

// wantShm tells of the content of a /dev/shm that the target does not bind into the container.
func wantShm(e archive.Entry, to *foreign.ConvertOptions, spec *specs.Spec) bool {
	return e.Name == archive.DevShmTar && lacksShm(to, spec)
}

// lacksShm tells whether the target has nothing to bind to a /dev/shm that an engine had bound into the container.
func lacksShm(to *foreign.ConvertOptions, spec *specs.Spec) bool {
	return to.Target == foreign.ForClient && boundShm(spec) != ""
}

// adaptShm makes of the /dev/shm that an engine had bound into the container one that CRIU makes: containerd's client has none
// to put there. It gives the image that has to hold its content, if there is to be one.
func adaptShm(dir string, to *foreign.ConvertOptions, spec *specs.Spec) (string, error) {
	if !lacksShm(to, spec) {
		return "", nil
	}
	content, err := criu.OwnTmpfs(dir, devShm)
	if content != "" {
		to.OwnTmpfs = []string{devShm}
	}
	return content, err
}

// packShm gives a tar of a directory as CRIU wants it. Of an archive that does not say what was in it the directory is empty.
func packShm(content []byte, created time.Time) ([]byte, error) {
	var packed bytes.Buffer
	gz, err := archive.Compress(&packed, archive.Gzip)
	if err != nil {
		return nil, err
	}
	if content == nil {
		w := tar.NewWriter(gz)
		h := &tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o1777, ModTime: created, Format: tar.FormatPAX}
		err = errors.Join(w.WriteHeader(h), w.Close())
	} else {
		_, err = gz.Write(content)
	}
	err = errors.Join(err, gz.Close())
	return packed.Bytes(), err
}

// adaptRoot lets the images fit the target's root directory, or notes what that has to be.
func (a *app) adaptRoot(dir string, to *foreign.ConvertOptions) error {
	mode, known, err := criu.RootMode(dir)
	switch {
	case err != nil || !known:
		return err
	case !forContainerd(to):
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
