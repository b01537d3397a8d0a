package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

// edit changes a checkpoint's files without telling ckarchive.json.
func edit(change func([]archivetest.File) []archivetest.File) []archivetest.File {
	return change(archivetest.Checkpoint())
}

func drop(name string) func([]archivetest.File) []archivetest.File {
	return func(files []archivetest.File) []archivetest.File {
		return slices.DeleteFunc(files, func(f archivetest.File) bool { return f.Name == name })
	}
}

func replace(name string, content func([]byte) []byte) func([]archivetest.File) []archivetest.File {
	return func(files []archivetest.File) []archivetest.File {
		for i, f := range files {
			if f.Name == name {
				files[i].Content = content(slices.Clone(f.Content))
			}
		}
		return files
	}
}

func verifyFiles(t *testing.T, files []archivetest.File) (archive.Report, error) {
	t.Helper()
	return archive.Verify(t.Context(), archivetest.Source(files), archive.CopyOptions{})
}

func TestVerify(t *testing.T) {
	report, err := verifyFiles(t, archivetest.Checkpoint())
	if err != nil || !report.Proven || report.Metadata == nil || report.Metadata.Container.ID != "c1" {
		t.Errorf("whole: got %+v, %v, want it proven", report, err)
	}
	if got, want := report.Entries, len(archivetest.Checkpoint()); got != want {
		t.Errorf("entries: got %d, want %d", got, want)
	}
	report, err = verifyFiles(t, edit(drop(archive.MetadataFile)))
	if err != nil || report.Proven || report.Metadata != nil {
		t.Errorf("without ckarchive.json: got %+v, %v, want it accepted and not proven", report, err)
	}
	last := slices.Concat(edit(drop(archive.MetadataFile)), []archivetest.File{archivetest.Metadata(archivetest.Checkpoint())})
	report, err = verifyFiles(t, last)
	if err != nil || !report.Proven {
		t.Errorf("ckarchive.json at the end: got %+v, %v, want it proven", report, err)
	}
}

// TestVerifyMembers damages each member in turn, with ckarchive.json before and behind it.
func TestVerifyMembers(t *testing.T) {
	for _, f := range archivetest.Checkpoint() {
		if f.Dir || f.Name == archive.MetadataFile {
			continue
		}
		damages := map[string]func([]archivetest.File) []archivetest.File{
			"missing": drop(f.Name),
			"longer":  replace(f.Name, func(b []byte) []byte { return append(b, 0) }),
		}
		if len(f.Content) > 0 {
			damages["shorter"] = replace(f.Name, func(b []byte) []byte { return b[:len(b)-1] })
			for what, at := range map[string]int{"first": 0, "middle": len(f.Content) / 2, "last": len(f.Content) - 1} {
				damages["bit flipped, "+what+" byte"] = replace(f.Name, func(b []byte) []byte { b[at] ^= 0x10; return b })
			}
		}
		for what, damage := range damages {
			t.Run(f.Name+"/"+what, func(t *testing.T) {
				files := edit(damage)
				if report, err := verifyFiles(t, files); !errors.Is(err, archive.ErrRejected) {
					t.Errorf("got %+v, %v, want ErrRejected", report, err)
				} else if !strings.Contains(err.Error(), archive.QuoteName(f.Name)) && !strings.Contains(err.Error(), f.Name) {
					t.Errorf("got %v, which does not name %s", err, f.Name)
				}
				meta := archivetest.Metadata(archivetest.Checkpoint())
				behind := append(drop(archive.MetadataFile)(files), meta)
				if report, err := verifyFiles(t, behind); !errors.Is(err, archive.ErrRejected) {
					t.Errorf("ckarchive.json at the end: got %+v, %v, want ErrRejected", report, err)
				}
			})
		}
	}
}

func TestVerifyExtra(t *testing.T) {
	extra := archivetest.File{Name: "extra", Content: []byte("x")}
	for name, files := range map[string][]archivetest.File{
		"at the end":   append(archivetest.Checkpoint(), extra),
		"at the front": append([]archivetest.File{extra}, archivetest.Checkpoint()...),
	} {
		if report, err := verifyFiles(t, files); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %+v, %v, want ErrRejected", name, report, err)
		}
	}
	folder := append(archivetest.Checkpoint(), archivetest.File{Name: "folder", Dir: true})
	if report, err := verifyFiles(t, folder); err != nil || !report.Proven {
		t.Errorf("a folder more: got %+v, %v, want it proven", report, err)
	}
}

// TestVerifyRequired holds for archives of other engines too: their members are
// required while nothing proves the rest.
func TestVerifyRequired(t *testing.T) {
	foreign := edit(drop(archive.MetadataFile))
	for _, name := range []string{archive.ConfigDump, archive.SpecDump, archive.Image(archive.Inventory)} {
		files := drop(name)(slices.Clone(foreign))
		if report, err := verifyFiles(t, files); !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: got %+v, %v, want an ErrRejected that names it", name, report, err)
		}
		proven := append(files, archivetest.Metadata(files))
		if report, err := verifyFiles(t, proven); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("without %s, with ckarchive.json: got %+v, %v, want ErrRejected", name, report, err)
		}
	}
}

func TestVerifyMetadata(t *testing.T) {
	for name, content := range map[string]string{
		"empty":    "",
		"damaged":  "{",
		"later":    `{"formatVersion":2}`,
		"too long": strings.Repeat(" ", archive.MaxJSONBytes) + "{}",
	} {
		files := edit(replace(archive.MetadataFile, func([]byte) []byte { return []byte(content) }))
		if report, err := verifyFiles(t, files); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %+v, %v, want ErrRejected", name, report, err)
		}
	}
}

// TestVerifiedStops keeps a wrong member from being the last word: nothing follows it.
func TestVerifiedStops(t *testing.T) {
	files := edit(replace(archive.Image("core-1.img"), func(b []byte) []byte { b[0] ^= 1; return b }))
	src := archive.NewVerified(archivetest.Source(files))
	got, err := archivetest.Read(t.Context(), src)
	if !errors.Is(err, archive.ErrRejected) {
		t.Fatalf("got %v, want ErrRejected", err)
	}
	if last := got[len(got)-1].Name; last != archive.Image("core-1.img") {
		t.Errorf("last member before the error: got %s, want the damaged one", last)
	}
	for range 2 {
		if e, _, err := src.Next(t.Context()); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("Next again: got %q, %v, want the same ErrRejected", e.Name, err)
		}
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
}

// TestVerifyBits flips every bit of an archive's bytes that carry something: what
// is proven stays what it was.
func TestVerifyBits(t *testing.T) {
	files := []archivetest.File{
		{Name: archive.ConfigDump, Content: []byte(`{"id":"c1"}`)},
		{Name: archive.SpecDump, Content: []byte(`{}`)},
		{Name: archive.Image(archive.Inventory), Content: []byte("inventory")},
	}
	files = append(files, archivetest.Metadata(files))
	want, err := archivetest.Read(t.Context(), newReader(t, pack(t, files, archive.Uncompressed)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []archive.Compression{archive.Uncompressed, archive.Zstd} {
		whole := pack(t, files, c)
		for i := range whole {
			b := slices.Clone(whole)
			b[i] ^= 1 << (i % 8)
			src, err := archive.NewReader(bytes.NewReader(b), archive.ReaderOptions{})
			if err != nil {
				continue
			}
			v := archive.NewVerified(src)
			got, err := archivetest.Read(t.Context(), v)
			if err == nil && v.Metadata() != nil {
				for j := range want {
					if want[j].Name != archive.MetadataFile && !bytes.Equal(got[j].Content, want[j].Content) {
						t.Errorf("%s, byte %d: %s is proven with other content", c, i, got[j].Name)
					}
				}
			}
			if err := v.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	}
}

func TestHashMembers(t *testing.T) {
	want, err := archive.ParseMetadata(archivetest.Metadata(archivetest.Checkpoint()).Content)
	if err != nil {
		t.Fatal(err)
	}
	got, err := archive.HashMembers(t.Context(), archivetest.Source(archivetest.Checkpoint()))
	if err != nil || !slices.Equal(got, want.Members) {
		t.Errorf("got %v, %v, want %v", got, err, want.Members)
	}
}

func TestCollect(t *testing.T) {
	files := archivetest.Checkpoint()
	var told []string
	got, err := archive.Collect(t.Context(), archivetest.Source(files), archive.CollectOptions{
		Want:    func(e archive.Entry) bool { return e.Name == archive.ConfigDump || e.Name == archive.DumpLog },
		Stop:    func(e archive.Entry) bool { return strings.HasPrefix(e.Name, archive.CheckpointDir) },
		OnEntry: func(e archive.Entry) { told = append(told, e.Name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || !bytes.Equal(got[archive.ConfigDump], files[0].Content) {
		t.Errorf("got %q, want config.dump and dump.log", got)
	}
	if want := []string{archive.ConfigDump, archive.SpecDump, archive.StatusDump, archive.MetadataFile, archive.StatsDump, archive.DumpLog}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	all, err := archive.Collect(t.Context(), archivetest.Source(files), archive.CollectOptions{})
	if err != nil || len(all[archive.Image("pages-1.img")]) == 0 || len(all[archive.DeletedFiles]) == 0 {
		t.Errorf("zero options: got %d members, %v, want all", len(all), err)
	}
	one := archivetest.Source([]archivetest.File{{Name: "a", Content: make([]byte, 60)}, {Name: "b", Content: make([]byte, 40)}})
	if _, err := archive.Collect(t.Context(), one, archive.CollectOptions{MaxBytes: 100}); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	one = archivetest.Source([]archivetest.File{{Name: "a", Content: make([]byte, 60)}, {Name: "b", Content: make([]byte, 41)}})
	if _, err := archive.Collect(t.Context(), one, archive.CollectOptions{MaxBytes: 100}); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("over the limit: got %v, want ErrRejected", err)
	}
}

func TestCopyOptions(t *testing.T) {
	files := archivetest.Checkpoint()
	var names []string
	var moved int64
	var b bytes.Buffer
	sink := archive.NewWriter(&b)
	sum, err := archive.Copy(t.Context(), sink, archivetest.Source(files), archive.CopyOptions{
		Skip:    func(e archive.Entry) bool { return archive.IsPages(e.Name) || e.Name == "artifacts" },
		OnEntry: func(e archive.Entry) { names = append(names, e.Name) },
		OnBytes: func(n int64) { moved += n },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(names) != len(files) || moved != sum.Bytes || sum.Entries != len(files) {
		t.Errorf("got %d entries told, %d bytes told, %+v; want %d entries and the bytes of the summary", len(names), moved, sum, len(files))
	}
	got, err := archivetest.Read(t.Context(), newReader(t, b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	archivetest.Equal(t, got, drop("artifacts")(drop(archive.Image("pages-1.img"))(slices.Clone(files))))
}

// misannounced says a size of its members that is not theirs.
type misannounced struct {
	archive.Source
	by int64
}

func (m misannounced) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	e, r, err := m.Source.Next(ctx)
	e.Size += m.by
	return e, r, err
}

// TestCopyChecksSizes also where the sink does not.
func TestCopyChecksSizes(t *testing.T) {
	files := []archivetest.File{{Name: "a", Content: []byte("content")}}
	for by, ok := range map[int64]bool{0: true, 1: false, -1: false} {
		src := misannounced{archivetest.Source(files), by}
		_, err := archive.Copy(t.Context(), archive.Discard{}, src, archive.CopyOptions{})
		if (err == nil) != ok {
			t.Errorf("%+d bytes announced: got %v, want an error unless 0", by, err)
		}
	}
}

// TestCopySkipStillReads finds the damage of a member that is left out.
func TestCopySkipStillReads(t *testing.T) {
	whole := pack(t, archivetest.Checkpoint(), archive.Uncompressed)
	cut := newReader(t, whole[:len(whole)/2]) // inside pages-1.img
	_, err := archive.Copy(t.Context(), archive.Discard{}, cut, archive.CopyOptions{Skip: func(archive.Entry) bool { return true }})
	if !errors.Is(err, archive.ErrRejected) || errors.Is(err, io.EOF) {
		t.Errorf("got %v, want ErrRejected", err)
	}
}

// TestVerifySandbox proves that images of gVisor need none of CRIU's.
func TestVerifySandbox(t *testing.T) {
	files := []archivetest.File{
		{Name: archive.ConfigDump, Content: []byte(`{}`)},
		{Name: archive.SpecDump, Content: []byte(`{}`)},
		{Name: archive.Image(archive.SandboxState), Content: []byte("kernel")},
		{Name: archive.Image(archive.SandboxPagesMeta), Content: []byte("index")},
		{Name: archive.Image(archive.SandboxPages), Content: []byte("memory")},
	}
	verify := func(files []archivetest.File, format string) error {
		m, err := archive.ParseMetadata(archivetest.Metadata(files).Content)
		if err != nil {
			t.Fatal(err)
		}
		m.Format = format
		b, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		all := append(slices.Clone(files), archivetest.File{Name: archive.MetadataFile, Content: b})
		slices.SortFunc(all, func(a, b archivetest.File) int {
			if archive.Less(a.Name, b.Name) {
				return -1
			}
			return 1
		})
		if last := all[len(all)-1].Name; last != archive.Image(archive.SandboxPages) && format == archive.FormatGVisor && len(files) == 5 {
			t.Errorf("the last member is %s, want the memory", last)
		}
		_, err = archive.Verify(t.Context(), archivetest.Source(all), archive.CopyOptions{})
		return err
	}
	if err := verify(files, archive.FormatGVisor); err != nil {
		t.Errorf("gVisor: %v", err)
	}
	if err := verify(files, archive.FormatCRIU); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("said to be of CRIU: %v, want an ErrRejected", err)
	}
	if err := verify(slices.Delete(slices.Clone(files), 2, 3), archive.FormatGVisor); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("without the kernel: %v, want an ErrRejected", err)
	}
}

// proving is a source whose pages file proves itself, with this digest.
type proving struct {
	archive.Source
	sum string
}

func (p proving) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	e, r, err := p.Source.Next(ctx)
	if err == nil && archive.IsPages(e.Name) {
		r = provingReader{r, p.sum}
	}
	return e, r, err
}

type provingReader struct {
	io.Reader
	sum string
}

func (r provingReader) Proves() string { return r.sum }

// A member that proves its own content is not hashed again, but what it proves has to be what is listed.
func TestVerifyProving(t *testing.T) {
	files := archivetest.Checkpoint()
	listed := ""
	for _, f := range files {
		if archive.IsPages(f.Name) {
			listed = fmt.Sprintf("%x", sha256.Sum256(f.Content))
		}
	}
	if _, err := archive.Verify(t.Context(), proving{archivetest.Source(files), listed}, archive.CopyOptions{}); err != nil {
		t.Error(err)
	}
	other := fmt.Sprintf("%x", sha256.Sum256([]byte("another content")))
	if _, err := archive.Verify(t.Context(), proving{archivetest.Source(files), other}, archive.CopyOptions{}); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("a proof of another content: %v, want it rejected", err)
	}
}
