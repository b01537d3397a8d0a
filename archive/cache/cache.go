package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// Cache is a directory of unpacked checkpoints. Its methods may be used concurrently, also by
// several processes.
type Cache struct {
	dir  string
	opts Options
}

// Options adjust [Open].
type Options struct {
	// Limit is the most that the entries may take of the disk together, in bytes. Those that were
	// not used for longest go first.
	Limit int64
	// Maker names the program and its version: entries of others are not used.
	Maker string
}

// The cache leaves a tenth of the file system free.
const freeShare = 10

// lockFile guards all entries: shared for a use, exclusive for a change. Both are short.
const lockFile = "lock"

// Why a checkpoint is not kept.
var (
	ErrTooLarge = errors.New("it is larger than the cache may be")
	ErrNoRoom   = errors.New("the file system is nearly full")
)

// Open gives the cache in dir, whose parent must exist. The directory is made when the first
// checkpoint is added; one that others than its owner can reach is an error.
func Open(dir string, opts Options) (*Cache, error) {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open cache: %w", err)
	case !info.IsDir() || info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("open cache: %q is no directory of its owner alone", dir)
	}
	return &Cache{dir: dir, opts: opts}, nil
}

// Has tells whether there is an entry, without a look at it.
func (c *Cache) Has(key string) bool {
	_, err := os.Lstat(filepath.Join(c.dir, key, recordFile))
	return err == nil
}

// Use makes the directory dst with the checkpoint key, see [Share], and tells whether there was
// one. An entry that is damaged is removed. After an error dst may be there in part.
func (c *Cache) Use(ctx context.Context, key, dst string) (found bool, err error) {
	if !c.Has(key) {
		return false, nil
	}
	found, err = c.use(ctx, key, dst)
	if errors.Is(err, errUseless) {
		return false, c.remove(ctx, key)
	}
	return found, err
}

// errUseless marks an entry that has to go.
var errUseless = errors.New("the entry is of no use")

func (c *Cache) use(ctx context.Context, key, dst string) (bool, error) {
	unlock, err := c.lock(ctx, unix.LOCK_SH)
	if err != nil {
		return false, err
	}
	defer unlock()
	dir := filepath.Join(c.dir, key)
	r, _, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = r.check(dir, c.opts.Maker, archive.BootID())
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", errUseless, err)
	}
	if err := Share(ctx, dst, filepath.Join(dir, membersDir)); err != nil {
		return false, err
	}
	now := time.Now()
	return true, os.Chtimes(filepath.Join(dir, recordFile), now, now)
}

// Add keeps the unpacked checkpoint src as key, and removes others if there is no room. From then on memory
// in src must only be read. One that is there already stays. An [ErrTooLarge] or [ErrNoRoom] says that it
// is not kept.
func (c *Cache) Add(ctx context.Context, key, src string, origin Origin) error {
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cache: %w", err)
	}
	unlock, err := c.lock(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if c.Has(key) {
		return nil
	}
	// Nobody else makes one now: what has such a name is left of a process that was killed.
	temp := filepath.Join(c.dir, tempPrefix+key)
	if err := archive.RemoveTree(temp); err != nil {
		return err
	}
	r, err := makeEntry(ctx, temp, src, record{
		Version: recordVersion, Maker: c.opts.Maker, BootID: archive.BootID(), Origin: origin, Created: time.Now().UTC(),
	})
	if err == nil {
		err = c.makeRoom(ctx, r.Bytes)
	}
	if err == nil {
		err = os.Rename(temp, filepath.Join(c.dir, key))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep an unpacked checkpoint: %w", err), archive.RemoveTree(temp))
	}
	return nil
}

// tempPrefix begins the names of entries in the making.
const tempPrefix = ".new-"

// remove removes an entry that is still of no use.
func (c *Cache) remove(ctx context.Context, key string) error {
	unlock, err := c.lock(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(c.dir, key)
	if r, _, err := readRecord(dir); err == nil && r.check(dir, c.opts.Maker, archive.BootID()) == nil {
		return nil // another process made it anew
	}
	return c.drop(key)
}

// drop removes an entry, its record first: half an entry is none.
func (c *Cache) drop(key string) error {
	dir := filepath.Join(c.dir, key)
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return archive.RemoveTree(dir)
}

// lockPause is how often a waiting process looks whether a lock is free.
const lockPause = 5 * time.Millisecond

// lock takes the lock of all entries.
func (c *Cache) lock(ctx context.Context, how int) (func(), error) {
	f, err := os.OpenFile(filepath.Join(c.dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing releases; nothing was written
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock cache %q: %w", c.dir, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(lockPause):
		}
	}
}

// held is an entry as eviction sees it.
type held struct {
	key    string
	used   time.Time
	record *record // nil: it cannot be read
}

// list gives all entries, those first that were not used for longest.
func (c *Cache) list() ([]held, error) {
	dirs, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list cache: %w", err)
	}
	var all []held
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		h := held{key: d.Name()}
		if r, used, err := readRecord(filepath.Join(c.dir, d.Name())); err == nil && !strings.HasPrefix(d.Name(), tempPrefix) {
			h.record, h.used = r, used
		}
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b held) int { return a.used.Compare(b.used) })
	return all, nil
}
