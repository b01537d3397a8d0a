package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the pages in docs/verbs instead of comparing them")

// repository is the top of the checkout, as this package's tests see it.
const repository = "../.."

// TestVerbPages keeps docs/verbs what the command line is.
func TestVerbPages(t *testing.T) {
	dir := filepath.Join(repository, "docs", "verbs")
	pages := verbPages(testModel(t))
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range pages {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("docs/verbs/%s is not what the command line says (%v): run go generate ./cmd/ckarchive", name, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := pages[e.Name()]; ok {
			continue
		}
		if *update {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Errorf("docs/verbs/%s is of no verb: run go generate ./cmd/ckarchive", e.Name())
	}
}

func testModel(t *testing.T) *kong.Application {
	t.Helper()
	a := &app{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	parser, err := a.newParser()
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}
