package archivetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// File is one member of a checkpoint, with its content.
type File struct {
	Name    string
	Dir     bool
	Content []byte
}

// Time is the time of all entries that this package makes.
var Time = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a constant that the language has no form for

// pagesBytes is more than any buffer or compressed block and no multiple of one.
const pagesBytes = 3<<20 + 17

// Checkpoint gives a whole checkpoint in the archive's order, directories named, with a
// ckarchive.json that proves it. The caller may change it.
func Checkpoint() []File {
	files := []File{
		{Name: archive.ConfigDump, Content: []byte(`{"id":"c1","name":"one","rootfsImageName":"docker.io/library/busybox:latest"}`)},
		{Name: archive.SpecDump, Content: []byte(`{"ociVersion":"1.0.2"}`)},
		{Name: archive.StatusDump, Content: []byte(`{}`)},
		{Name: archive.StatsDump},
		{Name: archive.DumpLog, Content: []byte("(00.000000) Version: 4.2\n")},
		{Name: archive.CheckpointDir, Dir: true},
		{Name: archive.Image(archive.Descriptors), Content: []byte(`["/dev/null","/dev/null","/dev/null"]`)},
		{Name: archive.Image(archive.Inventory), Content: []byte("\x3a\x84\x02\x54inventory")},
		{Name: archive.Image("core-1.img"), Content: bytes.Repeat([]byte{1}, 511)},
		{Name: archive.Image("fs-1.img"), Content: bytes.Repeat([]byte{2}, 512)},
		{Name: archive.Image("mm-1.img"), Content: bytes.Repeat([]byte{3}, 513)},
		{Name: archive.Image("pages-1.img"), Content: pages(pagesBytes)},
		{Name: archive.RootfsDiff, Content: bytes.Repeat([]byte{0}, 10240)},
		{Name: archive.DeletedFiles, Content: []byte(`["/etc/motd"]`)},
		{Name: archive.VolumesDir, Dir: true},
		{Name: archive.VolumesDir + "/data ü.tar", Content: bytes.Repeat([]byte{0}, 1024)},
		{Name: "artifacts", Dir: true},
		{Name: "artifacts/unknown", Content: []byte("members that nobody knows are kept")},
	}
	const behindStatus = 3
	return append(files[:behindStatus:behindStatus], append([]File{Metadata(files)}, files[behindStatus:]...)...)
}

// Metadata gives the ckarchive.json that proves files.
func Metadata(files []File) File {
	meta := archive.Metadata{
		FormatVersion: archive.FormatVersion,
		Format:        archive.FormatCRIU,
		Tool:          "ckarchive/test",
		Created:       Time,
		Container:     archive.Container{ID: "c1", Name: "one", Runtime: archive.Runtime{Name: "runc"}},
		Host:          archive.Host{Architecture: "amd64", Kernel: "6.1.0", CgroupVersion: "v2"},
	}
	for _, f := range files {
		if f.Dir || f.Name == archive.MetadataFile {
			continue
		}
		sum := sha256.Sum256(f.Content)
		meta.Members = append(meta.Members, archive.Member{Name: f.Name, Size: int64(len(f.Content)), SHA256: hex.EncodeToString(sum[:])})
	}
	b, err := meta.Marshal()
	if err != nil {
		panic(err) // the value above has no part that JSON lacks
	}
	return File{Name: archive.MetadataFile, Content: b}
}

// pages gives memory content: half of it compresses.
func pages(n int) []byte {
	const page = 4096
	rng := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	for off := 0; off < n; off += 2 * page {
		_, _ = rng.Read(b[off:min(off+page, n)])
	}
	return b
}

// Source plays files from memory. It is an [archive.Source] and may be used many times at once;
// each call begins anew.
func Source(files []File) archive.Source { return &memory{files: files} }

type memory struct {
	files  []File
	next   int
	closed bool
}

var _ archive.Source = (*memory)(nil)

func (m *memory) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	switch {
	case ctx.Err() != nil:
		return archive.Entry{}, nil, context.Cause(ctx)
	case m.closed:
		return archive.Entry{}, nil, errors.New("source is closed")
	case m.next == len(m.files):
		return archive.Entry{}, nil, io.EOF
	}
	f := m.files[m.next]
	m.next++
	if f.Dir {
		return f.entry(), nil, nil
	}
	return f.entry(), bytes.NewReader(f.Content), nil
}

func (m *memory) Close() error {
	m.closed = true
	return nil
}

func (f File) entry() archive.Entry {
	if f.Dir {
		return archive.Entry{Name: f.Name, Kind: archive.KindDir, ModTime: Time}
	}
	return archive.Entry{Name: f.Name, Size: int64(len(f.Content)), ModTime: Time}
}

// Read reads a source to its end. It does not close it.
func Read(ctx context.Context, src archive.Source) ([]File, error) {
	var files []File
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		f := File{Name: e.Name, Dir: e.Kind == archive.KindDir}
		if !f.Dir {
			if f.Content, err = io.ReadAll(r); err != nil {
				return files, err
			}
			if e.Size != archive.SizeUnknown && e.Size != int64(len(f.Content)) {
				return files, fmt.Errorf("%s: %d bytes where %d were announced", e.Name, len(f.Content), e.Size)
			}
		}
		files = append(files, f)
	}
}

// Equal fails the test unless got and want are the same members in the same order.
func Equal(t testing.TB, got, want []File) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("member %d: got none, want %s", i, want[i].Name)
		case i >= len(want):
			t.Errorf("member %d: got %s, want none", i, got[i].Name)
		case got[i].Name != want[i].Name || got[i].Dir != want[i].Dir:
			t.Errorf("member %d: got %s (directory %t), want %s (directory %t)", i, got[i].Name, got[i].Dir, want[i].Name, want[i].Dir)
		case !bytes.Equal(got[i].Content, want[i].Content):
			t.Errorf("%s: got %d bytes that differ from the %d wanted", got[i].Name, len(got[i].Content), len(want[i].Content))
		}
	}
}
