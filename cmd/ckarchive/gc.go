package main

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/archive/cache"
	"github.com/ckarchive/ckarchive/registry"
)

// gcCmd frees what no name refers to, and the bundles of containers that are gone.
type gcCmd struct {
	DryRun bool          `help:"Only tell what would be freed."`
	MinAge time.Duration `help:"Spare files that were changed less than this ago." default:"0s"`
	Cache  bool          `help:"Remove all unpacked checkpoints that are kept for the next restore, and not only those of no use."`
	cacheSizeFlag
}

// gcResult is what --json prints.
type gcResult struct {
	Blobs      int   `json:"blobs"`
	Temporary  int   `json:"temporaryFiles"`
	Bytes      int64 `json:"bytes"`
	Containers int   `json:"containers"` // of which the leftovers were removed
	Forgotten  int   `json:"forgotten"`  // archives that this host no longer remembers to have made
	Unpacked   int   `json:"unpacked"`   // checkpoints that were kept for the next restore
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
	unpacked, err := c.evict(ctx, a)
	if err != nil {
		return err
	}
	verb := "freed"
	if c.DryRun {
		verb = "would free"
	}
	text := fmt.Sprintf("%s %s in %d blobs and %d unfinished files; %d containers cleaned up", verb, units.BytesSize(float64(freed.Bytes+unpacked.Bytes)), freed.Blobs, freed.TempFiles, homes)
	if forgotten > 0 {
		text += fmt.Sprintf("; %d archives no longer remembered as made here", forgotten)
	}
	if unpacked.Entries > 0 {
		text += fmt.Sprintf("; %d unpacked checkpoints removed", unpacked.Entries)
	}
	return a.printResult(text, gcResult{freed.Blobs, freed.TempFiles, freed.Bytes + unpacked.Bytes, homes, forgotten, unpacked.Entries})
}

// evict removes unpacked checkpoints that are of no use. A dry run finds those that are already gone.
func (c *gcCmd) evict(ctx context.Context, a *app) (cache.Evicted, error) {
	kept, err := a.openCache(c.cacheSizeFlag)
	if err != nil {
		return cache.Evicted{}, err
	}
	return kept.Evict(ctx, cache.EvictOptions{
		All: c.Cache, DryRun: c.DryRun,
		Gone: func(o cache.Origin) bool { return originGone(ctx, o) },
	})
}

// originGone tells whether a checkpoint is no longer where it was restored from. What cannot be looked for is
// gone: to unpack it again costs a moment.
func originGone(ctx context.Context, o cache.Origin) bool {
	switch {
	case o.File != "":
		now, err := cache.FileOrigin(o.File)
		return err != nil || now != o
	case o.Store == "":
		return true
	}
	store, err := registry.OpenStore(ctx, o.Store, registry.StoreOptions{})
	if err != nil {
		return true
	}
	_, err = store.Resolve(ctx, o.Digest)
	return err != nil
}
