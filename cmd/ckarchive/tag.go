package main

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// tagCmd gives a checkpoint another name.
type tagCmd struct {
	Source string `arg:"" name:"src" predictor:"name" help:"A name or digest of the local store."`
	Name   string `arg:"" help:"The new name."`
}

// Run implements the command.
func (c *tagCmd) Run(ctx context.Context, a *app) error {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	name, err := storedName(c.Source)
	if err != nil {
		return err
	}
	desc, err := store.Resolve(ctx, name)
	if err != nil {
		return err
	}
	ref, err := parseName(c.Name)
	if err != nil {
		return err
	}
	if ref.Digest != "" {
		return usagef("%s: a new name has no digest", c.Name)
	}
	if err := store.Tag(ctx, desc, ref.String()); err != nil {
		return err
	}
	return a.printResult(desc.Digest.String(), transferResult{Digest: desc.Digest.String(), Reference: ref.String()})
}

// storedName is what the store calls a name or digest of the command line.
func storedName(s string) (string, error) {
	if digest.Digest(s).Validate() == nil {
		return s, nil
	}
	ref, err := parseName(s)
	if err != nil {
		return "", err
	}
	return location{ref: ref}.storeName(), nil
}
