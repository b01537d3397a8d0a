package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// rootfsFiles are what a checkpoint has changed in its root file system, by path.
type rootfsFiles struct {
	present map[string]rootfs.Listed
	deleted map[string]bool
	opaque  map[string]bool
}

// add takes an entry of rootfs-diff.tar.
func (f *rootfsFiles) add(l rootfs.Listed) error {
	if f.present == nil {
		f.present, f.deleted, f.opaque = map[string]rootfs.Listed{}, map[string]bool{}, map[string]bool{}
	}
	switch l.Kind {
	case rootfs.KindDeleted:
		f.deleted[l.Path] = true
	case rootfs.KindOpaque:
		f.opaque[l.Path] = true
	default:
		f.present[l.Path] = l
	}
	return nil
}

// addDeleted takes the list of deleted.files, in which the names of whiteouts stand beside those of their targets.
func (f *rootfsFiles) addDeleted(names []string) {
	for _, name := range names {
		if strings.HasPrefix(path.Base(name), ".wh.") {
			continue
		}
		_ = f.add(rootfs.Listed{Path: path.Join("/", name), Kind: rootfs.KindDeleted}) // cannot fail
	}
}

// things are the files to be compared. A name that was deleted and made again is what it was made.
func (f *rootfsFiles) things() []thing {
	var all []thing
	for name := range f.deleted {
		if _, ok := f.present[name]; !ok {
			all = append(all, thing{name: name, fields: []field{{"kind", rootfs.KindDeleted}}})
		}
	}
	for name := range f.opaque {
		if _, ok := f.present[name]; !ok {
			all = append(all, thing{name: name, fields: []field{{"kind", rootfs.KindOpaque}}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.present)) {
		all = append(all, fileThing(f.present[name], f.opaque[name]))
	}
	return all
}

func fileThing(l rootfs.Listed, opaque bool) thing {
	t := thing{name: l.Path, fields: []field{{"kind", l.Kind}}}
	if l.Kind == rootfs.KindHardLink {
		t.fields = append(t.fields, field{"target", l.Target})
		return t
	}
	if l.Kind != rootfs.KindLink {
		t.fields = append(t.fields, field{"mode", fmt.Sprintf("%04o", l.Mode)})
	}
	t.fields = append(t.fields, field{"owner", fmt.Sprintf("%d:%d", l.UID, l.GID)}, field{"target", l.Target}, field{"device", l.Device})
	if l.Kind == rootfs.KindFile {
		t.fields = append(t.fields, field{"size", strconv.FormatInt(l.Size, 10)}, field{fieldSum, hex.EncodeToString(l.Sum[:])})
	}
	if l.Xattrs != [sha256.Size]byte{} {
		t.fields = append(t.fields, field{"xattrs", hex.EncodeToString(l.Xattrs[:])})
	}
	if opaque {
		t.fields = append(t.fields, field{"base", "hidden"})
	}
	return t
}
