package main

import (
	"context"
	"errors"
	"fmt"

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
	// For, unless nil, is where it goes in the end. An earlier checkpoint that is not there is no parent unless it is
	// named: with its packs, more would have to be sent than of a whole checkpoint.
	For *destination
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
