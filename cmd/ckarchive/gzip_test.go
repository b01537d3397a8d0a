package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestStoreGzip wants what every gzip unpacks, and no work done on it.
func TestStoreGzip(t *testing.T) {
	for _, want := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("memory "), 100_000)} {
		var packed bytes.Buffer
		if err := storeGzip(&packed, bytes.NewReader(want)); err != nil {
			t.Fatal(err)
		}
		if packed.Len() < len(want) {
			t.Errorf("%d bytes became %d: it was compressed", len(want), packed.Len())
		}
		z, err := gzip.NewReader(&packed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back of %d: %v", len(got), len(want), err)
		}
	}
}

// TestToolsDir makes the link, and again when it leads elsewhere.
func TestToolsDir(t *testing.T) {
	a := &app{cli: &cli{}}
	a.cli.RunDir = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		dir, err := a.toolsDir()
		if err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dir, gzipName)
		if got, err := os.Readlink(link); err != nil || got != self {
			t.Errorf("gzip is %q, %v, want %q", got, err, self)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/bin/false", link); err != nil {
			t.Fatal(err)
		}
	}
}
