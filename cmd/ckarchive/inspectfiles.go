package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/xlab/treeprint"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// changedFile is a file of the root file system that is not as in the base.
type changedFile struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`            // file, directory, link, hard link, fifo, character device, block device; deleted, opaque
	Mode   string `json:"mode,omitempty"`  // four octal digits
	Owner  string `json:"owner,omitempty"` // UID:GID
	Size   int64  `json:"size,omitempty"`  // bytes, of a file
	SHA256 string `json:"sha256,omitempty"`
	Target string `json:"target,omitempty"` // of a link
	Device string `json:"device,omitempty"` // MAJOR:MINOR
	Opaque bool   `json:"opaque,omitempty"` // of a directory: nothing of the base is left in it
}

// list gives them in the order of their paths. A name that was deleted and made again is what it was made.
func (f *rootfsFiles) list() []changedFile {
	all := []changedFile{}
	for gone, kind := range map[*map[string]bool]string{&f.deleted: rootfs.KindDeleted, &f.opaque: rootfs.KindOpaque} {
		for name := range *gone {
			if _, ok := f.present[name]; !ok {
				all = append(all, changedFile{Path: name, Kind: kind})
			}
		}
	}
	for l := range maps.Values(f.present) {
		all = append(all, changedOf(l, f.opaque[l.Path]))
	}
	slices.SortFunc(all, func(a, b changedFile) int { return cmp.Compare(a.Path, b.Path) })
	return all
}

func changedOf(l rootfs.Listed, opaque bool) changedFile {
	c := changedFile{Path: l.Path, Kind: l.Kind, Target: l.Target, Device: l.Device, Opaque: opaque}
	if l.Kind == rootfs.KindHardLink {
		return c // its attributes are those of the other name
	}
	c.Owner = fmt.Sprintf("%d:%d", l.UID, l.GID)
	if l.Kind != rootfs.KindLink {
		c.Mode = fmt.Sprintf("%04o", l.Mode)
	}
	if l.Kind == rootfs.KindFile {
		c.Size, c.SHA256 = l.Size, hex.EncodeToString(l.Sum[:])
	}
	return c
}

// String is one line.
func (c changedFile) String() string {
	words := []string{c.Path, c.Kind, c.Mode, c.Owner}
	switch {
	case c.Target != "":
		words = append(words, "-> "+c.Target)
	case c.Kind == rootfs.KindFile:
		words = append(words, fmt.Sprintf("%d bytes", c.Size))
	}
	if c.Opaque {
		words = append(words, "(nothing of the base is left in it)")
	}
	return oneLine(strings.Join(slices.DeleteFunc(append(words, c.Device), func(w string) bool { return w == "" }), " "))
}

// filesSource lists the changes of the root file system while it is read, and gives them without content.
type filesSource struct {
	archive.Source
	files rootfsFiles
}

// Next implements [archive.Source].
func (s *filesSource) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	e, r, err := s.Source.Next(ctx)
	if err != nil || e.Name != archive.RootfsDiff {
		return e, r, err
	}
	if err := rootfs.List(ctx, r, s.files.add); err != nil {
		return e, nil, err
	}
	return e, strings.NewReader(""), nil
}

// finish takes the list of deletions as well, if there is one.
func (s *filesSource) finish(deleted []byte) ([]changedFile, error) {
	var names []string
	if deleted != nil {
		if err := archive.DecodeJSON(archive.DeletedFiles, deleted, &names); err != nil {
			return nil, err
		}
	}
	s.files.addDeleted(names)
	return s.files.list(), nil
}

func addFiles(to treeprint.Tree, files []changedFile) {
	branch := to.AddBranch(fmt.Sprintf("changed files: %d", len(files)))
	for _, f := range files {
		branch.AddNode(f.String())
	}
}
