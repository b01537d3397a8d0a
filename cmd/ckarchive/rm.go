package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/ckarchive/ckarchive/registry"
)

// rmCmd removes names.
type rmCmd struct {
	Names []string `arg:"" name:"name" predictor:"name" help:"Names or digests of the local store."`
}

// Run implements the command.
func (c *rmCmd) Run(ctx context.Context, a *app) error {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	for _, s := range c.Names {
		name, err := storedName(s)
		if err == nil {
			err = removeName(ctx, store, name)
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", s, err)
		}
		if err := a.printResult(name, transferResult{Reference: name}); err != nil {
			return err
		}
	}
	return nil
}

// removeName removes a name, and with the last one of a checkpoint its signatures.
func removeName(ctx context.Context, store *registry.Store, name string) error {
	desc, err := store.Resolve(ctx, name)
	if err != nil {
		return err
	}
	if err := store.Untag(ctx, name); err != nil {
		return err
	}
	named, err := store.List(ctx)
	if err != nil {
		return err
	}
	suffix := ":" + signature.Tag(desc.Digest)
	var signed []string
	for _, n := range named {
		if n.Descriptor.Digest == desc.Digest {
			return nil
		}
		if n.ArtifactType == signature.ArtifactType && strings.HasSuffix(n.Name, suffix) {
			signed = append(signed, n.Name)
		}
	}
	for _, n := range signed {
		err = errors.Join(err, store.Untag(ctx, n))
	}
	return err
}
