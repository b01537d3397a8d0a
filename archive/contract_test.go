package archive_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

// pack gives a whole archive of files.
func pack(tb testing.TB, files []archivetest.File, c archive.Compression) []byte {
	tb.Helper()
	var b bytes.Buffer
	sink, err := archive.NewStreamSink(&b, archive.StreamOptions{Compression: c})
	if err != nil {
		tb.Fatal(err)
	}
	copyAll(tb, sink, archivetest.Source(files))
	return b.Bytes()
}

func newReader(tb testing.TB, b []byte) *archive.Reader {
	tb.Helper()
	r, err := archive.NewReader(bytes.NewReader(b), archive.ReaderOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// unpacked gives a directory with files.
func unpacked(tb testing.TB, files []archivetest.File) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "unpacked")
	sink, err := archive.CreateDir(path)
	if err != nil {
		tb.Fatal(err)
	}
	copyAll(tb, sink, archivetest.Source(files))
	return path
}

func openDir(tb testing.TB, path string) *archive.Dir {
	tb.Helper()
	d, err := archive.OpenDir(path, archive.DirOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestSourceContract(t *testing.T) {
	want := archivetest.Checkpoint()
	for _, c := range archive.Compressions {
		b := pack(t, want, c)
		t.Run("Reader/"+string(c), func(t *testing.T) {
			archivetest.TestSource(t, func(t *testing.T) archive.Source { return newReader(t, b) }, want)
		})
		t.Run("Verified/"+string(c), func(t *testing.T) {
			archivetest.TestSource(t, func(t *testing.T) archive.Source { return archive.NewVerified(newReader(t, b)) }, want)
		})
		t.Run("FileSource/"+string(c), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a")
			sink, err := archive.CreateFile(path, archive.FileOptions{Compression: c})
			if err != nil {
				t.Fatal(err)
			}
			copyAll(t, sink, archivetest.Source(want))
			archivetest.TestSource(t, func(t *testing.T) archive.Source {
				src, err := archive.OpenFile(path, archive.ReaderOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return src
			}, want)
		})
	}
	t.Run("Dir", func(t *testing.T) {
		path := unpacked(t, want)
		archivetest.TestSource(t, func(t *testing.T) archive.Source { return openDir(t, path) }, want)
	})
	t.Run("memory", func(t *testing.T) {
		archivetest.TestSource(t, func(*testing.T) archive.Source { return archivetest.Source(want) }, want)
	})
}

func TestSinkContract(t *testing.T) {
	readStream := func(t *testing.T, b *stream) func() ([]archivetest.File, error) {
		return func() ([]archivetest.File, error) {
			r, err := archive.NewReader(b.reader(), archive.ReaderOptions{})
			if err != nil {
				return nil, err
			}
			files, err := archivetest.Read(t.Context(), r)
			return files, errors.Join(err, r.Close())
		}
	}
	t.Run("Writer", func(t *testing.T) {
		archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) {
			var b stream
			return archive.NewWriter(&b), readStream(t, &b)
		})
	})
	for _, c := range archive.Compressions {
		t.Run("StreamSink/"+string(c), func(t *testing.T) {
			archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) {
				var b stream
				sink, err := archive.NewStreamSink(&b, archive.StreamOptions{Compression: c})
				if err != nil {
					t.Fatal(err)
				}
				return sink, readStream(t, &b)
			})
		})
		t.Run("FileSink/"+string(c), func(t *testing.T) {
			archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) {
				dir := t.TempDir()
				t.Cleanup(func() { noLeftovers(t, dir, "a") })
				sink, err := archive.CreateFile(filepath.Join(dir, "a"), archive.FileOptions{Compression: c})
				if err != nil {
					t.Fatal(err)
				}
				return sink, func() ([]archivetest.File, error) {
					src, err := archive.OpenFile(filepath.Join(dir, "a"), archive.ReaderOptions{})
					if err != nil {
						return nil, err
					}
					files, err := archivetest.Read(t.Context(), src)
					return files, errors.Join(err, src.Close())
				}
			})
		})
	}
	t.Run("DirSink", func(t *testing.T) {
		archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) {
			dir := t.TempDir()
			t.Cleanup(func() { noLeftovers(t, dir, "a") })
			sink, err := archive.CreateDir(filepath.Join(dir, "a"))
			if err != nil {
				t.Fatal(err)
			}
			return sink, func() ([]archivetest.File, error) {
				src, err := archive.OpenDir(filepath.Join(dir, "a"), archive.DirOptions{})
				if err != nil {
					return nil, err
				}
				files, err := archivetest.Read(t.Context(), src)
				return files, errors.Join(err, src.Close())
			}
		})
	})
}

func TestImagesContract(t *testing.T) {
	create := func(t *testing.T) (*archive.ImagesSink, func() ([]archivetest.File, error)) {
		dir := t.TempDir()
		t.Cleanup(func() { noLeftovers(t, dir, "a") })
		sink, err := archive.CreateImages(filepath.Join(dir, "a"), "")
		if err != nil {
			t.Fatal(err)
		}
		return sink, func() ([]archivetest.File, error) {
			src, err := archive.OpenDir(filepath.Join(dir, "a"), archive.DirOptions{Images: true})
			if err != nil {
				return nil, err
			}
			files, err := archivetest.Read(t.Context(), src)
			return files, errors.Join(err, src.Close())
		}
	}
	t.Run("Sink", func(t *testing.T) {
		archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) { return create(t) })
	})
	t.Run("Source", func(t *testing.T) {
		want := archivetest.Checkpoint()
		path := filepath.Join(t.TempDir(), "images")
		sink, err := archive.CreateImages(path, "")
		if err != nil {
			t.Fatal(err)
		}
		copyAll(t, sink, archivetest.Source(want))
		archivetest.TestSource(t, func(t *testing.T) archive.Source {
			d, err := archive.OpenDir(path, archive.DirOptions{Images: true})
			if err != nil {
				t.Fatal(err)
			}
			return d
		}, want)
	})
}

// stream is a buffer that may be read while a compressor still writes to it.
type stream struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *stream) reader() *bytes.Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.NewReader(bytes.Clone(s.b.Bytes()))
}

// noLeftovers fails the test if dir holds anything but the allowed names.
func noLeftovers(tb testing.TB, dir string, allowed ...string) {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		tb.Fatal(err)
	}
	hidden, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range append(names, hidden...) {
		if name := filepath.Base(path); !slices.Contains(allowed, name) {
			tb.Errorf("left behind: %s", name)
		}
	}
}

func TestDiscard(t *testing.T) {
	var sink archive.Discard
	r := strings.NewReader("content")
	if err := sink.Put(t.Context(), archive.Entry{Name: "a", Size: 7}, r); err != nil {
		t.Fatal(err)
	}
	if r.Len() != 0 {
		t.Errorf("left unread: got %d bytes, want 0", r.Len())
	}
	if err := sink.Put(t.Context(), archive.Entry{Name: "d", Kind: archive.KindDir}, nil); err != nil {
		t.Errorf("directory: %v", err)
	}
	if err := errors.Join(sink.Commit(t.Context()), sink.Close(), sink.Close()); err != nil {
		t.Errorf("Commit and Close: %v", err)
	}
}
