package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

// repack writes src again.
func repack(tb testing.TB, src archive.Source, c archive.Compression) []byte {
	tb.Helper()
	var b bytes.Buffer
	sink, err := archive.NewStreamSink(&b, archive.StreamOptions{Compression: c})
	if err != nil {
		tb.Fatal(err)
	}
	copyAll(tb, sink, src)
	return b.Bytes()
}

// TestRoundTrip writes one checkpoint from an archive, a directory and a file again, and
// wants the same bytes each time.
func TestRoundTrip(t *testing.T) {
	for _, c := range archive.Compressions {
		t.Run(string(c), func(t *testing.T) {
			want := pack(t, archivetest.Checkpoint(), c)
			same := func(what string, got []byte) {
				t.Helper()
				if !bytes.Equal(got, want) {
					t.Errorf("%s: got %d bytes that differ from the %d of the first archive", what, len(got), len(want))
				}
			}
			same("archive to archive", repack(t, newReader(t, want), c))
			for other := range slices.Values(archive.Compressions) {
				same("by way of "+string(other), repack(t, newReader(t, repack(t, newReader(t, want), other)), c))
			}
			dir := filepath.Join(t.TempDir(), "d")
			sink, err := archive.CreateDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			copyAll(t, sink, newReader(t, want))
			same("by way of a directory", repack(t, openDir(t, dir), c))
			path := filepath.Join(t.TempDir(), "a")
			file, err := archive.CreateFile(path, archive.FileOptions{Compression: c})
			if err != nil {
				t.Fatal(err)
			}
			copyAll(t, file, openDir(t, dir))
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			same("as a file", got)
		})
	}
}

// TestDirTimes gives all entries one time where that is asked for.
func TestDirTimes(t *testing.T) {
	want := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	d, err := archive.OpenDir(unpacked(t, archivetest.Checkpoint()), archive.DirOptions{ModTime: want})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := d.Entries(t.Context())
	if err != nil || len(entries) == 0 {
		t.Fatalf("entries: got %d, %v", len(entries), err)
	}
	for _, e := range entries {
		if !e.ModTime.Equal(want) {
			t.Errorf("%s: got %v, want %v", e.Name, e.ModTime, want)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestWrittenHeaders looks at a written tar with archive/tar: what every entry is reduced to.
func TestWrittenHeaders(t *testing.T) {
	const long = "artifacts/a name of more than a hundred bytes, for which a ustar header has no room, so that it goes into a PAX header: ü"
	var b bytes.Buffer
	sink := archive.NewWriter(&b)
	when := time.Date(2026, 11, 21, 8, 0, 0, 987654321, time.FixedZone("x", 3600))
	for _, e := range []archive.Entry{
		{Name: archive.ConfigDump, Mode: 0o4777, ModTime: when},
		{Name: archive.SpecDump},
		{Name: archive.Image("a.img"), ModTime: when},
		{Name: archive.CheckpointDir, Kind: archive.KindDir, ModTime: when},
		{Name: long, ModTime: when},
		{Name: "d", Kind: archive.KindDir, Mode: 0o777, Size: 5, ModTime: when},
	} {
		if err := sink.Put(t.Context(), e, bytes.NewReader(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	type header struct {
		name string
		flag byte
		mode int64
		time time.Time
	}
	second := when.Truncate(time.Second)
	want := []header{
		{archive.ConfigDump, tar.TypeReg, 0o600, second},
		{archive.SpecDump, tar.TypeReg, 0o600, time.Unix(0, 0)},
		{archive.CheckpointDir + "/", tar.TypeDir, 0o700, second},
		{archive.Image("a.img"), tar.TypeReg, 0o600, second},
		{long, tar.TypeReg, 0o600, second},
		{"d/", tar.TypeDir, 0o700, second},
	}
	r := tar.NewReader(bytes.NewReader(b.Bytes()))
	for _, w := range want {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := (header{h.Name, h.Typeflag, h.Mode, h.ModTime}); got.name != w.name || got.flag != w.flag || got.mode != w.mode || !got.time.Equal(w.time) {
			t.Errorf("got %+v, want %+v", got, w)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.Size != 0 {
			t.Errorf("%s: got owner %d:%d (%q:%q) and size %d, want none", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.Size)
		}
	}
	if h, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last entry: got %v, %v, want io.EOF", h, err)
	}
}

func TestWriterRefuses(t *testing.T) {
	for name, entries := range map[string][]archive.Entry{
		"size unknown":    {{Name: "a", Size: archive.SizeUnknown}},
		"below a file":    {{Name: "a"}, {Name: "a/b"}},
		"file above":      {{Name: "a/b"}, {Name: "a"}},
		"directory twice": {{Name: "a", Kind: archive.KindDir}, {Name: "a", Kind: archive.KindDir}},
		"file checkpoint": {{Name: archive.CheckpointDir}, {Name: archive.Image("a.img")}},
	} {
		sink := archive.NewWriter(io.Discard)
		var err error
		for _, e := range entries {
			err = sink.Put(t.Context(), e, bytes.NewReader(nil))
		}
		var at *archive.EntryError
		if !errors.As(err, &at) || at.Op != "write" || at.Name != entries[len(entries)-1].Name {
			t.Errorf("%s: got %v, want an error that names the last entry", name, err)
		}
	}
}

// TestSeal makes a captured directory a whole, proven checkpoint, twice with the same bytes.
func TestSeal(t *testing.T) {
	spec := []byte(`{"ociVersion":"1.0.2","unknown":{"kept":1},"process":{"args":["sh"]},"mounts":[{"destination":"/data","source":"/srv","options":["rbind"]},{"destination":"/proc","type":"proc","source":"proc"}]}`)
	seal := func() (*archive.Metadata, []byte) {
		t.Helper()
		dir := t.TempDir()
		for name, content := range map[string]string{"inventory.img": "inventory", "core-1.img": "core", "pages-1.img": "pages"} {
			if err := os.MkdirAll(filepath.Join(dir, archive.CheckpointDir), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, archive.CheckpointDir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m := &archive.Metadata{
			FormatVersion: archive.FormatVersion, Format: archive.FormatCRIU, Created: archivetest.Time,
			Container: archive.Container{ID: "c1", Runtime: archive.Runtime{Name: "runc"}},
			Externals: []archive.External{{Kind: "mount", Path: "/data", Directory: true}},
		}
		src, err := archive.Seal(t.Context(), dir, nil, m, spec)
		if err != nil {
			t.Fatal(err)
		}
		return m, repack(t, src, archive.Zstd)
	}
	m, b := seal()
	if _, again := seal(); !bytes.Equal(again, b) {
		t.Error("the same checkpoint sealed again gives other bytes")
	}
	report, err := archive.Verify(t.Context(), newReader(t, b), archive.CopyOptions{})
	if err != nil || !report.Proven {
		t.Fatalf("got %+v, %v, want it proven", report, err)
	}
	if got, want := len(report.Metadata.Members), 7; got != want || !slices.Equal(report.Metadata.Members, m.Members) {
		t.Errorf("members: got %d, want %d", got, want)
	}
	got, err := archive.Collect(t.Context(), newReader(t, b), archive.CollectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var written struct {
		Unknown     map[string]int    `json:"unknown"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := archive.DecodeJSON(archive.SpecDump, got[archive.SpecDump], &written); err != nil {
		t.Error(err)
	}
	if written.Unknown["kept"] != 1 || written.Annotations["io.container.manager"] != "libpod" {
		t.Errorf("spec.dump: got %+v, want unknown fields kept and the manager named", written)
	}
	var config struct {
		ID string `json:"id"`
	}
	if err := archive.DecodeJSON(archive.ConfigDump, got[archive.ConfigDump], &config); err != nil {
		t.Error(err)
	}
	const hexID = 64
	if len(config.ID) != hexID {
		t.Errorf("config.dump: got ID %q, want %d digits, which engines insist on", config.ID, hexID)
	}
	var binds []struct {
		Destination string `json:"destination"`
		FileType    string `json:"file_type"`
	}
	if err := archive.DecodeJSON(archive.BindMounts, got[archive.BindMounts], &binds); err != nil {
		t.Error(err)
	}
	if len(binds) != 1 || binds[0].Destination != "/data" || binds[0].FileType != "directory" {
		t.Errorf("bind.mounts: got %+v, want the directory /data only", binds)
	}
}

func TestSealRefuses(t *testing.T) {
	for name, spec := range map[string]string{"null": "null", "damaged": "{", "list": "[]", "annotations": `{"annotations":[1]}`} {
		if src, err := archive.Seal(t.Context(), t.TempDir(), nil, &archive.Metadata{}, []byte(spec)); err == nil {
			t.Errorf("%s: got %v, want an error", name, src)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, archive.ConfigDump), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Seal(t.Context(), dir, nil, &archive.Metadata{}, []byte("{}")); !errors.Is(err, os.ErrExist) {
		t.Errorf("config.dump is there: got %v, want an error that says so", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := archive.Seal(ctx, t.TempDir(), nil, &archive.Metadata{}, []byte("{}")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want context.Canceled", err)
	}
}
