package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

// knownFlags say of a checkpoint of another engine what is not in it.
type knownFlags struct {
	ContainerName string `help:"Name of the container, if the checkpoint does not say it or to give it another." placeholder:"NAME"`
	ContainerID   string `name:"container-id" help:"ID of the container, likewise." placeholder:"ID"`
	BaseImage     string `help:"Name of the image that the container was made from, likewise." placeholder:"NAME"`
	BaseID        string `name:"base-id" help:"ID of that image: the digest of its config." placeholder:"DIGEST"`
	Spec          string `help:"The container's OCI runtime configuration, for images that come without one." type:"path" placeholder:"FILE"`
	previousFlag
}

// known reads what the flags name. bundle is the container's, and may be empty.
func (f *knownFlags) known(bundle string) (foreign.Known, error) {
	k := foreign.Known{ID: f.ContainerID, Name: f.ContainerName, Base: archive.Base{Image: f.BaseImage, ImageID: f.BaseID}}
	file := f.specFile(bundle)
	switch {
	case f.Spec != "" && bundle != "":
		return k, usagef("--spec and --bundle exclude each other: a bundle holds the configuration")
	case file == "":
		return k, nil
	}
	var err error
	if k.Spec, err = os.ReadFile(file); errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("runtime configuration %q: %w", file, archive.ErrNotFound)
	}
	return k, err
}

// specFile is the file with the container's configuration, if one is named.
func (f *knownFlags) specFile(bundle string) string {
	if bundle != "" {
		return filepath.Join(bundle, "config.json")
	}
	return f.Spec
}

// recognise finds an OCI layout behind a plain path, by its content.
func recognise(ctx context.Context, src location) (location, error) {
	if src.kind != locationFile {
		return src, nil
	}
	info, err := os.Stat(src.path)
	switch {
	case err != nil:
		return src, nil //nolint:nilerr // opening it tells better
	case info.IsDir():
		if _, err := os.Lstat(filepath.Join(src.path, ocispec.ImageLayoutFile)); err == nil {
			src.kind = locationLayout
		}
		return src, nil
	case !info.Mode().IsRegular():
		return src, nil
	}
	f, err := archive.OpenFile(src.path, archive.ReaderOptions{})
	if errors.Is(err, archive.ErrEncrypted) {
		return src, nil // a layout is never encrypted as a whole
	}
	if err != nil {
		return src, err
	}
	defer f.Close() //nolint:errcheck // read only
	e, _, err := f.Next(ctx)
	if err == nil && (e.Name == ocispec.ImageLayoutFile || e.Name == ocispec.ImageIndexFile || e.Name == ocispec.ImageBlobsDir || path.Dir(path.Dir(e.Name)) == ocispec.ImageBlobsDir) {
		src.kind = locationArchive
	}
	return src, nil
}

// openStream reads standard input. A checkpoint of another engine is not in the archive's
// order: it is kept to be read again.
func (a *app) openStream(ctx context.Context, opts foreign.Options) (_ archive.Source, err error) {
	if isTerminal(a.stdin) {
		return nil, &usageError{errors.New("no archive is read from a terminal"), "pipe it to standard input, or name a file"}
	}
	replay := archive.NewReplay(a.stdin, "")
	defer func() {
		if err != nil {
			err = errors.Join(err, replay.Close())
		}
	}()
	stream, err := archive.NewReader(replay, archive.ReaderOptions{Decrypt: a.decrypt})
	if err != nil {
		return nil, err
	}
	head, rest, err := archive.Peek(ctx, stream)
	if err != nil {
		return nil, errors.Join(err, stream.Close())
	}
	if _, own := head[archive.MetadataFile]; own {
		if err := replay.Close(); err != nil {
			return nil, errors.Join(err, rest.Close())
		}
		return rest, nil
	}
	if err := rest.Close(); err != nil {
		return nil, err
	}
	path, err := replay.Rest(ctx)
	if err != nil {
		return nil, err
	}
	in, err := foreign.Open(ctx, func(context.Context) (archive.Source, error) {
		return archive.OpenFile(path, archive.ReaderOptions{Decrypt: a.decrypt})
	}, opts)
	if err != nil {
		return nil, err
	}
	return &ownedSource{Source: in, owner: replay}, nil
}

func unpackTo(ctx context.Context, dir string, src archive.Source) (err error) {
	out, err := archive.CreateDir(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := archive.Copy(ctx, out, src, archive.CopyOptions{}); err != nil {
		return err
	}
	return out.Commit(ctx)
}
