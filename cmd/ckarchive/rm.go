package main

import (
	"context"
	"fmt"
)

// rmCmd removes names.
type rmCmd struct {
	Names []string `arg:"" name:"name" help:"Names or digests of the local store."`
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
			err = store.Untag(ctx, name)
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
