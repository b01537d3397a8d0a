package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/oci/artifact"
)

// convertCmd writes a checkpoint as another engine reads it.
type convertCmd struct {
	Source string `arg:"" name:"src" predictor:"checkpoint" help:"The checkpoint, of any engine."`
	Dest   string `arg:"" help:"Where it goes: a file or -; an image to oci:DIR[:TAG] or a name of the local store."`
	To     string `help:"Who is to read it: ${enum}." enum:"universal,podman,cri-o,containerd,image,ctr" default:"universal"`
	knownFlags
	Bundle        string `help:"Bundle of the container, for images that come without its configuration." type:"path" placeholder:"DIR"`
	Normalize     bool   `help:"Leave out the mounts that the checkpoint's engine made of its own accord and others lack, as /run/.containerenv; Podman's own form keeps them." default:"true" negatable:""`
	ForContainerd bool   `help:"Name the base image as containerd looks it up; CRI-O then refuses it."`
	Compress      string `help:"zstd, gzip or none; by default what the name of a file says, and none for containerd." placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
	Force         bool   `short:"f" help:"Replace an existing file."`
	encryptFlags
	Pull string `help:"When a registry is asked: ${enum}." enum:"missing,always,never" default:"missing"`
	remoteFlags
}

// Help is the long help text.
func (convertCmd) Help() string {
	return `One form is for all: Podman, CRI-O, containerd and checkpointctl read the universal one, as a file or as an image. With the name of an engine it is also refused what that engine would refuse. What a checkpoint lacks is said with a flag: Podman wants the base image by its full name and its ID. containerd takes only uncompressed files, and looks the image up by another name than CRI-O does; ctr writes an image layout for ctr images import.`
}

// Run implements the command.
func (c *convertCmd) Run(ctx context.Context, a *app) (err error) {
	src, dest, opts, err := c.plan()
	if err != nil {
		return err
	}
	src, both, err := c.joined(ctx, src)
	if err != nil {
		return cause(ctx, fmt.Errorf("convert %s: %w", c.Source, err))
	}
	defer func() { err = errors.Join(err, both.Close()) }()
	in, err := c.open(ctx, a, src)
	if err != nil {
		return cause(ctx, fmt.Errorf("convert %s: %w", c.Source, err))
	}
	if opts.Encrypt, err = c.recipients(a); err != nil {
		return errors.Join(err, in.Close())
	}
	if c.To == "ctr" {
		if opts.Encrypt != nil {
			return errors.Join(usagef("ctr reads nothing that is encrypted: leave out --encrypt"), in.Close())
		}
		if err := a.checkPlain(dest, false); err != nil {
			return errors.Join(err, in.Close())
		}
		return c.toCtr(ctx, a, in, dest)
	}
	out, err := a.createSink(ctx, dest, opts)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, out, in, "convert"); err != nil {
		return cause(ctx, fmt.Errorf("convert %s: %w", c.Source, err))
	}
	res := transferResult{Path: out.path}
	if out.image != nil {
		res = transferResult{Digest: out.result(), Reference: c.Dest}
	}
	return a.printResult(out.result(), res)
}

// plan reads the command line.
func (c *convertCmd) plan() (src, dest location, opts sinkOptions, err error) {
	if src, err = parseLocation(c.Source); err != nil {
		return src, dest, opts, err
	}
	if dest, err = parseLocation(c.Dest); err != nil {
		return src, dest, opts, err
	}
	file := dest.kind == locationFile || dest.kind == locationStream
	switch {
	case c.To == "image" && file:
		err = &usageError{err: fmt.Errorf("%s is a file, and an image is none", c.Dest), hint: "write it to oci:DIR or to a name of the local store"}
	case c.To == "ctr" && len(given(c.Encrypt)) > 0:
		err = &usageError{err: errors.New("--to ctr writes an image layout, of which containerd's client reads nothing that is encrypted"), hint: "leave out --encrypt, or write another form"}
	case c.To == "ctr" && dest.kind != locationFile:
		err = &usageError{err: fmt.Errorf("%s is no file", c.Dest), hint: "ctr images import reads a layout from a file, and no registry takes it"}
	case c.To != "image" && !file:
		err = &usageError{err: fmt.Errorf("%s is no file", c.Dest), hint: "--to image writes images, which all engines read"}
	case dest.kind == locationName && !onlyLocal(dest.ref):
		err = &usageError{err: fmt.Errorf("%s is in a registry", c.Dest), hint: "convert to a name of the local store, and push that"}
	case c.To == foreign.Containerd && c.Compress != "" && c.Compress != string(archive.Uncompressed):
		err = usagef("containerd reads uncompressed files only: leave out --compress %s", c.Compress)
	}
	if err != nil {
		return src, dest, opts, err
	}
	opts = sinkOptions{Replace: c.Force, formFlags: formFlags{To: formImage}}
	if c.To == foreign.Containerd {
		opts.Compression = archive.Uncompressed
		return src, dest, opts, nil
	}
	opts.Compression, err = dest.compression(c.Compress)
	return src, dest, opts, err
}

// open gives the checkpoint in its new form.
func (c *convertCmd) open(ctx context.Context, a *app, src location) (archive.Source, error) {
	known, err := c.known(c.Bundle)
	if err != nil {
		return nil, err
	}
	target := foreign.Target(c.To)
	if c.To == "image" {
		target = foreign.ForAll
	}
	return a.converted(ctx, src, sourceOptions{Pull: c.Pull, Remote: c.remoteFlags, Known: known, Digests: true},
		foreign.ConvertOptions{Target: target, Known: known, ContainerdBase: c.ForContainerd}, c.Normalize && target != foreign.ForPodman)
}

// toCtr writes a layout in a file for containerd's client. It is put together in the local store, without
// a name there.
func (c *convertCmd) toCtr(ctx context.Context, a *app, in archive.Source, dest location) (err error) {
	if err := a.checkPlain(dest, false); err != nil {
		return errors.Join(err, in.Close())
	}
	store, err := a.openStore(ctx, true)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	hold, err := store.Hold(ctx)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	defer func() { err = errors.Join(err, hold.Close()) }()
	w, err := artifact.NewContainerdWriter(ctx, store)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, &sink{Sink: w}, in, "convert"); err != nil {
		return cause(ctx, fmt.Errorf("convert %s: %w", c.Source, err))
	}
	path, err := filepath.Abs(dest.path)
	if err != nil {
		return err
	}
	desc, err := writeStoreArchive(ctx, store, w.Descriptor().Digest.String(), location{path: path}, c.Force)
	if err != nil {
		return cause(ctx, fmt.Errorf("convert %s: %w", c.Source, err))
	}
	return a.printResult(path, transferResult{Digest: desc.Digest.String(), Path: path})
}

// converted gives a checkpoint as a target restores it; with normalize, without the mounts that only its
// engine makes.
func (a *app) converted(ctx context.Context, src location, from sourceOptions, to foreign.ConvertOptions, normalize bool) (archive.Source, error) {
	var kept io.Closer
	if src.kind == locationStream {
		// It may have to be read twice.
		replay := archive.NewReplay(a.stdin, "")
		path, err := replay.Rest(ctx)
		if err != nil {
			return nil, errors.Join(err, replay.Close())
		}
		src.kind, src.path, kept = locationFile, path, replay
	}
	open := func(ctx context.Context) (archive.Source, error) { return a.openSource(ctx, src, from) }
	var in archive.Source
	err := a.adapt(ctx, open, &to, normalize)
	if err == nil {
		in, err = foreign.Convert(ctx, open, to)
	}
	var missing *foreign.MissingError
	if errors.As(err, &missing) {
		err = &usageError{err: err, hint: "say it with --base-image NAME, --base-id DIGEST or, in ckarchive convert, --container-id; podman image inspect --format '{{.Id}}' NAME prints the ID"}
	}
	if kept == nil {
		return in, err
	}
	if err != nil {
		return nil, errors.Join(err, kept.Close())
	}
	return &ownedSource{Source: in, owner: kept}, nil
}
