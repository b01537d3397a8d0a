package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// encryptedSource is one behind another.
type encryptedSource struct{ archive.Source }

func (encryptedSource) Encrypted() bool { return true }

// TestForCache: what the cache may have, and what only on demand.
func TestForCache(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(r *restore)
		auto   bool
		always bool
	}{
		"name":      {nil, true, true},
		"layout":    {func(r *restore) { r.loc.kind = locationLayout }, true, true},
		"file":      {func(r *restore) { r.loc.kind = locationFile }, false, true},
		"encrypted": {func(r *restore) { r.src = &ownedSource{Source: encryptedSource{}} }, false, true},
		"no digests": {func(r *restore) {
			r.meta.Members = nil
		}, false, false},
		"frees images": {func(r *restore) {
			r.cmd.CRIUConfig = filepath.Join(t.TempDir(), "criu.conf")
			if err := os.WriteFile(r.cmd.CRIUConfig, []byte("ghost-limit 1\nauto-dedup"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, false},
		"no room": {func(r *restore) { r.cmd.CacheSize = "0" }, false, false},
		"own bundle": {func(r *restore) {
			r.bundle = t.TempDir()
			r.cmd.Bundle = r.bundle
			if err := os.WriteFile(filepath.Join(r.bundle, "config.json"), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, false},
		"sandbox": {func(r *restore) { r.meta.Format = archive.FormatGVisor }, false, false},
		"user namespace": {func(r *restore) {
			r.spec.Linux.Namespaces = append(r.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			for flag, want := range map[string]bool{cacheAuto: tt.auto, cacheAlways: tt.always, cacheNever: false} {
				r := parseRestore(t, "--cache", flag)
				r.loc.kind = locationName
				r.meta.Members = []archive.Member{{Name: archive.SpecDump}}
				if tt.change != nil {
					tt.change(r)
				}
				if got := r.forCache(); got != want {
					t.Errorf("--cache %s: %v, want %v", flag, got, want)
				}
			}
		})
	}
}
