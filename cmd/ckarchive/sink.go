package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/registry"
)

// sink is a DEST that is being written.
type sink struct {
	archive.Sink
	file   *archive.FileSink   // of a path
	images *archive.ImagesSink // of a directory of images
	image  storeWriter         // of a layout or the local store
	store  *registry.Store
	name   string // in the store
	path   string // absolute, of a file or directory
	prior  string // the digest that name led to
}

// sinkOptions adjust createSink.
type sinkOptions struct {
	Compression archive.Compression
	Replace     bool
	Encrypt     *crypt.Recipients // nil: it is not encrypted
	Own         bool              // a temporary file, which may be in plain form
	// Parent is what an earlier dump of the container is called: a name in a store, or for a directory of
	// images the absolute path of those.
	Parent string
	// Of a store or registry.
	formFlags
	Of archive.Metadata // of the checkpoint, as far as it is known
}

// createSink begins a DEST. Nothing is seen of it before its Commit.
func (a *app) createSink(ctx context.Context, dest location, opts sinkOptions) (*sink, error) {
	if err := a.checkPlain(dest, opts.Encrypt != nil || opts.Own); err != nil {
		return nil, err
	}
	switch dest.kind {
	case locationStream:
		if isTerminal(a.stdout) {
			return nil, &usageError{errors.New("an archive is not written to a terminal"), "name a file, or pipe standard output to what takes it"}
		}
		stream := a.stdout
		a.stdout = a.stderr // what is printed there from now on would be part of the archive
		s, err := archive.NewStreamSink(stream, archive.StreamOptions{Compression: opts.Compression, Encrypt: encrypter(opts.Encrypt)})
		return &sink{Sink: s}, err
	case locationFile:
		path, err := filepath.Abs(dest.path)
		if err != nil {
			return nil, err
		}
		f, err := archive.CreateFile(path, archive.FileOptions{Compression: opts.Compression, Replace: opts.Replace, Encrypt: encrypter(opts.Encrypt)})
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				err = withHint(&environmentError{err}, "make the directory first")
			}
			return nil, err
		}
		return &sink{Sink: f, file: f, path: path}, nil
	case locationImages:
		path, err := filepath.Abs(dest.path)
		if err != nil {
			return nil, err
		}
		d, err := archive.CreateImages(path, opts.Parent)
		if err != nil {
			if errors.Is(err, archive.ErrExists) {
				err = withHint(err, "a directory of images is never replaced: remove it, or name another one")
			}
			return nil, err
		}
		return &sink{Sink: d, images: d, path: path}, nil
	case locationLayout, locationName:
		store, name, err := a.openTarget(ctx, dest)
		if err != nil {
			return nil, err
		}
		return a.newStoreSink(ctx, store, name, opts)
	default:
		return nil, usagef("%s cannot be written to directly: write to oci:DIR or to a name, and push that to it", dest.text)
	}
}

// openTarget opens the layout that dest names, or the local store, and gives the name in it.
func (a *app) openTarget(ctx context.Context, dest location) (*registry.Store, string, error) {
	if dest.kind == locationName {
		store, err := a.openStore(ctx, true)
		return store, dest.ref.String(), err
	}
	store, err := registry.OpenStore(ctx, dest.path, registry.StoreOptions{Create: true})
	name := dest.tag
	if name == "" {
		name = registry.DefaultTag
	}
	return store, name, err
}

func (a *app) newStoreSink(ctx context.Context, store *registry.Store, name string, opts sinkOptions) (*sink, error) {
	s := &sink{store: store, name: name}
	if old, err := store.Resolve(ctx, name); err == nil {
		s.prior = old.Digest.String()
	}
	w, err := a.newStoreWriter(ctx, store, formOptions{
		formFlags: opts.formFlags, Parent: opts.Parent, Of: opts.Of, Compression: opts.Compression, Tag: name, Encrypt: opts.Encrypt,
	})
	if err != nil {
		return nil, err
	}
	s.Sink, s.image = w, w
	return s, nil
}

// temporary are the files that a killed process leaves.
func (s *sink) temporary() []string {
	switch {
	case s.file != nil:
		return []string{s.file.Temporary()}
	case s.images != nil:
		return []string{s.images.Dir()}
	}
	return nil
}

// result is what a script wants to know: the digest in a store, the path of a file.
func (s *sink) result() string {
	if s.image != nil {
		return s.image.Descriptor().Digest.String()
	}
	return s.path
}

// tellPrior says what a name led to before: it may now be garbage.
func (s *sink) tellPrior(a *app) {
	if s.image != nil && s.prior != "" && s.prior != s.result() {
		a.say("%s led to %s before", s.name, s.prior)
	}
}
