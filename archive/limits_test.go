package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ckarchive/ckarchive/archive"
)

// repeated delivers a block n times.
type repeated struct {
	block []byte
	n     int64
	off   int
}

func (r *repeated) Read(p []byte) (int, error) {
	done := 0
	for done < len(p) && r.n > 0 {
		n := copy(p[done:], r.block[r.off:])
		done += n
		if r.off += n; r.off == len(r.block) {
			r.off = 0
			r.n--
		}
	}
	if done == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return done, nil
}

// zeros delivers n zeros.
func zeros(n int64) io.Reader {
	return io.MultiReader(
		&repeated{block: make([]byte, 64<<10), n: n / (64 << 10)},
		bytes.NewReader(make([]byte, n%(64<<10))))
}

// numbered delivers n empty files with names of their own.
func numbered(format string, n int) io.Reader {
	i := 0
	return &generated{next: func() []byte {
		if i == n {
			return nil
		}
		i++
		return raw{name: fmt.Sprintf(format, i)}.bytes()
	}}
}

type generated struct {
	next func() []byte
	rest []byte
}

func (g *generated) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if g.rest = g.next(); g.rest == nil {
			return 0, io.EOF
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// scan reads an archive to its end.
func scan(ctx context.Context, r io.Reader, opts archive.ReaderOptions) (err error) {
	src, err := archive.NewReader(r, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	_, err = archive.Copy(ctx, archive.Discard{}, src, archive.CopyOptions{})
	return err
}

// TestReaderLimits holds every limit of the reader: what is at it passes, one more does not.
func TestReaderLimits(t *testing.T) {
	one := raw{name: "a", body: "x"}
	end := func() io.Reader { return strings.NewReader(endMark) }
	// A record that makes a PAX header of n bytes.
	comment := func(n int) raw {
		return pax(paxRecord("comment", strings.Repeat("c", n-len("1048576 comment=\n"))))
	}
	if got := len(comment(archive.MaxExtendedHeaderBytes).body); got != archive.MaxExtendedHeaderBytes {
		t.Fatalf("extension header: got %d bytes, want %d", got, archive.MaxExtendedHeaderBytes)
	}
	const maxHeaders = 2*archive.MaxEntries + 1000
	const folders = 10 // of a name below
	for name, c := range map[string]struct {
		opts  archive.ReaderOptions
		build func(over int) io.Reader
	}{
		"entries": {build: func(over int) io.Reader {
			return io.MultiReader(numbered("%d", archive.MaxEntries+over), end())
		}},
		"names with implied folders": {build: func(over int) io.Reader {
			return io.MultiReader(numbered(strings.Repeat("d%[1]d/", folders-1)+"f", archive.MaxEntries/folders+over), end())
		}},
		"headers": {build: func(over int) io.Reader {
			g := global().bytes()
			return io.MultiReader(bytes.NewReader(one.bytes()), &repeated{block: g, n: int64(maxHeaders - 1 + over)}, end())
		}},
		"one extension header": {build: func(over int) io.Reader {
			return bytes.NewReader(tarOf(comment(archive.MaxExtendedHeaderBytes+over), one))
		}},
		"all extension headers": {build: func(over int) io.Reader {
			g := comment(archive.MaxExtendedHeaderBytes)
			g.flag = 'g'
			more := pax(strings.Repeat("9 c=dddd\n", over)) // 0 or 9 bytes
			return io.MultiReader(&repeated{block: g.bytes(), n: archive.MaxAllExtendedBytes / archive.MaxExtendedHeaderBytes},
				bytes.NewReader(tarOf(more, one)))
		}},
		"padding": {build: func(over int) io.Reader {
			return io.MultiReader(bytes.NewReader(tarOf(one)), zeros(int64(archive.MaxPaddingBytes+over)))
		}},
		"total by option": {opts: archive.ReaderOptions{MaxBytes: 1000}, build: func(over int) io.Reader {
			return bytes.NewReader(tarOf(raw{name: "a", body: strings.Repeat("x", 900)}, raw{name: "b", body: strings.Repeat("x", 100+over)}))
		}},
		"name": {build: func(over int) io.Reader {
			return bytes.NewReader(tarOf(pax(paxRecord("path", nameOf(archive.MaxNameBytes+over))), one))
		}},
		"name component": {build: func(over int) io.Reader {
			return bytes.NewReader(tarOf(pax(paxRecord("path", "d/"+strings.Repeat("n", archive.MaxComponentBytes+over))), one))
		}},
		"name depth": {build: func(over int) io.Reader {
			return bytes.NewReader(tarOf(pax(paxRecord("path", strings.Repeat("d/", archive.MaxNameDepth-1+over)+"f")), one))
		}},
		"zstd window": {build: func(over int) io.Reader {
			const maxWindow = 128 << 20
			var b bytes.Buffer
			z, err := zstd.NewWriter(&b, zstd.WithWindowSize(maxWindow<<over))
			if err != nil {
				t.Fatal(err)
			}
			// A frame that is begun before its length is known names its window.
			for _, part := range [][]byte{one.bytes(), []byte(endMark)} {
				if _, err := z.Write(part); err != nil {
					t.Fatal(err)
				}
				if err := z.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			return &b
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := scan(t.Context(), c.build(0), c.opts); err != nil {
				t.Errorf("at the limit: got %v, want it accepted", err)
			}
			if err := scan(t.Context(), c.build(1), c.opts); !errors.Is(err, archive.ErrRejected) {
				t.Errorf("over the limit: got %v, want ErrRejected", err)
			}
		})
	}
}

// nameOf gives a name of n bytes with no component near its own limit.
func nameOf(n int) string {
	const component = 128 // with the slash
	return strings.Repeat(strings.Repeat("n", component-1)+"/", n/component-1) + strings.Repeat("n", n-(n/component-1)*component)
}

// TestTotalLimit judges by the headers alone, before any content.
func TestTotalLimit(t *testing.T) {
	for over, accept := range map[int64]bool{0: true, 1: false} {
		h := raw{name: "a", size: size(archive.MaxTotalBytes + over)}.bytes()
		src := newReader(t, h)
		e, _, err := src.Next(t.Context())
		switch {
		case accept && (err != nil || e.Size != archive.MaxTotalBytes):
			t.Errorf("at the limit: got size %d, %v, want %d", e.Size, err, archive.MaxTotalBytes)
		case !accept && !errors.Is(err, archive.ErrRejected):
			t.Errorf("over the limit: got %v, want ErrRejected", err)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBomb rejects a large member by its header: no content is asked for.
func TestBomb(t *testing.T) {
	const bomb = 8 << 30
	h := raw{name: "checkpoint/pages-9.img", size: size(bomb)}.bytes()
	var asked int64
	r := io.MultiReader(bytes.NewReader(h), readFunc(func(p []byte) (int, error) {
		asked += int64(len(p))
		clear(p)
		return len(p), nil
	}))
	err := scan(t.Context(), r, archive.ReaderOptions{MaxBytes: 1 << 30})
	if !errors.Is(err, archive.ErrRejected) {
		t.Errorf("got %v, want ErrRejected", err)
	}
	const ahead = 4 << 20 // what a buffer may fetch before the header is judged
	if asked > ahead {
		t.Errorf("read %d bytes of content, want at most %d", asked, ahead)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestNoRoom refuses what cannot fit before the first byte of it is written.
func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	free, err := archive.FreeSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := archive.CreateDir(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	read := readFunc(func([]byte) (int, error) {
		t.Error("content was read")
		return 0, io.EOF
	})
	e := archive.Entry{Name: "a", Size: free + 1<<40}
	if err := sink.Put(t.Context(), e, read); !errors.Is(err, archive.ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	noLeftovers(t, dir)
}

func TestCleanName(t *testing.T) {
	for in, want := range map[string]string{
		"a":                          "a",
		"./a":                        "a",
		"a/":                         "a",
		"./a/b/":                     "a/b",
		"..a/...":                    "..a/...",
		"a b\n\t\x1b":                "a b\n\t\x1b",
		`a\b`:                        `a\b`,
		nameOf(archive.MaxNameBytes): nameOf(archive.MaxNameBytes),
		strings.Repeat("n", archive.MaxComponentBytes):               strings.Repeat("n", archive.MaxComponentBytes),
		path.Join(strings.Repeat("d/", archive.MaxNameDepth-1), "f"): path.Join(strings.Repeat("d/", archive.MaxNameDepth-1), "f"),
	} {
		got, err := archive.CleanName(in)
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", archive.QuoteName(in), archive.QuoteName(got), err, archive.QuoteName(want))
		}
	}
	for _, in := range []string{
		"", ".", "./", "/", "//", ".//", "..", "../", "./..", "../a", "./../a", "a/..", "a/../b", "a/../../b",
		"/a", "//a", ".//a", "./.", "././a", "a//b", "a/./b", "a//", "a/.", "a\x00", "a\xff",
		nameOf(archive.MaxNameBytes + 1),
		strings.Repeat("n", archive.MaxComponentBytes+1),
		strings.Repeat("d/", archive.MaxNameDepth) + "f",
	} {
		if got, err := archive.CleanName(in); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %s, %v, want ErrRejected", archive.QuoteName(in), archive.QuoteName(got), err)
		}
	}
}

func TestQuoteName(t *testing.T) {
	const shown = 80
	for in, want := range map[string]string{
		"a":                            `"a"`,
		"a\n\x1b[2J\u202eé":            `"a\n\x1b[2J\u202eé"`,
		strings.Repeat("n", shown):     `"` + strings.Repeat("n", shown) + `"`,
		strings.Repeat("n", shown+1):   `"` + strings.Repeat("n", shown) + `"...`,
		strings.Repeat("é", shown/2+1): `"` + strings.Repeat(`é`, shown/2) + `"...`,
	} {
		if got := archive.QuoteName(in); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestOrder is the fixed order of an archive.
func TestOrder(t *testing.T) {
	want := []string{
		"config.dump", "spec.dump", "status.dump", "status", "ckarchive.json", "bind.mounts", "network.status", "stats-dump", "dump.log",
		"checkpoint", "checkpoint/descriptors.json", "checkpoint/inventory.img", "checkpoint/cgroup.img", "checkpoint/core-1.img",
		"checkpoint/pages-1.img", "checkpoint/pages-2.img", "checkpoint/pages-10.img",
		"devshm-checkpoint.tar", "rootfs-diff.tar", "deleted.files", "volumes", "volumes/a.tar", "artifacts", "artifacts/x", "zzz",
	}
	for i, a := range want {
		for j, b := range want {
			if got, want := archive.Less(a, b), i < j; got != want {
				t.Errorf("Less(%s, %s): got %t, want %t", a, b, got, want)
			}
		}
	}
}
