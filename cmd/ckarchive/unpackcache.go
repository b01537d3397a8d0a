package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/cache"
	"github.com/ckarchive/ckarchive/registry"
)

// cacheSizeFlag bounds the cache of unpacked checkpoints.
type cacheSizeFlag struct {
	CacheSize string `help:"Room on the disk for unpacked checkpoints, which make the next restore of the same one short; 0 keeps none." default:"${cachesize}" env:"CKARCHIVE_CACHE_SIZE" placeholder:"SIZE"`
}

// defaultCacheSize is that of --cache-size.
const defaultCacheSize = "10GiB"

// bytes is the room, 0 or more.
func (f cacheSizeFlag) bytes() (int64, error) {
	n, err := units.RAMInBytes(cmp.Or(f.CacheSize, defaultCacheSize))
	if err != nil {
		return 0, usagef("--cache-size %s: %w", f.CacheSize, err)
	}
	return n, nil
}

// The values of --cache.
const (
	cacheAuto   = "auto"
	cacheAlways = "always"
	cacheNever  = "never"
)

// openCache opens the cache of unpacked checkpoints.
func (a *app) openCache(f cacheSizeFlag) (*cache.Cache, error) {
	limit, err := f.bytes()
	if err != nil {
		return nil, err
	}
	return cache.Open(a.cacheDir(), cache.Options{Limit: limit, Maker: "ckarchive/" + versionString()})
}

// cached is what the cache knows this checkpoint by.
type cached struct {
	key    string // empty: it is none for the cache
	origin cache.Origin
}

// inCache settles what the cache knows this checkpoint by, when its head has been read.
func (r *restore) inCache(ctx context.Context) cached {
	if r.cached == nil {
		r.cached = &cached{}
		if origin, ok := r.origin(ctx); ok && r.forCache() {
			*r.cached = cached{cache.Key(r.head[archive.MetadataFile], origin), origin}
		}
	}
	return *r.cached
}

// forCache tells whether the checkpoint is one that the cache may have.
func (r *restore) forCache() bool {
	stored := r.loc.kind == locationName || r.loc.kind == locationLayout
	size, err := r.cmd.bytes()
	switch {
	case err != nil || size == 0 || r.cmd.Cache == cacheNever || r.cmd.freesImages() != "":
		return false
	case len(r.meta.Members) == 0:
		return false // without digests nothing says what it is
	case r.ownBundle():
		return false // it may name a configuration that frees images
	case r.sandboxed():
		return false // it is runsc's affair what it does with its images
	case ownUsers(r.spec):
		return false // the container's root user is let into the images: they are for it alone
	case r.cmd.Cache == cacheAlways:
		return true
	}
	return stored && !isEncrypted(r.src)
}

// ownUsers tells whether the container has a user namespace.
func ownUsers(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace
	})
}

// isEncrypted tells whether the content of src is encrypted where it comes from.
func isEncrypted(src archive.Source) bool {
	e, ok := unwrap[interface{ Encrypted() bool }](src)
	return ok && e.Encrypted()
}

// fromCache lays out an unpacked checkpoint that an earlier restore left. A cache that fails is as good as
// none.
func (r *restore) fromCache(ctx context.Context, p *progress, dir string) bool {
	if r.spec == nil {
		return false // its head is not known
	}
	key := r.inCache(ctx).key
	if key == "" {
		return false
	}
	c, err := r.app.openCache(r.cmd.cacheSizeFlag)
	if err == nil && c.Has(key) {
		p.begin("from the cache", 0)
		r.wasCached, err = c.Use(ctx, key, dir)
	}
	if err != nil {
		r.wasCached = false
		r.app.warn("%v; the checkpoint is unpacked anew", err)
		if err := archive.RemoveTree(dir); err != nil {
			r.app.warn("%v", err)
		}
	}
	r.shared = r.wasCached
	return r.wasCached
}

// toCache keeps what was unpacked for the next restore.
func (r *restore) toCache(ctx context.Context, dir string) {
	known := r.inCache(ctx)
	if known.key == "" {
		return
	}
	c, err := r.app.openCache(r.cmd.cacheSizeFlag)
	if err == nil {
		err = c.Add(ctx, known.key, dir, known.origin)
	}
	switch {
	case err == nil:
		r.shared = true
	case errors.Is(err, cache.ErrTooLarge) || errors.Is(err, cache.ErrNoRoom):
		r.app.say("%v", err)
	default:
		r.app.warn("%v", err)
	}
}

// origin tells where the checkpoint is, if that can be told again later.
func (r *restore) origin(ctx context.Context) (cache.Origin, bool) {
	dir, name := r.app.cli.Root, ""
	switch r.loc.kind {
	case locationName:
		name = r.loc.storeName()
	case locationLayout:
		dir, name = r.loc.path, r.loc.tag
	case locationFile:
		o, err := cache.FileOrigin(r.loc.path)
		return o, err == nil
	default:
		return cache.Origin{}, false
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return cache.Origin{}, false
	}
	store, err := registry.OpenStore(ctx, dir, registry.StoreOptions{})
	if err != nil {
		return cache.Origin{}, false
	}
	desc, err := store.Resolve(ctx, name)
	return cache.Origin{Store: dir, Digest: desc.Digest.String()}, err == nil
}

// unpackedNeed is the room for the unpacked members, in bytes: a cached checkpoint has it.
func (r *restore) unpackedNeed(ctx context.Context) int64 {
	if key := r.inCache(ctx).key; key != "" {
		if c, err := r.app.openCache(r.cmd.cacheSizeFlag); err == nil && c.Has(key) {
			return 0
		}
	}
	need := int64(0)
	for _, m := range r.meta.Members {
		need += m.Size
	}
	return need
}

// consumes tells whether CRIU may free the memory in the images while it restores: nobody else has them.
func (r *restore) consumes() bool { return !r.shared }

// freesImages gives the configuration of CRIU that has it free memory in the images while it restores
// them, which nobody else may have then; empty if there is none.
func (c *restoreCmd) freesImages() string {
	// CRIU's own, those of the runtimes, and the user's: https://criu.org/Configuration_files
	for _, path := range []string{c.CRIUConfig, "/etc/criu/default.conf", "/etc/criu/runc.conf", "/etc/criu/crun.conf", "/root/.criu/default.conf"} {
		if path == "" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			continue // CRIU does without it as well
		}
		for line := range strings.Lines(string(b)) {
			if words := strings.Fields(line); len(words) > 0 && strings.TrimLeft(words[0], "-") == "auto-dedup" {
				return path
			}
		}
	}
	return ""
}
