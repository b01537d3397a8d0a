package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"
	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/oci/runtime"
	"github.com/ckarchive/ckarchive/registry"
)

// baseDir is the directory that --base names, or "" if it names an image.
func (f *targetFlags) baseDir() string {
	if f.Base == "" {
		return ""
	}
	path := kong.ExpandPath(f.Base)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return path
	}
	if loc, err := parseLocation(f.Base); err == nil && loc.kind == locationFile {
		return path // which is missing
	}
	return ""
}

// checkBase tells early that a diff lacks what it is a diff of.
func (r *restore) checkBase(ctx context.Context) (string, error) {
	base := r.cmd.baseDir()
	for _, dir := range []string{r.cmd.Rootfs, base} {
		if dir == "" {
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return "", withHint(fmt.Errorf("root file system %q: %w", dir, archive.ErrNotFound), "name a directory with the root file system that the container was started from")
		}
	}
	switch {
	case r.cmd.Rootfs != "":
		return r.cmd.Rootfs + " (changed in place)", nil
	case base != "":
		return "a copy of " + base, nil
	case r.cmd.Base != "":
		return "the layers of " + r.cmd.Base, r.openBase(ctx)
	case r.meta.Rootfs != nil && r.meta.Rootfs.Method == "whole":
		return "all of it is in the archive", nil
	case r.ownBundle():
		return "that of the bundle " + r.bundle, nil
	}
	what := "the base root file system"
	hint := "give a copy of it with --rootfs DIR, which is changed, or the pristine one with --base DIR, which is copied, or --base IMAGE, which is unpacked"
	if b := r.meta.Base; b != nil && b.Image != "" {
		what = fmt.Sprintf("the base image %q", b.Image)
		switch id, other := runtime.StoredImage(runtime.Host{}, *b); {
		case id != "":
			hint = fmt.Sprintf(`Podman has it on this host: give it with --base "$(podman image mount %s)"`, id)
		case other != "" && b.ImageID == "" && b.Manifest == "" && len(b.DiffIDs) == 0:
			hint = fmt.Sprintf(`an image of that name is on this host; if it is the one, give it with --base "$(podman image mount %s)"`, b.Image)
		case other != "":
			hint = fmt.Sprintf("the image of that name on this host is another one; give the right one, %s, with --base IMAGE", cmp.Or(b.Manifest, b.ImageID, b.Image))
		}
	} else if b != nil && b.Path != "" {
		what = fmt.Sprintf("the base, %q on the dumping host,", b.Path)
	}
	return "", withHint(&environmentError{fmt.Errorf("%s is missing: the archive holds only what differs from it", what)}, hint)
}

// baseImage is the image that --base names, open from the time that it is judged on: what is unpacked is what
// was judged, whatever its name means by then.
type baseImage struct {
	*artifact.Base
	closer io.Closer // what it is read from
	// tree is where it is unpacked for several containers; empty: nowhere.
	tree string
}

// openBase opens the image that --base names, which has to be the one that the checkpoint names.
func (r *restore) openBase(ctx context.Context) error {
	if r.base != nil {
		return nil // for another container of the same checkpoint
	}
	text := r.cmd.Base
	loc, err := parseLocation(text)
	if err != nil {
		return fmt.Errorf("--base %s: %w", text, err)
	}
	from, name, closer, err := r.openBaseAt(ctx, loc)
	if err != nil {
		return fmt.Errorf("base image %s: %w", text, err)
	}
	image, err := openBase(ctx, from, name)
	if err != nil {
		return errors.Join(fmt.Errorf("base image %s: %w", text, err), closer.Close())
	}
	if r.meta != nil && r.meta.Base != nil {
		if how := image.Differs(*r.meta.Base); how != "" {
			err := &environmentError{fmt.Errorf("base image %s is not the one that the container was started from: %s", text, how)}
			return errors.Join(withHint(err, "name the image by its digest; or give a directory with the root file system that the container had"), closer.Close())
		}
	}
	r.base = &baseImage{Base: image, closer: closer}
	return nil
}

// closeBase closes the image that --base names, if it was opened.
func (r *restore) closeBase() error {
	if r.base == nil {
		return nil
	}
	err := r.base.closer.Close()
	r.base = nil
	return err
}

func openBase(ctx context.Context, from oras.ReadOnlyTarget, name string) (*artifact.Base, error) {
	desc, err := from.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	return artifact.OpenBase(ctx, from, desc)
}

// openBaseAt opens the layout or repository that has an image, and says what it is called there.
func (r *restore) openBaseAt(ctx context.Context, loc location) (from oras.ReadOnlyTarget, name string, closer io.Closer, err error) {
	switch loc.kind {
	case locationLayout:
		store, err := registry.OpenStore(ctx, loc.path, registry.StoreOptions{})
		return store, loc.tag, nothing{}, err
	case locationArchive:
		layout, err := registry.OpenStoreArchive(ctx, loc.path)
		return layout, loc.tag, layout, err
	case locationName:
		if onlyLocal(loc.ref) {
			return nil, "", nil, withHint(fmt.Errorf("%w: there is no such directory, and the name has no host", archive.ErrNotFound),
				localBaseHint(loc.ref.String()))
		}
		repo, err := r.app.client(r.cmd.remoteFlags).Repository(loc.ref.String())
		return repo, loc.ref.Identifier(), nothing{}, err
	}
	return nil, "", nil, usagef("it is neither a directory nor an image")
}

// localBaseHint says what to write in place of a name without a host, which may be one of Podman's.
func localBaseHint(name string) string {
	if _, other := runtime.StoredImage(runtime.Host{}, archive.Base{Image: name}); other != "" {
		return fmt.Sprintf(`Podman has an image of that name: give it with --base "$(podman image mount %s)"`, name)
	}
	return "write HOST/REPO:TAG for one of a registry, oci:DIR:TAG for one of a layout"
}

// nothing is to be closed.
type nothing struct{}

// Close implements [io.Closer].
func (nothing) Close() error { return nil }

// closerFunc closes by a call.
type closerFunc func() error

// Close implements [io.Closer].
func (f closerFunc) Close() error { return f() }

// unpackBase makes dir the root file system of the base image. Nothing is kept of the image itself.
func (r *restore) unpackBase(ctx context.Context, dir string) error {
	granted, err := r.cmd.grantedDevices()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return refusedDevice(r.base.Layers(ctx, func(layer io.Reader) error {
		return rootfs.Apply(ctx, dir, layer, nil, rootfs.ApplyOptions{Device: granted})
	}), "in the base image")
}

// shareBase unpacks the base image once for several containers, if --base names one.
func (r *restore) shareBase(ctx context.Context, p *progress) error {
	if r.base == nil {
		return nil
	}
	p.begin("base image", 0)
	tree := filepath.Join(r.home, "base")
	if err := r.unpackBase(ctx, tree); err != nil {
		return err
	}
	r.base.tree = tree
	return nil
}

// baseNeed is the room for the base image, in bytes: at least that of its layers as they come, for each time that it is laid out.
func (r *restore) baseNeed() int64 {
	if r.base == nil {
		return 0
	}
	times := 1
	if r.cmd.Count > 0 && !rootfs.Reflinks(existing(r.app.containersDir())) {
		times += r.cmd.Count
	}
	return r.base.Bytes() * int64(times)
}

// copyBase gives the container's root file system what it was started from.
func (r *restore) copyBase(ctx context.Context) error {
	dir := r.cmd.baseDir()
	if r.base != nil {
		dir = r.base.tree
	}
	switch {
	case dir != "":
		return rootfs.CopyTree(ctx, dir, r.rootfs)
	case r.base != nil:
		return errors.Join(r.unpackBase(ctx, r.rootfs), r.closeBase())
	case r.cmd.Rootfs == "" && !r.ownBundle():
		return os.MkdirAll(r.rootfs, 0o755)
	}
	return nil
}
