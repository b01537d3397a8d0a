package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// EvictOptions say what goes.
type EvictOptions struct {
	// All empties the cache.
	All bool
	// Gone tells of an origin that the checkpoint is no longer there: what its owner has removed is not
	// to live on here. nil: not asked.
	Gone func(Origin) bool
	// DryRun only counts.
	DryRun bool
}

// Evicted is what went.
type Evicted struct {
	Entries int
	Bytes   int64
}

// Evict removes entries that are of no use any more, and those beyond the limit.
func (c *Cache) Evict(ctx context.Context, opts EvictOptions) (Evicted, error) {
	var out Evicted
	if _, err := os.Lstat(c.dir); os.IsNotExist(err) {
		return out, nil
	}
	unlock, err := c.lock(ctx, unix.LOCK_EX)
	if err != nil {
		return out, err
	}
	defer unlock()
	all, err := c.list()
	if err != nil {
		return out, err
	}
	kept := int64(0)
	for i := len(all) - 1; i >= 0; i-- { // the last used first: it is what fits
		h := all[i]
		if stays := c.stays(h, opts); stays && kept+h.record.Bytes <= c.opts.Limit {
			kept += h.record.Bytes
			continue
		}
		out.Entries++
		if h.record != nil {
			out.Bytes += h.record.Bytes
		}
		if opts.DryRun {
			continue
		}
		if err := c.drop(h.key); err != nil {
			return out, fmt.Errorf("evict from the cache: %w", err)
		}
	}
	return out, nil
}

// stays tells whether an entry is of use.
func (c *Cache) stays(h held, opts EvictOptions) bool {
	if opts.All || h.record == nil || opts.Gone != nil && opts.Gone(h.record.Origin) {
		return false
	}
	return h.record.check(filepath.Join(c.dir, h.key), c.opts.Maker, archive.BootID()) == nil
}

// makeRoom removes entries until there is room for one of n bytes that is on the disk already.
func (c *Cache) makeRoom(ctx context.Context, n int64) error {
	if n > c.opts.Limit {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, n, c.opts.Limit)
	}
	all, err := c.list()
	if err != nil {
		return err
	}
	sum := n
	for _, h := range all {
		if h.record != nil {
			sum += h.record.Bytes
		}
	}
	for _, h := range all {
		if strings.HasPrefix(h.key, tempPrefix) {
			continue // the new one
		}
		roomy, err := c.roomy()
		if err != nil || sum <= c.opts.Limit && roomy {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.drop(h.key); err != nil {
			return err
		}
		if h.record != nil {
			sum -= h.record.Bytes
		}
	}
	roomy, err := c.roomy()
	if err == nil && !roomy {
		err = ErrNoRoom
	}
	return err
}

// roomy tells whether the file system has the room that the cache leaves to others.
func (c *Cache) roomy() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil {
		return false, fmt.Errorf("free space of %q: %w", c.dir, err)
	}
	return st.Bavail >= st.Blocks/freeShare, nil
}
