package e2e

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// sizesInDiff gives the sizes of the files in the root file system difference of an uncompressed archive.
func sizesInDiff(t *testing.T, path string) map[string]int64 {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	outer := tar.NewReader(f)
	for {
		h, err := outer.Next()
		must(t, err)
		if h.Name == "rootfs-diff.tar" {
			break
		}
	}
	sizes := map[string]int64{}
	for inner := tar.NewReader(outer); ; {
		h, err := inner.Next()
		if errors.Is(err, io.EOF) {
			return sizes
		}
		must(t, err)
		sizes[strings.TrimPrefix(h.Name, "./")] = h.Size
	}
}

// No process of a container that is stopped does anything after the frozen moment: what it would write then, the restored
// one writes again.
func TestNothingRunsAfterTheDump(t *testing.T) {
	h := newHost(t)
	for _, engine := range bothEngines() {
		c := h.start(engine, env.BundleOptions{Args: []string{
			"/bin/sh", "-c",
			"for n in 1 2 3 4 5 6; do (while :; do echo x >>/tmp/n$n; done) & done; i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.02; done",
		}})
		names := []string{"tmp/n1", "tmp/n2", "tmp/n3", "tmp/n4", "tmp/n5", "tmp/n6"}
		for _, name := range names {
			await(t, name, func() bool { return exists(t, filepath.Join(c.rootfs, name)) })
		}
		files := sizesInDiff(t, c.export(engine+".tar", "--base", h.built.base, "--engine", engine))
		for _, name := range names {
			info, err := os.Stat(filepath.Join(c.rootfs, name))
			must(t, err)
			if got, want := info.Size(), files[name]; got != want || want == 0 {
				t.Errorf("%s: %s has %d bytes at the end, and had %d when it was archived", engine, name, got, want)
			}
		}
	}
}
