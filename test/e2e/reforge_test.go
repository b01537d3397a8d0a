package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// reforge makes another archive of one: edit changes the unpacked members and the metadata, and
// the digests are made anew, so that nothing but the change is wrong with it.
func reforge(t *testing.T, from, to string, edit func(dir string, m *archive.Metadata)) {
	t.Helper()
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "members")
	copyArchive(t, func() (archive.Source, error) { return archive.OpenFile(from, archive.ReaderOptions{}) },
		func() (archive.Sink, error) { return archive.CreateDir(dir) })
	path := filepath.Join(dir, archive.MetadataFile)
	m, err := archive.ParseMetadata([]byte(readFile(t, path)))
	must(t, err)
	edit(dir, m)
	must(t, os.Remove(path))
	src, err := archive.OpenDir(dir, archive.DirOptions{})
	must(t, err)
	m.Members, err = archive.HashMembers(ctx, src)
	must(t, errors.Join(err, src.Close()))
	b, err := m.Marshal()
	must(t, err)
	writeFile(t, path, string(b))
	copyArchive(t, func() (archive.Source, error) { return archive.OpenDir(dir, archive.DirOptions{}) },
		func() (archive.Sink, error) {
			return archive.CreateFile(to, archive.FileOptions{Compression: archive.Zstd})
		})
}

func copyArchive(t *testing.T, open func() (archive.Source, error), create func() (archive.Sink, error)) {
	t.Helper()
	src, err := open()
	must(t, err)
	defer src.Close() //nolint:errcheck // read side
	dst, err := create()
	must(t, err)
	_, err = archive.Copy(t.Context(), dst, src, archive.CopyOptions{})
	must(t, err)
	must(t, dst.Commit(t.Context()))
	must(t, dst.Close())
}

// editImage changes the first entry of an image of CRIU.
func editImage[M proto.Message](t *testing.T, dir, name string, kind M, edit func(M)) {
	t.Helper()
	path := filepath.Join(dir, archive.Image(name))
	in, err := os.Open(path)
	must(t, err)
	img, err := crit.New(in, nil, "", false, false).Decode(kind)
	must(t, errors.Join(err, in.Close()))
	entry, ok := img.Entries[0].Message.(M)
	if !ok {
		t.Fatalf("%s holds a %T", name, img.Entries[0].Message)
	}
	edit(entry)
	out, err := os.Create(path)
	must(t, err)
	must(t, errors.Join(crit.New(nil, out, "", false, false).Encode(img), out.Close()))
}
