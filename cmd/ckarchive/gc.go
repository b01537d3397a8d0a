package main

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/registry"
)

// gcCmd frees what no name refers to, and the bundles of containers that are gone.
type gcCmd struct {
	DryRun bool          `help:"Only tell what would be freed."`
	MinAge time.Duration `help:"Spare files that were changed less than this ago." default:"0s"`
}

// gcResult is what --json prints.
type gcResult struct {
	Blobs      int   `json:"blobs"`
	Temporary  int   `json:"temporaryFiles"`
	Bytes      int64 `json:"bytes"`
	Containers int   `json:"containers"` // of which the leftovers were removed
	Forgotten  int   `json:"forgotten"`  // archives that this host no longer remembers to have made
}

// Run implements the command.
func (c *gcCmd) Run(ctx context.Context, a *app) error {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	freed, err := store.GC(ctx, registry.GCOptions{DryRun: c.DryRun, MinAge: c.MinAge})
	if err != nil {
		return err
	}
	homes, err := a.removeHomes(ctx, c.DryRun)
	if err != nil {
		return err
	}
	forgotten, err := pruneMade(a.madeDir(), maxMade, c.DryRun)
	if err != nil {
		return err
	}
	verb := "freed"
	if c.DryRun {
		verb = "would free"
	}
	text := fmt.Sprintf("%s %s in %d blobs and %d unfinished files; %d containers cleaned up", verb, units.BytesSize(float64(freed.Bytes)), freed.Blobs, freed.TempFiles, homes)
	if forgotten > 0 {
		text += fmt.Sprintf("; %d archives no longer remembered as made here", forgotten)
	}
	return a.printResult(text, gcResult{freed.Blobs, freed.TempFiles, freed.Bytes, homes, forgotten})
}
