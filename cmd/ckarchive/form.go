package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
)

// The forms of a checkpoint in a store or registry.
const (
	formNative = "native"
	formImage  = "image"
)

// formFlags say in which form a checkpoint is stored.
type formFlags struct {
	To       string `help:"Form in a store or registry: native, of which a later checkpoint stores only what changed, or image, which other engines read; native unless it is stored as an image already." enum:",native,image" default:"" placeholder:"native|image"`
	NoParent bool   `help:"Store all of the memory, whatever earlier checkpoints of the container hold."`
}

// storeWriter makes a checkpoint in a store.
type storeWriter interface {
	archive.Sink
	Descriptor() ocispec.Descriptor
}

// formOptions adjust newStoreWriter.
type formOptions struct {
	formFlags
	Parent      string              // as the command line names it; empty for the last checkpoint of the same container
	Of          archive.Metadata    // of the checkpoint, as far as it is known
	Compression archive.Compression // of an image's layer
	Tag         string
	Encrypt     *crypt.Recipients // nil: it is not encrypted
}

// newStoreWriter begins a checkpoint in store.
func (a *app) newStoreWriter(ctx context.Context, store *registry.Store, opts formOptions) (storeWriter, error) {
	if opts.To == formImage && opts.Encrypt != nil {
		return nil, &usageError{err: errors.New("an image is for other engines, and they read nothing that is encrypted"), hint: "leave out --to image, or --encrypt"}
	}
	if opts.To == formImage {
		if opts.Parent != "" {
			return nil, usagef("an image holds all of the memory: leave out --parent %s, or --to image", opts.Parent)
		}
		return artifact.NewWriter(ctx, store, artifact.WriterOptions{Compression: opts.Compression, Tag: opts.Tag})
	}
	if opts.Compression != "" && opts.Compression != archive.Zstd {
		return nil, &usageError{
			err:  fmt.Errorf("the native form is packed with zstd, not with %s", opts.Compression),
			hint: "leave out --compress, or add --to image",
		}
	}
	parent, err := a.openParent(ctx, store, opts)
	if err != nil {
		return nil, err
	}
	native := artifact.NativeOptions{Tag: opts.Tag, Encrypt: opts.Encrypt}
	if parent != nil {
		native.Parent = parent.Native
	}
	w, err := artifact.NewNativeWriter(ctx, store, native)
	if parent == nil || err != nil {
		return w, errors.Join(err, parent.Close())
	}
	return &childWriter{NativeWriter: w, parent: parent}, nil
}

// decrypt opens the parent. That of a checkpoint in plain form is of no use if it is encrypted.
func (o formOptions) decrypt(a *app) archive.Decrypter {
	if o.Encrypt == nil {
		return nil
	}
	return a.decrypt
}

// childWriter closes the parent with its child.
type childWriter struct {
	*artifact.NativeWriter
	parent *parentCheckpoint
}

func (w *childWriter) Close() error {
	return errors.Join(w.NativeWriter.Close(), w.parent.Close())
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
	last, err := lastCheckpoint(ctx, store, opts.Of)
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

// lastCheckpoint finds the newest checkpoint in the native form that is of the same container and
// earlier, by its digest.
func lastCheckpoint(ctx context.Context, store *registry.Store, of archive.Metadata) (string, error) {
	if of.Container.ID == "" {
		return "", nil
	}
	named, err := store.List(ctx)
	if err != nil {
		return "", err
	}
	last, newest := "", time.Time{}
	for _, n := range named {
		if n.Err != nil || n.ConfigType != artifact.NativeConfig || n.Annotations[artifact.AnnotationContainer] != of.Container.ID {
			continue
		}
		created, err := time.Parse(time.RFC3339, n.Annotations[ocispec.AnnotationCreated])
		if err == nil && created.After(newest) && (of.Created.IsZero() || created.Before(of.Created)) {
			last, newest = n.Descriptor.Digest.String(), created
		}
	}
	return last, nil
}
