package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/oci/runtime"
	"github.com/ckarchive/ckarchive/registry"
)

// base is the pristine root file system that a difference is applied to.
type base struct {
	text string // for people
	// copyTo makes a copy of it in a directory that is empty or not there yet.
	copyTo func(ctx context.Context, dir string) error
}

// storedPrefix is before the name of an image of containers/storage, as skopeo has it.
const storedPrefix = "containers-storage:"

// checkBase tells early that a diff lacks what it is a diff of, and finds it.
func (r *restore) checkBase(ctx context.Context) (string, error) {
	switch {
	case r.cmd.Rootfs != "":
		_, err := baseDirectory(r.cmd.Rootfs)
		return r.cmd.Rootfs + " (changed in place)", err
	case r.cmd.Base != "":
		var err error
		if r.base, err = r.givenBase(ctx); err != nil {
			return "", err
		}
		return "a copy of " + r.base.text, nil
	case r.meta.Rootfs != nil && r.meta.Rootfs.Method == "whole":
		return "all of it is in the archive", nil
	case r.ownBundle():
		return "that of the bundle " + r.bundle, nil
	}
	var err error
	if r.base, err = r.knownBase(ctx); err != nil {
		return "", err
	}
	if r.base != nil {
		return "a copy of " + r.base.text, nil
	}
	return "", r.missingBase()
}

// missingBase says what is missing, and how to get it.
func (r *restore) missingBase() error {
	what := "the base root file system"
	hint := "give a copy of it with --rootfs DIR, which is changed, or the pristine one with --base DIR, which is copied"
	switch b := r.meta.Base; {
	case b == nil:
	case b.Image != "":
		what = fmt.Sprintf("the base image %q", b.Image)
		hint = fmt.Sprintf("fetch it with --base %s, or give its root file system with --base DIR", b.Image)
		named := func(i runtime.StoredImage) bool { return slices.Contains(i.Names, b.Image) }
		if slices.ContainsFunc(runtime.StoredImages(r.cmd.Storage), named) {
			hint = fmt.Sprintf("the image of that name on this host is another one; fetch %s, and give its root file system with --base DIR", cmp.Or(b.Manifest, b.ImageID, b.Image))
		}
	case b.Path != "":
		what = fmt.Sprintf("the base, %q on the dumping host,", b.Path)
	}
	return withHint(&environmentError{fmt.Errorf("%s is missing: the archive holds only what differs from it", what)}, hint)
}

// baseDirectory wants a directory.
func baseDirectory(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(abs); err != nil || !info.IsDir() {
		return "", withHint(fmt.Errorf("root file system %q: %w", abs, archive.ErrNotFound), "name a directory with the root file system that the container was started from")
	}
	return abs, nil
}

// givenBase is what --base names: a directory, or an image.
func (r *restore) givenBase(ctx context.Context) (*base, error) {
	if name, ok := strings.CutPrefix(r.cmd.Base, storedPrefix); ok {
		b, err := r.storedBase(func(i runtime.StoredImage) bool {
			return slices.Contains(i.Names, name) || strings.HasPrefix(i.Base.ImageID, "sha256:"+strings.TrimPrefix(name, "sha256:"))
		})
		if err != nil || b != nil {
			return b, err
		}
		return nil, withHint(fmt.Errorf("image %q of containers/storage: %w", name, archive.ErrNotFound), "podman images shows what is there")
	}
	loc, err := parseLocation(r.cmd.Base)
	if info, serr := os.Stat(r.cmd.Base); serr == nil && info.IsDir() {
		loc, err = location{kind: locationFile, text: r.cmd.Base}, nil
	}
	if err != nil {
		return nil, err
	}
	switch loc.kind {
	case locationFile:
		dir, err := baseDirectory(r.cmd.Base)
		return &base{text: dir, copyTo: func(ctx context.Context, to string) error { return rootfs.CopyTree(ctx, dir, to) }}, err
	case locationLayout:
		store, err := registry.OpenStore(ctx, loc.path, registry.StoreOptions{})
		if err != nil {
			return nil, err
		}
		return r.imageBase(ctx, store, store, loc.tag, loc.text)
	case locationArchive:
		from, err := registry.OpenStoreArchive(ctx, loc.path)
		if err != nil {
			return nil, err
		}
		r.unlock = append(r.unlock, func() { _ = from.Close() }) // read only
		return r.imageBase(ctx, nil, from, loc.tag, loc.text)
	case locationName:
		return r.namedBase(ctx, loc)
	default:
		return nil, usagef("--base %s: want a directory, %sIMAGE, oci:DIR[:TAG], oci-archive:FILE[:TAG] or the name of an image", loc.text, storedPrefix)
	}
}

// namedBase is an image by its name: of the local store, of containers/storage, or of its registry.
func (r *restore) namedBase(ctx context.Context, loc location) (*base, error) {
	if r.cmd.Pull != "always" {
		store, err := r.app.openStore(ctx, false)
		if err == nil {
			_, err = store.Resolve(ctx, loc.storeName())
		}
		if errors.Is(err, registry.ErrNotFound) {
			b, err := r.storedBase(func(i runtime.StoredImage) bool { return slices.Contains(i.Names, loc.ref.String()) })
			if err != nil || b != nil {
				return b, err
			}
		}
	}
	store, err := r.app.fetched(ctx, loc, sourceOptions{Pull: r.cmd.Pull, Remote: r.cmd.remoteFlags})
	if err != nil {
		return nil, err
	}
	return r.imageBase(ctx, store, store, loc.storeName(), loc.text)
}

// knownBase looks for the image that the archive names, and takes it for nothing but its digests.
// It is nil if it is not on this host.
func (r *restore) knownBase(ctx context.Context) (*base, error) {
	want := r.meta.Base
	if want == nil || want.ImageID == "" && want.Manifest == "" && len(want.DiffIDs) == 0 {
		return nil, nil //nolint:nilnil // nothing to look for
	}
	if b, err := r.storedBase(func(runtime.StoredImage) bool { return true }); err != nil || b != nil {
		return b, err
	}
	store, err := r.app.openStore(ctx, false)
	if errors.Is(err, registry.ErrNotFound) || want.Manifest == "" {
		return nil, nil //nolint:nilnil // there is no store
	}
	if err != nil {
		return nil, err
	}
	if _, err := store.Resolve(ctx, want.Manifest); errors.Is(err, registry.ErrNotFound) {
		return nil, nil //nolint:nilnil // it is not in the store
	}
	return r.imageBase(ctx, store, store, want.Manifest, cmp.Or(want.Image, want.Manifest))
}

// storedBase is the image of containers/storage that is meant and is the archive's, or nil.
func (r *restore) storedBase(meant func(runtime.StoredImage) bool) (*base, error) {
	var other error
	for _, i := range runtime.StoredImages(r.cmd.Storage) {
		if !meant(i) {
			continue
		}
		text := storedPrefix + cmp.Or(append(slices.Clone(i.Names), strings.TrimPrefix(i.Base.ImageID, "sha256:"))...)
		if err := r.wantBase(i.Base, text); err != nil {
			other = err
			continue
		}
		layers, err := i.Layers()
		if err != nil {
			return nil, err
		}
		return &base{text: text, copyTo: func(ctx context.Context, dir string) error { return rootfs.CopyLayers(ctx, layers, dir) }}, nil
	}
	if r.cmd.Base == "" {
		return nil, nil //nolint:nilnil // nobody has named one
	}
	return nil, other
}

// wantBase refuses an image that is not the one the archive is a difference of.
func (r *restore) wantBase(have archive.Base, text string) error {
	want := r.meta.Base
	if want == nil || want.ImageID == "" && want.Manifest == "" && len(want.DiffIDs) == 0 || want.Same(have) {
		return nil
	}
	return withHint(&environmentError{fmt.Errorf("base image %s is not the one of the container: it has ID %s, and %s is wanted", text, have.ImageID, cmp.Or(want.ImageID, want.Manifest))},
		"give the very image, or a root file system that you know to be the same as a directory")
}

// imageBase is an image of a layout. Its blobs are held in store, unless that is nil.
func (r *restore) imageBase(ctx context.Context, store *registry.Store, from oras.ReadOnlyTarget, name, text string) (*base, error) {
	if store != nil {
		hold, err := store.Hold(ctx)
		if err != nil {
			return nil, err
		}
		r.unlock = append(r.unlock, func() { _ = hold.Close() }) // read only
	}
	desc, err := from.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	image, err := artifact.OpenBase(ctx, from, desc)
	if err != nil {
		return nil, fmt.Errorf("base %s: %w", text, err)
	}
	if err := r.wantBase(image.Base(), text); err != nil {
		return nil, err
	}
	return &base{text: text, copyTo: func(ctx context.Context, dir string) error { return unpackImage(ctx, image, dir) }}, nil
}

// unpackImage applies the layers of an image to an empty directory. Every layer is proven; what came
// of one that was not is the caller's to remove.
func unpackImage(ctx context.Context, image *artifact.BaseImage, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return err
	}
	return image.Layers(ctx, func(ctx context.Context, layer io.Reader) error {
		// As engines do: an image may have device nodes, which its containers may not open.
		return rootfs.Apply(ctx, dir, layer, nil, rootfs.ApplyOptions{AllowDevices: true})
	})
}
