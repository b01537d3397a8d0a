package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ckarchive/ckarchive/archive"
)

// importCmd brings an archive into the local store.
type importCmd struct {
	Source string `arg:"" name:"src" predictor:"checkpoint" help:"The checkpoint, of any engine: a file, a directory, -, oci:DIR[:TAG] or oci-archive:FILE[:TAG]."`
	Name   string `arg:"" optional:"" help:"Its name in the store; by default that of the container."`
	knownFlags
	Bundle string `help:"Bundle of the container, for images that come without its configuration." type:"path" placeholder:"DIR"`
	formFlags
	Parent string `help:"Earlier checkpoint in the store of which only the changes are stored; by default the last one of the container." placeholder:"REF"`
	encryptFlags
	Compress string `help:"zstd, gzip or none, of an image." default:"zstd" placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
}

// Help is the long help text.
func (importCmd) Help() string {
	return `Archives and images of Podman, CRI-O, the kubelet and containerd are recognised by their content, and so are the image directories of runc, crun, youki and Docker. What such a checkpoint does not say is said with a flag, and never made up. In the store its members have digests.`
}

// Run implements the command.
func (c *importCmd) Run(ctx context.Context, a *app) (err error) {
	src, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	if src.kind == locationName {
		return &usageError{err: fmt.Errorf("%s is a name", c.Source), hint: "ckarchive pull fetches from a registry, ckarchive tag gives another name"}
	}
	compression, err := archive.ParseCompression(c.Compress)
	if err != nil {
		return &usageError{err: err}
	}
	known, err := c.known(c.Bundle)
	if err != nil {
		return fmt.Errorf("import %s: %w", c.Source, err)
	}
	recipients, err := c.recipients(a)
	if err != nil {
		return err
	}
	src, both, err := c.joined(ctx, src)
	if err != nil {
		return cause(ctx, fmt.Errorf("import %s: %w", c.Source, err))
	}
	defer func() { err = errors.Join(err, both.Close()) }()
	in, err := a.openSource(ctx, src, sourceOptions{Known: known, Digests: true})
	if err != nil {
		return fmt.Errorf("import %s: %w", c.Source, err)
	}
	head, in, err := peekNamed(ctx, in, c.Source)
	if err != nil {
		return err
	}
	name := c.Name
	if name == "" {
		name = nameFromHead(head)
	}
	ref, err := parseName(name)
	if err != nil {
		return errors.Join(withHint(err, "give the name in the store as second argument"), in.Close())
	}
	out, err := a.createSink(ctx, location{kind: locationName, ref: ref}, sinkOptions{
		Compression: compression, Encrypt: recipients, formFlags: c.formFlags, Parent: c.Parent, Of: metaFromHead(head),
	})
	if err != nil {
		return errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, out, in, "import"); err != nil {
		return cause(ctx, fmt.Errorf("import %s: %w", c.Source, err))
	}
	return a.printResult(out.result(), transferResult{Digest: out.result(), Reference: ref.String()})
}
