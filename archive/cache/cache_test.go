package cache

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

const plenty = 1 << 30

// unpacked makes a checkpoint as a restore unpacks it.
func unpacked(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "archive")
	must(t, os.MkdirAll(filepath.Join(dir, archive.CheckpointDir), 0o700))
	for _, name := range []string{archive.MetadataFile, archive.RootfsDiff, "checkpoint/pages-1.img", "checkpoint/core-1.img"} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, bytes.Repeat([]byte(text+name), 4096), 0o600))
		then := time.Unix(1700000000, 0)
		must(t, os.Chtimes(path, then, then))
	}
	return dir
}

func open(t *testing.T, dir string, limit int64) *Cache {
	t.Helper()
	c, err := Open(dir, Options{Limit: limit, Maker: "test/1"})
	must(t, err)
	return c
}

func TestUse(t *testing.T) {
	ctx := t.Context()
	src := unpacked(t, "a")
	c := open(t, filepath.Join(t.TempDir(), "cache"), plenty)
	dst := filepath.Join(t.TempDir(), "dst")
	if found, err := c.Use(ctx, "key", dst); found || err != nil {
		t.Fatalf("an empty cache: %v, %v", found, err)
	}
	must(t, c.Add(ctx, "key", src, Origin{}))
	must(t, c.Add(ctx, "key", src, Origin{})) // again: nothing happens
	must(t, os.WriteFile(filepath.Join(src, "checkpoint/core-1.img"), []byte("changed by a restore"), 0o600))
	if found, err := c.Use(ctx, "key", dst); !found || err != nil {
		t.Fatalf("use: %v, %v", found, err)
	}
	for name, linked := range map[string]bool{
		archive.MetadataFile: false, "checkpoint/core-1.img": false,
		archive.RootfsDiff: true, "checkpoint/pages-1.img": true,
	} {
		got, err := os.ReadFile(filepath.Join(dst, name))
		must(t, err)
		if !bytes.Equal(got, bytes.Repeat([]byte("a"+name), 4096)) {
			t.Errorf("%s has other content", name)
		}
		one, err := os.Stat(filepath.Join(dst, name))
		must(t, err)
		kept, err := os.Stat(filepath.Join(c.dir, "key", membersDir, name))
		must(t, err)
		if os.SameFile(one, kept) != linked {
			t.Errorf("%s: the same file: %v, want %v", name, !linked, linked)
		}
		if !one.ModTime().Equal(time.Unix(1700000000, 0)) || one.Mode() != 0o600 {
			t.Errorf("%s: time %v, mode %v", name, one.ModTime(), one.Mode())
		}
	}
	info, err := os.Stat(c.dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the cache has mode %v", info.Mode())
	}
}

func TestKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.tar")
	must(t, os.WriteFile(file, []byte("one"), 0o600))
	was, err := FileOrigin(file)
	must(t, err)
	seen := map[string]string{}
	note := func(what string, meta string, o Origin) {
		key := Key([]byte(meta), o)
		if other, ok := seen[key]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		seen[key] = what
	}
	note("a", "meta", Origin{Digest: "sha256:1"})
	note("another manifest with the same metadata", "meta", Origin{Digest: "sha256:2"})
	note("other metadata", "metadata", Origin{Digest: "sha256:1"})
	note("a file", "meta", was)
	if now, err := FileOrigin(file); err != nil || now != was {
		t.Errorf("the unchanged file is %v, was %v: %v", now, was, err)
	}
	must(t, os.WriteFile(file, []byte("two"), 0o600))
	now, err := FileOrigin(file)
	must(t, err)
	note("the changed file", "meta", now)
	if Key([]byte("meta"), Origin{Store: "/a", Digest: "sha256:1"}) != Key([]byte("meta"), Origin{Store: "/b", Digest: "sha256:1"}) {
		t.Error("the same manifest in two stores has two keys")
	}
}

func TestUselessEntries(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, c *Cache, dir string){
		"cut": func(t *testing.T, _ *Cache, dir string) {
			must(t, os.Truncate(filepath.Join(dir, membersDir, "checkpoint/pages-1.img"), 4096))
		},
		"written over": func(t *testing.T, _ *Cache, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, membersDir, archive.RootfsDiff), os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("x"), 100)
			must(t, errors.Join(err, f.Close()))
		},
		"member missing": func(t *testing.T, _ *Cache, dir string) {
			must(t, os.Remove(filepath.Join(dir, membersDir, "checkpoint/core-1.img")))
		},
		"member added": func(t *testing.T, _ *Cache, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, membersDir, "checkpoint/core-2.img"), nil, 0o600))
		},
		"record damaged": func(t *testing.T, _ *Cache, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, recordFile), []byte("{"), 0o600))
		},
		"another maker": func(_ *testing.T, c *Cache, _ string) { c.opts.Maker = "test/2" },
		"another boot": func(t *testing.T, _ *Cache, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, recordFile))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, recordFile), bytes.ReplaceAll(b, []byte(archive.BootID()), []byte("other")), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, filepath.Join(t.TempDir(), "cache"), plenty)
			must(t, c.Add(t.Context(), "key", unpacked(t, "a"), Origin{}))
			spoil(t, c, filepath.Join(c.dir, "key"))
			found, err := c.Use(t.Context(), "key", filepath.Join(t.TempDir(), "dst"))
			if found || err != nil {
				t.Errorf("it was used: %v, %v", found, err)
			}
			if exists(filepath.Join(c.dir, "key")) {
				t.Error("it is still there")
			}
		})
	}
}

func TestLimit(t *testing.T) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "cache")
	c := open(t, dir, plenty)
	must(t, c.Add(ctx, "old", unpacked(t, "a"), Origin{}))
	r, _, err := readRecord(filepath.Join(dir, "old"))
	must(t, err)
	c = open(t, dir, 2*r.Bytes)
	must(t, c.Add(ctx, "middle", unpacked(t, "a"), Origin{}))
	found, err := c.Use(ctx, "old", filepath.Join(t.TempDir(), "dst")) // which is now the newer one
	if !found || err != nil {
		t.Fatalf("use: %v, %v", found, err)
	}
	must(t, c.Add(ctx, "new", unpacked(t, "a"), Origin{}))
	for key, want := range map[string]bool{"old": true, "middle": false, "new": true} {
		if c.Has(key) != want {
			t.Errorf("%s is there: %v, want %v", key, !want, want)
		}
	}
	small := open(t, dir, r.Bytes-1)
	if err := small.Add(ctx, "large", unpacked(t, "a"), Origin{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one beyond the limit: %v", err)
	}
	if !c.Has("old") || !c.Has("new") || exists(filepath.Join(dir, tempPrefix+"large")) {
		t.Error("what did not fit has changed something")
	}
}

func TestEvict(t *testing.T) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "cache")
	c := open(t, dir, plenty)
	if got, err := c.Evict(ctx, EvictOptions{All: true}); err != nil || got != (Evicted{}) || exists(dir) {
		t.Errorf("no cache: %+v, %v", got, err)
	}
	for _, key := range []string{"a", "b", "c"} {
		must(t, c.Add(ctx, key, unpacked(t, key), Origin{Digest: key}))
	}
	must(t, os.Mkdir(filepath.Join(dir, tempPrefix+"killed"), 0o700))
	gone := func(o Origin) bool { return o.Digest == "b" }
	for range 2 { // a dry run changes nothing
		got, err := c.Evict(ctx, EvictOptions{DryRun: true, Gone: gone})
		if err != nil || got.Entries != 2 || got.Bytes <= 0 {
			t.Errorf("dry run: %+v, %v, want two", got, err)
		}
	}
	if got, err := c.Evict(ctx, EvictOptions{Gone: gone}); err != nil || got.Entries != 2 {
		t.Errorf("evicted %+v, %v, want two", got, err)
	}
	if !c.Has("a") || c.Has("b") || !c.Has("c") || exists(filepath.Join(dir, tempPrefix+"killed")) {
		t.Error("another one was evicted")
	}
	r, _, err := readRecord(filepath.Join(dir, "c"))
	must(t, err)
	if got, err := open(t, dir, r.Bytes).Evict(ctx, EvictOptions{}); err != nil || got.Entries != 1 || !c.Has("c") {
		t.Errorf("beyond the limit: %+v, %v, want the older one", got, err)
	}
	if got, err := c.Evict(ctx, EvictOptions{All: true}); err != nil || got.Entries != 1 || c.Has("c") {
		t.Errorf("all: %+v, %v", got, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	if _, err := Open(dir, Options{}); err == nil {
		t.Error("a directory that others can read was taken")
	}
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := Open(file, Options{}); err == nil {
		t.Error("a file was taken")
	}
}

// TestShareLinks: a link could lead anywhere.
func TestShareLinks(t *testing.T) {
	src := unpacked(t, "a")
	must(t, os.Symlink("/etc/passwd", filepath.Join(src, "checkpoint/pages-2.img")))
	if err := Share(t.Context(), filepath.Join(t.TempDir(), "dst"), src); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("a link was shared: %v", err)
	}
}

// TestTogether: several use, add and evict at once, and whoever is told that there is an entry has all of it.
func TestTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	src, out := unpacked(t, "a"), t.TempDir()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			c, err := Open(dir, Options{Limit: plenty, Maker: "test/1"})
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 20 {
				dst := filepath.Join(out, string(rune('a'+i))+string(rune('a'+j)))
				found, err := c.Use(context.WithoutCancel(t.Context()), "key", dst)
				if err == nil && found {
					_, err = os.Stat(filepath.Join(dst, archive.RootfsDiff))
				}
				if err == nil && !found {
					err = c.Add(t.Context(), "key", src, Origin{})
				}
				if err == nil && (i+j)%5 == 0 {
					_, err = c.Evict(t.Context(), EvictOptions{All: true})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestLockWaits(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "cache"), plenty)
	must(t, c.Add(t.Context(), "key", unpacked(t, "a"), Origin{}))
	unlock, err := c.lock(t.Context(), 2) // LOCK_EX
	must(t, err)
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if found, err := c.Use(ctx, "key", filepath.Join(t.TempDir(), "dst")); found || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("used while another process changes the cache: %v, %v", found, err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
