package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ckarchive/ckarchive/archive"
)

// flattenCmd stores a checkpoint whole that was stored as changes of others.
type flattenCmd struct {
	Source string `arg:"" name:"src" predictor:"name" help:"A name or digest of the local store."`
	Name   string `arg:"" optional:"" help:"Name of the whole checkpoint; by default that of SRC."`
	encryptFlags
}

// Help is the long help text.
func (flattenCmd) Help() string {
	return `A checkpoint names all that it needs, so that removing its parents never breaks it. But it keeps what it shares with them, pages of theirs included that it no longer uses. ckarchive flatten writes it anew without a parent.`
}

// Run implements the command.
func (c *flattenCmd) Run(ctx context.Context, a *app) error {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	from, err := storedName(c.Source)
	if err != nil {
		return err
	}
	to := c.Name
	if to == "" {
		to = c.Source
	}
	ref, err := parseName(to)
	if err != nil {
		return err
	}
	if ref.Digest != "" {
		return &usageError{err: fmt.Errorf("%s has a digest, and the whole checkpoint will have another", to), hint: "give it a name as second argument"}
	}
	recipients, err := c.recipients(a)
	if err != nil {
		return err
	}
	if encrypted, err := storedEncrypted(ctx, store, from); err != nil {
		return err
	} else if encrypted && recipients == nil {
		return &usageError{err: fmt.Errorf("%s is encrypted, and would not be any more", c.Source), hint: "name the recipients with --encrypt"}
	}
	in, err := a.openHeld(ctx, store, from, openOptions{})
	if err != nil {
		return err
	}
	out, err := a.newStoreSink(ctx, store, ref.String(), sinkOptions{Compression: archive.Zstd, Encrypt: recipients, formFlags: formFlags{NoParent: true}})
	if err != nil {
		return errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, out, in, "flatten"); err != nil {
		return cause(ctx, fmt.Errorf("flatten %s: %w", c.Source, err))
	}
	return a.printResult(out.result(), transferResult{Digest: out.result(), Reference: ref.String()})
}
