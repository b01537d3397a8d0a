package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

// benchBytes is the memory of the checkpoints that are measured.
const benchBytes = 64 << 20

// memory gives content as pages-1.img has it: of five pages two are zero, two hold
// small numbers and pointers, one is incompressible.
func memory(size int) []byte {
	const page = 4096
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, size)
	for off := 0; off+page <= size; off += page {
		p := b[off : off+page]
		switch off / page % 5 {
		case 0, 2:
		case 4:
			for i := 0; i < page; i += 8 {
				binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
			}
		default:
			for i := 0; i < page; i += 16 {
				binary.LittleEndian.PutUint64(p[i:], 0x7f0000000000+rng.Uint64N(1<<20)*8)
				binary.LittleEndian.PutUint64(p[i+8:], rng.Uint64N(256))
			}
		}
	}
	return b
}

// memSource is a checkpoint in memory.
type memSource struct {
	pages []byte
	rest  []string
}

func newMemSource(pages []byte) *memSource {
	return &memSource{pages: pages, rest: []string{archive.ConfigDump, archive.SpecDump, archive.Image(archive.Inventory), archive.Image("pages-1.img")}}
}

func (s *memSource) Next(context.Context) (archive.Entry, io.Reader, error) {
	if len(s.rest) == 0 {
		return archive.Entry{}, nil, io.EOF
	}
	name := s.rest[0]
	s.rest = s.rest[1:]
	content := []byte("{}")
	if archive.IsPages(name) {
		content = s.pages
	}
	return archive.Entry{Name: name, Size: int64(len(content))}, bytes.NewReader(content), nil
}

func (s *memSource) Close() error { return nil }

func BenchmarkCopyDiscard(b *testing.B) {
	pages := memory(benchBytes)
	b.SetBytes(benchBytes)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := archive.Copy(b.Context(), archive.Discard{}, newMemSource(pages), archive.CopyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExport writes an archive file, durably.
func BenchmarkExport(b *testing.B) {
	pages := memory(benchBytes)
	for _, c := range archive.Compressions {
		b.Run(string(c), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "a")
			b.SetBytes(benchBytes)
			b.ReportAllocs()
			for b.Loop() {
				writeFile(b, path, pages, c)
			}
			if info, err := os.Stat(path); err == nil {
				b.ReportMetric(float64(info.Size())/benchBytes, "packed/plain")
			}
		})
	}
}

// BenchmarkWrite is Export without the disk.
func BenchmarkWrite(b *testing.B) {
	pages := memory(benchBytes)
	for _, c := range archive.Compressions {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(benchBytes)
			b.ReportAllocs()
			for b.Loop() {
				sink, err := archive.NewStreamSink(io.Discard, archive.StreamOptions{Compression: c})
				if err != nil {
					b.Fatal(err)
				}
				copyAll(b, sink, newMemSource(pages))
			}
		})
	}
}

// BenchmarkRead scans an archive file to its end; with Verified it also proves it, with
// Unpack it also writes a directory.
func BenchmarkRead(b *testing.B) {
	pages := memory(benchBytes)
	for _, c := range archive.Compressions {
		path := filepath.Join(b.TempDir(), "a")
		writeFile(b, path, pages, c)
		run := func(name string, wrap func(archive.Source) archive.Source, sink func(*testing.B, int) archive.Sink) {
			b.Run(fmt.Sprintf("%s/%s", name, c), func(b *testing.B) {
				b.SetBytes(benchBytes)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					src, err := archive.OpenFile(path, archive.ReaderOptions{})
					if err != nil {
						b.Fatal(err)
					}
					copyAll(b, sink(b, i), wrap(src))
				}
			})
		}
		plain := func(s archive.Source) archive.Source { return s }
		proven := func(s archive.Source) archive.Source { return archive.NewVerified(s) }
		discard := func(*testing.B, int) archive.Sink { return archive.Discard{} }
		unpack := func(b *testing.B, i int) archive.Sink {
			b.Helper()
			dir := b.TempDir()
			sink, err := archive.CreateDir(filepath.Join(dir, fmt.Sprint("d", i)))
			if err != nil {
				b.Fatal(err)
			}
			return &removing{DirSink: sink, path: filepath.Join(dir, fmt.Sprint("d", i))}
		}
		run("Scan", plain, discard)
		run("Verified", proven, discard)
		run("Unpack", plain, unpack)
		run("VerifiedUnpack", proven, unpack)
	}
}

// removing removes the directory again, so that a benchmark does not fill the disk.
type removing struct {
	*archive.DirSink
	path string
}

func (r *removing) Close() error {
	if err := r.DirSink.Close(); err != nil {
		return err
	}
	return archive.RemoveTree(r.path)
}

func writeFile(tb testing.TB, path string, pages []byte, c archive.Compression) {
	tb.Helper()
	sink, err := archive.CreateFile(path, archive.FileOptions{Compression: c, Replace: true})
	if err != nil {
		tb.Fatal(err)
	}
	copyAll(tb, sink, newMemSource(pages))
}

// copyAll copies, commits and closes both.
func copyAll(tb testing.TB, sink archive.Sink, src archive.Source) {
	tb.Helper()
	if _, err := archive.Copy(tb.Context(), sink, src, archive.CopyOptions{}); err != nil {
		tb.Fatal(err)
	}
	if err := sink.Commit(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := src.Close(); err != nil {
		tb.Fatal(err)
	}
}
