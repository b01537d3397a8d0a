package archivetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/ckarchive/ckarchive/archive"
)

// TestSource runs the contract of [archive.Source] on what open gives, a fresh source
// of the members want at each call, and that of [archive.Opener] if it is one.
func TestSource(t *testing.T, open func(t *testing.T) archive.Source, want []File) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, archive.Source, []File){
		"order and content":             testWhole,
		"small reads":                   testSmallReads,
		"members left unread":           testUnread,
		"end stays the end":             testEnd,
		"close before the end":          testCloseEarly,
		"cancel before Next":            testCancel,
		"Copy takes everything":         testCopy,
		"cancel during Copy":            testCancelCopy,
		"Opener agrees with Next":       testOpener,
		"Opener misses what is not":     testOpenerMissing,
		"Opener serves several at once": testOpenerConcurrent,
	} {
		t.Run(name, func(t *testing.T) {
			src := open(t)
			test(t, src, want)
			for range 2 {
				if err := src.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
		})
	}
}

func testWhole(t *testing.T, src archive.Source, want []File) {
	got, err := Read(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	Equal(t, got, want)
}

func testSmallReads(t *testing.T, src archive.Source, want []File) {
	const few = 64 << 10 // one byte at a time takes its time
	for _, w := range want {
		e, r, err := src.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if w.Dir || len(w.Content) > few {
			continue
		}
		got, err := io.ReadAll(iotest.OneByteReader(r))
		if err != nil || !bytes.Equal(got, w.Content) {
			t.Errorf("%s: got %d bytes, %v, want %d", e.Name, len(got), err, len(w.Content))
		}
	}
}

func testUnread(t *testing.T, src archive.Source, want []File) {
	for i, w := range want {
		e, r, err := src.Next(t.Context())
		if err != nil {
			t.Fatalf("member %d, %s: %v", i, w.Name, err)
		}
		if e.Name != w.Name {
			t.Fatalf("member %d: got %s, want %s", i, e.Name, w.Name)
		}
		if (r == nil) != w.Dir {
			t.Errorf("%s: got reader %v, want one for files only", e.Name, r)
		}
		if i%2 == 0 && r != nil && len(w.Content) > 0 {
			var one [1]byte
			if _, err := io.ReadFull(r, one[:]); err != nil || one[0] != w.Content[0] {
				t.Errorf("%s: first byte: got %#x, %v, want %#x", e.Name, one[0], err, w.Content[0])
			}
		}
	}
	if e, _, err := src.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the last member: got %q, %v, want io.EOF", e.Name, err)
	}
}

func testEnd(t *testing.T, src archive.Source, _ []File) {
	if _, err := Read(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if e, _, err := src.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("Next after io.EOF: got %q, %v, want io.EOF", e.Name, err)
		}
	}
}

func testCloseEarly(t *testing.T, src archive.Source, want []File) {
	if e, _, err := src.Next(t.Context()); err != nil || e.Name != want[0].Name {
		t.Fatalf("first member: got %q, %v, want %q", e.Name, err, want[0].Name)
	}
	if err := src.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if e, _, err := src.Next(t.Context()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Next after Close: got %q, %v, want an error that is not io.EOF", e.Name, err)
	}
}

var errStop = errors.New("stopped by the test")

func testCancel(t *testing.T, src archive.Source, _ []File) {
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, _, err := src.Next(ctx); err != nil {
		t.Fatal(err)
	}
	cancel(errStop)
	if e, _, err := src.Next(ctx); !errors.Is(err, errStop) {
		t.Errorf("Next with a cancelled context: got %q, %v, want the context's cause", e.Name, err)
	}
}

func testCopy(t *testing.T, src archive.Source, want []File) {
	var dst collector
	sum, err := archive.Copy(t.Context(), &dst, src, archive.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	Equal(t, dst.files, want)
	var size int64
	for _, w := range want {
		size += int64(len(w.Content))
	}
	if got, want := sum, (archive.Summary{Entries: len(want), Bytes: size}); got != want {
		t.Errorf("summary: got %+v, want %+v", got, want)
	}
}

func testCancelCopy(t *testing.T, src archive.Source, want []File) {
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := archive.Copy(ctx, archive.Discard{}, src, archive.CopyOptions{OnEntry: func(e archive.Entry) {
		if e.Name == want[len(want)/2].Name {
			cancel(errStop)
		}
	}})
	if !errors.Is(err, errStop) {
		t.Errorf("Copy with a cancelled context: got %v, want the context's cause", err)
	}
}

// collector is a sink that keeps everything.
type collector struct{ files []File }

func (c *collector) Put(_ context.Context, e archive.Entry, r io.Reader) error {
	f := File{Name: e.Name, Dir: e.Kind == archive.KindDir}
	if r != nil {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		f.Content = b
	}
	c.files = append(c.files, f)
	return nil
}

func (c *collector) Commit(context.Context) error { return nil }

func (c *collector) Close() error { return nil }

func opener(t *testing.T, src archive.Source) archive.Opener {
	t.Helper()
	o, ok := src.(archive.Opener)
	if !ok {
		t.Skip("the source is no Opener, which is optional")
	}
	return o
}

func testOpener(t *testing.T, src archive.Source, want []File) {
	o := opener(t, src)
	entries, err := o.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := func(e archive.Entry) string { return e.Name }
	if got, want := mapped(entries, names), mapped(want, func(f File) string { return f.Name }); !slices.Equal(got, want) {
		t.Errorf("entries: got %q, want %q", got, want)
	}
	for _, w := range want {
		_, r, err := src.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if w.Dir {
			continue
		}
		if got, err := openAll(t.Context(), o, w.Name); err != nil || !bytes.Equal(got, w.Content) {
			t.Errorf("%s: Open gives %d bytes, %v, want the %d of Next", w.Name, len(got), err, len(w.Content))
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, w.Content) {
			t.Errorf("%s: Open disturbed Next: got %d bytes, %v, want %d", w.Name, len(got), err, len(w.Content))
		}
	}
}

func mapped[T any](list []T, f func(T) string) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, f(v))
	}
	return out
}

func openAll(ctx context.Context, o archive.Opener, name string) (b []byte, err error) {
	blob, err := o.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	b = make([]byte, blob.Size())
	if n, err := blob.ReadAt(b, 0); n < len(b) {
		return b[:n], err
	}
	if n, err := blob.ReadAt(make([]byte, 1), blob.Size()); n != 0 || !errors.Is(err, io.EOF) {
		return nil, errors.New("content behind Size")
	}
	return b, nil
}

func testOpenerMissing(t *testing.T, src archive.Source, want []File) {
	o := opener(t, src)
	names := []string{"", ".", "..", "/", "no such member", "../" + want[0].Name, "./" + want[0].Name, want[0].Name + "/x"}
	for _, w := range want {
		if w.Dir {
			names = append(names, w.Name)
		}
	}
	for _, name := range names {
		if b, err := o.Open(t.Context(), name); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("Open(%q): got %v, %v, want ErrNotFound", name, b, err)
		}
	}
}

func testOpenerConcurrent(t *testing.T, src archive.Source, want []File) {
	o := opener(t, src)
	var wg sync.WaitGroup
	for _, w := range want {
		if w.Dir {
			continue
		}
		blob, err := o.Open(t.Context(), w.Name)
		if err != nil {
			t.Fatal(err)
		}
		const pieces = 4
		size := len(w.Content)/pieces + 1
		var readers sync.WaitGroup
		for i := range pieces {
			readers.Go(func() {
				from := min(i*size, len(w.Content))
				part := w.Content[from:min(from+size, len(w.Content))]
				got := make([]byte, len(part))
				if n, err := blob.ReadAt(got, int64(from)); n != len(part) || !bytes.Equal(got, part) {
					t.Errorf("%s: ReadAt(%d): got %d bytes, %v, want %d", w.Name, from, n, err, len(part))
				}
			})
		}
		wg.Go(func() {
			readers.Wait()
			if err := blob.Close(); err != nil {
				t.Errorf("%s: close: %v", w.Name, err)
			}
		})
		wg.Go(func() {
			if got, err := openAll(t.Context(), o, w.Name); err != nil || !bytes.Equal(got, w.Content) {
				t.Errorf("%s: Open at the same time: got %d bytes, %v, want %d", w.Name, len(got), err, len(w.Content))
			}
		})
	}
	wg.Wait()
}
