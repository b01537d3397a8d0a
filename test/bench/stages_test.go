package main

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/test/bench/content"
)

// stageBytes is the memory of the checkpoint that the stages below work on.
const stageBytes = 256 << 20

// unpackedCheckpoint makes the directory that a dump leaves, as far as archive looks at it.
func unpackedCheckpoint(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	memory := make([]byte, stageBytes)
	content.Fill(memory)
	if err := os.Mkdir(filepath.Join(dir, archive.CheckpointDir), 0o700); err != nil {
		tb.Fatal(err)
	}
	for name, b := range map[string][]byte{
		archive.ConfigDump: []byte("{}"), archive.SpecDump: []byte("{}"),
		archive.Image(archive.Inventory): {0}, archive.Image("pages-1.img"): memory,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

func openCheckpoint(b *testing.B, dir string) archive.Source {
	b.Helper()
	src, err := archive.OpenDir(dir, archive.DirOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = src.Close() })
	return src
}

// move copies src to dst and closes dst.
func move(b *testing.B, dst archive.Sink, src archive.Source, commit bool) {
	b.Helper()
	if _, err := archive.Copy(b.Context(), dst, src, archive.CopyOptions{}); err != nil {
		b.Fatal(err)
	}
	if commit {
		if err := dst.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if err := dst.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStages takes export and restore apart, as far as they are ckarchive's own
// work: the difference between a stage and the one below it is what it adds.
func BenchmarkStages(b *testing.B) {
	dir := unpackedCheckpoint(b)
	pages := filepath.Join(dir, archive.Image("pages-1.img"))
	file := filepath.Join(dir, "..", "archive.tar.zst")
	sink, err := archive.CreateFile(file, archive.FileOptions{Replace: true})
	if err != nil {
		b.Fatal(err)
	}
	move(b, sink, openCheckpoint(b, dir), true)

	stage := func(name string, do func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(stageBytes)
			for b.Loop() {
				do(b)
			}
		})
	}
	through := func(b *testing.B, w io.Writer) {
		b.Helper()
		f, err := os.Open(pages)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // read only
		// The writer's own ReadFrom would be another thing than a stage does.
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
			b.Fatal(err)
		}
	}
	fromFile := func(b *testing.B) archive.Source {
		b.Helper()
		src, err := archive.OpenFile(file, archive.ReaderOptions{})
		if err != nil {
			b.Fatal(err)
		}
		return src
	}

	stage("read", func(b *testing.B) { through(b, io.Discard) })
	stage("xxhash", func(b *testing.B) { through(b, xxhash.New()) })
	stage("sha256", func(b *testing.B) { through(b, sha256.New()) })
	stage("HashMembers", func(b *testing.B) {
		if _, err := archive.HashMembers(b.Context(), openCheckpoint(b, dir)); err != nil {
			b.Fatal(err)
		}
	})
	for _, c := range archive.Compressions {
		stage("compress/"+string(c), func(b *testing.B) {
			w, err := archive.Compress(io.Discard, c)
			if err != nil {
				b.Fatal(err)
			}
			through(b, w)
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
	for _, commit := range []bool{false, true} {
		name := "file"
		if commit {
			name = "file+commit"
		}
		stage(name, func(b *testing.B) {
			sink, err := archive.CreateFile(filepath.Join(dir, "..", "again"), archive.FileOptions{Replace: true})
			if err != nil {
				b.Fatal(err)
			}
			move(b, sink, openCheckpoint(b, dir), commit)
		})
	}
	stage("decompress", func(b *testing.B) {
		f, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // read only
		r, _, err := archive.Decompress(f)
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // read only
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 1<<20)); err != nil {
			b.Fatal(err)
		}
	})
	unpack := func(b *testing.B, src archive.Source) {
		b.Helper()
		to := filepath.Join(dir, "..", "unpacked")
		sink, err := archive.CreateDir(to)
		if err != nil {
			b.Fatal(err)
		}
		move(b, sink, src, true)
		if err := archive.RemoveTree(to); err != nil {
			b.Fatal(err)
		}
		if err := src.Close(); err != nil {
			b.Fatal(err)
		}
	}
	stage("scan", func(b *testing.B) { move(b, archive.Discard{}, fromFile(b), true) })
	stage("unpack", func(b *testing.B) { unpack(b, fromFile(b)) })
	stage("unpack+verify", func(b *testing.B) { unpack(b, archive.NewVerified(fromFile(b))) })
	stage("copy directory", func(b *testing.B) { unpack(b, openCheckpoint(b, dir)) })
}
