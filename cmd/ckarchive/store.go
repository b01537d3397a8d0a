package main

import (
	"context"
	"path/filepath"

	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/registry"
)

// defaultRoot is where the local store is when nobody says: a system directory for root, the
// user's data directory for others.
func defaultRoot(getenv func(string) string) string {
	if isRoot() {
		return "/var/lib/ckarchive"
	}
	data := getenv("XDG_DATA_HOME")
	if data == "" {
		data = filepath.Join(getenv("HOME"), ".local", "share")
	}
	return filepath.Join(data, "ckarchive")
}

// defaultRunDir is where what a reboot ends is kept.
const defaultRunDir = "/run/ckarchive"

// The directories beside the blobs of the local store.
func (a *app) spoolDir() string      { return filepath.Join(a.cli.Root, "spool") }
func (a *app) containersDir() string { return filepath.Join(a.cli.Root, "containers") }
func (a *app) logDir() string        { return filepath.Join(a.cli.Root, "log") }
func (a *app) cacheDir() string      { return filepath.Join(a.cli.Root, "cache") }

// The directories that a reboot empties.
func (a *app) lockDir() string   { return filepath.Join(a.cli.RunDir, "lock") }
func (a *app) directDir() string { return filepath.Join(a.cli.RunDir, "containers") }

// openStore opens the local store, and makes it if create is true.
func (a *app) openStore(ctx context.Context, create bool) (*registry.Store, error) {
	return registry.OpenStore(ctx, a.cli.Root, registry.StoreOptions{Create: create})
}

// lock takes a lock of this host for as long as the process lives.
func (a *app) lock(name string) (func(), error) {
	f, err := capture.Lock(a.lockDir(), name)
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil // closing releases; nothing was written
}
