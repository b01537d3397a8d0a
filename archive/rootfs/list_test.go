package rootfs_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
)

// TestList tells what entries are, and rejects what cannot be applied.
func TestList(t *testing.T) {
	content := makeTar(t, dir("etc"), file("etc/passwd", "root"), link("etc/to", "/anywhere"), hardlink("etc/same", "etc/passwd"),
		whiteout("etc/gone"), item{name: "pipe", kind: tar.TypeFifo})
	var got []rootfs.Listed
	if err := rootfs.List(t.Context(), bytes.NewReader(content), func(l rootfs.Listed) error {
		got = append(got, l)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	kinds := []string{}
	for _, l := range got {
		kinds = append(kinds, l.Path+" "+l.Kind+" "+l.Target)
	}
	want := []string{"/etc directory ", "/etc/passwd file ", "/etc/to link /anywhere", "/etc/same hard link /etc/passwd", "/etc/gone deleted ", "/pipe fifo "}
	if !slices.Equal(kinds, want) {
		t.Errorf("got %q, want %q", kinds, want)
	}
	if l := got[1]; l.Size != 4 || l.Sum != sha256.Sum256([]byte("root")) {
		t.Errorf("a file is listed as %+v", l)
	}
	none := func(rootfs.Listed) error { return nil }
	for name, bad := range map[string][]byte{
		"cut":    content[:len(content)-600],
		"climbs": makeTar(t, file("../x", "")),
	} {
		if err := rootfs.List(t.Context(), bytes.NewReader(bad), none); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want %v", name, err, archive.ErrRejected)
		}
	}
	fault := errors.New("enough")
	if err := rootfs.List(t.Context(), bytes.NewReader(content), func(rootfs.Listed) error { return fault }); !errors.Is(err, fault) {
		t.Errorf("got %v, want %v", err, fault)
	}
}
