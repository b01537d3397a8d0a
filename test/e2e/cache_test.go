package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unpacked are the checkpoints in the host's cache.
func (h *host) unpacked() []string {
	h.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(h.root, "cache/*/archive"))
	must(h.t, err)
	return dirs
}

// TestCache restores one checkpoint several times: only the first reads the archive, and all are whole.
func TestCache(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--children", "1", "--tmpfs", "/dev/shm"))
	h.ok("export", "--base", h.built.base, c.id, "warm:v1")
	for i, engine := range []string{"runtime", "direct", "runtime"} {
		r := h.restore(string(rune('r'+i)), "warm:v1", "--engine", engine, "--base", h.built.base)
		if want := i > 0; r.cached != want {
			t.Errorf("restore %d took the checkpoint from the cache: %v, want %v", i, r.cached, want)
		}
		r.wellFrom(c)
	}
	kept := h.unpacked()
	if len(kept) != 1 {
		t.Fatalf("in the cache are %q, want one", kept)
	}
	if info, err := os.Stat(filepath.Join(h.root, "cache")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the cache: %v, %v", info, err)
	}

	// What was cut is found, and made anew.
	pages, err := filepath.Glob(filepath.Join(kept[0], "checkpoint/pages-*.img"))
	must(t, err)
	must(t, os.Truncate(pages[0], 4096))
	if h.restore("cut", "warm:v1", "--base", h.built.base).wellFrom(c); len(h.unpacked()) != 1 {
		t.Errorf("in the cache are %q, want the one that was made anew", h.unpacked())
	}
	if !h.restore("again", "warm:v1", "--base", h.built.base).cached {
		t.Error("what was made anew is not used")
	}

	// What its owner removes is not to live on.
	h.ok("gc")
	if len(h.unpacked()) != 1 {
		t.Error("gc removed the checkpoint while it is in the store")
	}
	h.ok("rm", "warm:v1")
	if o := h.ok("gc"); !strings.Contains(o.stdout, "1 unpacked checkpoints") || len(h.unpacked()) > 0 {
		t.Errorf("gc has left %q: %s", h.unpacked(), o)
	}
}

// TestCachePolicy: what is kept without being asked is in the store in plain form anyway.
func TestCachePolicy(t *testing.T) {
	h := newHost(t)
	recipient, identity := h.ageKey("key")
	c := h.start("c", counts())
	path := c.export("c.tar", "--base", h.built.base)
	sealed := "oci:" + h.path("sealed") + ":v1"
	h.ok("push", "--encrypt", recipient, path, sealed)
	h.extra = append(h.extra, "CKARCHIVE_DECRYPT_IDENTITY="+identity)
	for i, tt := range []struct {
		src, cache string
		cached     bool
		kept       int
	}{
		{path, "auto", false, 0},
		{sealed, "auto", false, 0},
		{sealed, "always", false, 1},
		{sealed, "auto", false, 1}, // it was asked for once
		{path, "always", false, 2},
		{path, "always", true, 2},
	} {
		r := h.restore(fmt.Sprint("policy", i), tt.src, "--cache", tt.cache, "--base", h.built.base)
		if got := len(h.unpacked()); got != tt.kept || r.cached != tt.cached {
			t.Errorf("%s with --cache %s: %d checkpoints are kept, want %d; from the cache: %v, want %v", tt.src, tt.cache, got, tt.kept, r.cached, tt.cached)
		}
		r.remove()
	}
	h.run("restore", "--cache-size", "much", "--id", h.id("much"), path).refused(2, "--cache-size")
	h.ok("gc", "--cache-size", "1")
	if len(h.unpacked()) > 0 {
		t.Errorf("in a cache of one byte are %q", h.unpacked())
	}
	h.restore("last", path, "--cache", "always", "--base", h.built.base).wellFrom(c)
	if h.ok("gc", "--cache"); len(h.unpacked()) > 0 {
		t.Errorf("gc --cache has left %q", h.unpacked())
	}
}
