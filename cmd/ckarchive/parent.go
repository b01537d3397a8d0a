package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
)

// destination is a DEST with the way to it.
type destination struct {
	location
	remote remoteFlags
}

// has tells whether DEST has a checkpoint. What cannot be looked into has nothing: if it cannot be written to either, that is
// told later.
func (d *destination) has(ctx context.Context, a *app, desc ocispec.Descriptor) (there bool, err error) {
	switch d.kind {
	case locationName:
		var repo *registry.Repository
		if repo, err = a.client(d.remote).Repository(d.ref.String()); err == nil {
			there, err = repo.Exists(ctx, desc)
		}
	case locationLayout:
		var store *registry.Store
		if store, err = registry.OpenStore(ctx, d.path, registry.StoreOptions{}); err == nil {
			there, err = store.Exists(ctx, desc)
		}
	}
	if errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrDenied) {
		return false, nil
	}
	return there, err
}

// parentCheckpoint is an earlier checkpoint that is not cleaned up meanwhile.
type parentCheckpoint struct {
	*artifact.Native
	hold io.Closer
}

// Close closes it; a nil one is none.
func (p *parentCheckpoint) Close() error {
	if p == nil || p.hold == nil {
		return nil
	}
	hold := p.hold
	p.hold = nil
	return errors.Join(p.Native.Close(), hold.Close())
}

// openParent opens the checkpoint that opts name, or the last one of the container, or gives nil.
func (a *app) openParent(ctx context.Context, store *registry.Store, opts formOptions) (*parentCheckpoint, error) {
	switch {
	case opts.NoParent && opts.Parent != "":
		return nil, usagef("--parent and --no-parent exclude each other")
	case opts.NoParent:
		return nil, nil //nolint:nilnil // there may be none
	case opts.Parent != "":
		parent, err := a.openNamedParent(ctx, opts.Parent, opts.decrypt(a))
		if err != nil {
			return nil, fmt.Errorf("parent %s: %w", opts.Parent, err)
		}
		return parent, nil
	}
	last, err := a.lastCheckpoint(ctx, store, opts)
	if last == "" || err != nil {
		return nil, err
	}
	parent, err := openNative(ctx, store, last, opts.decrypt(a))
	if err != nil {
		a.warn("the last checkpoint of container %q cannot be used, all of the memory is stored: %v", opts.Of.Container.ID, err)
		return nil, nil //nolint:nilnil // it is only a help
	}
	return parent, nil
}

// openNamedParent opens the parent that the command line names, in the local store or a layout.
func (a *app) openNamedParent(ctx context.Context, text string, open archive.Decrypter) (*parentCheckpoint, error) {
	loc, err := parseLocation(text)
	if err != nil {
		return nil, err
	}
	switch loc.kind {
	case locationLayout:
		store, err := registry.OpenStore(ctx, loc.path, registry.StoreOptions{})
		if err != nil {
			return nil, err
		}
		return openNative(ctx, store, loc.tag, open)
	case locationName:
		store, err := a.openStore(ctx, true)
		if err != nil {
			return nil, err
		}
		return openNative(ctx, store, loc.storeName(), open)
	default:
		return nil, &usageError{err: errors.New("it is in no store"), hint: "name a checkpoint of the local store, or oci:DIR[:TAG]"}
	}
}

// openNative opens a checkpoint of the native form, and keeps the store's garbage collection away.
func openNative(ctx context.Context, store *registry.Store, name string, open archive.Decrypter) (_ *parentCheckpoint, err error) {
	hold, err := store.Hold(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, hold.Close())
		}
	}()
	desc, err := store.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	native, err := artifact.OpenNative(ctx, store, desc, artifact.OpenOptions{Decrypt: open})
	if err != nil {
		return nil, err
	}
	return &parentCheckpoint{native, hold}, nil
}

// maxParents is how many earlier checkpoints are looked for where a new one goes.
const maxParents = 10

// lastCheckpoint finds the newest checkpoint in the native form that is of the same container and
// earlier, by its digest. It is one that the destination has, if there is one.
func (a *app) lastCheckpoint(ctx context.Context, store *registry.Store, opts formOptions) (string, error) {
	if opts.Of.Container.ID == "" {
		return "", nil
	}
	earlier, err := earlierCheckpoints(ctx, store, opts)
	if err != nil {
		return "", err
	}
	for _, desc := range earlier[:min(len(earlier), maxParents)] {
		if opts.For == nil {
			return desc.Digest.String(), nil
		}
		there, err := opts.For.has(ctx, a, desc)
		if err != nil {
			return "", err
		}
		if there {
			return desc.Digest.String(), nil
		}
	}
	return "", nil
}

// earlierCheckpoints are those of the same container, the newest first: those with names, and those that were pushed to the
// same repository from files.
func earlierCheckpoints(ctx context.Context, store *registry.Store, opts formOptions) ([]ocispec.Descriptor, error) {
	list, err := store.List(ctx)
	if err == nil && opts.For != nil && opts.For.kind == locationName {
		var pushed []registry.Named
		pushed, err = store.Seen(ctx, opts.For.ref)
		list = append(list, pushed...)
	}
	if err != nil {
		return nil, err
	}
	created := map[digest.Digest]time.Time{}
	var earlier []ocispec.Descriptor
	for _, n := range list {
		if n.Err != nil || n.ConfigType != artifact.NativeConfig || n.Annotations[artifact.AnnotationContainer] != opts.Of.Container.ID {
			continue
		}
		at, err := time.Parse(time.RFC3339, n.Annotations[ocispec.AnnotationCreated])
		_, known := created[n.Descriptor.Digest]
		if err == nil && !known && (opts.Of.Created.IsZero() || at.Before(opts.Of.Created)) {
			created[n.Descriptor.Digest] = at
			earlier = append(earlier, n.Descriptor)
		}
	}
	slices.SortStableFunc(earlier, func(a, b ocispec.Descriptor) int { return created[b.Digest].Compare(created[a.Digest]) })
	return earlier, nil
}
