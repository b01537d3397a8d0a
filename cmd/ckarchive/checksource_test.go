package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

// Of an archive in another order, and without metadata, every member that decides is found.
func TestCollectForeignOrder(t *testing.T) {
	inOrder := []string{
		"checkpoint/pages-1.img", "checkpoint/core-1.img", "checkpoint/inventory.img", "spec.dump", "checkpoint/cpuinfo.img", "other", "config.dump",
	}
	for range 2 {
		files := []archivetest.File{}
		for _, name := range inOrder {
			files = append(files, archivetest.File{Name: name, Content: []byte("{}")})
		}
		slices.Reverse(inOrder)
		needed, useful, listed := wanted(map[string][]byte{archive.SpecDump: []byte("{}")})
		got, err := collectWanted(t.Context(), archivetest.Source(files), needed, useful, listed)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{archive.ConfigDump, archive.SpecDump, archive.Image(archive.Inventory)} {
			if got[name] == nil {
				t.Errorf("%s was not read, of %q", name, inOrder)
			}
		}
		if got["other"] != nil || got["checkpoint/pages-1.img"] != nil {
			t.Errorf("more than is useful was read: %d members", len(got))
		}
	}
}

// Of one that lists its members nothing is read behind the last one that is needed.
func TestCollectStops(t *testing.T) {
	files := archivetest.Checkpoint()
	head := map[string][]byte{}
	for _, f := range files {
		if !strings.Contains(f.Name, "/") && !f.Dir {
			head[f.Name] = f.Content
		}
	}
	needed, useful, listed := wanted(head)
	if !listed || len(needed) < 4 {
		t.Fatalf("needed %q, listed %v", needed, listed)
	}
	src := &lastSeen{Source: archivetest.Source(files)}
	if _, err := collectWanted(t.Context(), src, needed, useful, listed); err != nil {
		t.Fatal(err)
	}
	if archive.IsPages(src.name) || archive.Less("checkpoint/pages-1.img", src.name) {
		t.Errorf("read on to %s", src.name)
	}
}

// lastSeen remembers the last member that was asked for.
type lastSeen struct {
	archive.Source
	name string
}

func (s *lastSeen) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	e, r, err := s.Source.Next(ctx)
	s.name = e.Name
	return e, r, err
}
