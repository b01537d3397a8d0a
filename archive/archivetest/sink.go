package archivetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/ckarchive/ckarchive/archive"
)

// ReadBack gives what is visible of a sink's result, in the archive's order; an error
// when there is nothing, or nothing whole.
type ReadBack func() ([]File, error)

// TestSink runs the contract of [archive.Sink] on what create gives: a fresh sink, whose
// result lists every directory, and the way to see what became of it.
func TestSink(t *testing.T, create func(t *testing.T) (archive.Sink, func() ([]File, error))) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, archive.Sink, ReadBack){
		"commit":                        testCommit,
		"nothing before commit":         testBefore,
		"close without commit discards": testDiscard,
		"nothing put after commit":      testAfterCommit,
		"nothing put after close":       testAfterClose,
		"no commit after a failed put":  testFailedPut,
		"content shorter than its size": func(t *testing.T, s archive.Sink, b ReadBack) { testSize(t, s, b, -1) },
		"content longer than its size":  func(t *testing.T, s archive.Sink, b ReadBack) { testSize(t, s, b, +1) },
		"unclean names":                 testNames,
		"a name twice":                  testTwice,
		"cancel before put":             testCancelPut,
		"cancel during put":             testCancelContent,
		"cancel before commit":          testCancelCommit,
	} {
		t.Run(name, func(t *testing.T) {
			sink, readBack := create(t)
			test(t, sink, readBack)
			for range 2 {
				if err := sink.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
		})
	}
}

func put(t *testing.T, sink archive.Sink, files []File) {
	t.Helper()
	if _, err := archive.Copy(t.Context(), sink, Source(files), archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
}

// invisible fails the test if readBack finds anything.
func invisible(t *testing.T, when string, readBack ReadBack) {
	t.Helper()
	if files, err := readBack(); err == nil {
		t.Errorf("%s: %d members are visible, want none", when, len(files))
	}
}

func visible(t *testing.T, readBack ReadBack, want []File) {
	t.Helper()
	got, err := readBack()
	if err != nil {
		t.Fatalf("read back: %v", err)
	}
	Equal(t, got, want)
}

func testCommit(t *testing.T, sink archive.Sink, readBack ReadBack) {
	want := Checkpoint()
	put(t, sink, want)
	if err := sink.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatalf("Close after Commit: %v", err)
	}
	visible(t, readBack, want)
}

func testBefore(t *testing.T, sink archive.Sink, readBack ReadBack) {
	invisible(t, "before the first member", readBack)
	put(t, sink, Checkpoint())
	invisible(t, "before Commit", readBack)
}

func testDiscard(t *testing.T, sink archive.Sink, readBack ReadBack) {
	put(t, sink, Checkpoint())
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	invisible(t, "after Close", readBack)
	if err := sink.Commit(t.Context()); err == nil {
		t.Error("Commit after Close: got nil, want an error")
	}
	invisible(t, "after Close and Commit", readBack)
}

func testAfterCommit(t *testing.T, sink archive.Sink, readBack ReadBack) {
	want := Checkpoint()
	put(t, sink, want)
	if err := sink.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sink.Commit(t.Context()); err == nil {
		t.Error("second Commit: got nil, want an error")
	}
	late := File{Name: "late", Content: []byte("x")}
	if err := sink.Put(t.Context(), late.entry(), bytes.NewReader(late.Content)); err == nil {
		t.Error("Put after Commit: got nil, want an error")
	}
	visible(t, readBack, want)
}

func testAfterClose(t *testing.T, sink archive.Sink, readBack ReadBack) {
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	late := File{Name: "late", Content: []byte("x")}
	if err := sink.Put(t.Context(), late.entry(), bytes.NewReader(late.Content)); err == nil {
		t.Error("Put after Close: got nil, want an error")
	}
	invisible(t, "after Close", readBack)
}

// refused says that a sink is good for nothing but Close.
func refused(t *testing.T, sink archive.Sink, readBack ReadBack) {
	t.Helper()
	if err := sink.Commit(t.Context()); err == nil {
		t.Error("Commit after a failed Put: got nil, want an error")
	}
	if err := sink.Close(); err != nil {
		t.Errorf("Close after a failed Put: %v", err)
	}
	invisible(t, "after a failed Put", readBack)
}

func testFailedPut(t *testing.T, sink archive.Sink, readBack ReadBack) {
	put(t, sink, Checkpoint())
	e := archive.Entry{Name: "bad", Size: 1 << 20, ModTime: Time}
	broken := io.MultiReader(bytes.NewReader(make([]byte, 1000)), iotest.ErrReader(errStop))
	if err := sink.Put(t.Context(), e, broken); !errors.Is(err, errStop) {
		t.Errorf("Put of what cannot be read: got %v, want the reader's error", err)
	}
	refused(t, sink, readBack)
}

// lying announces other sizes than it delivers.
type lying struct {
	archive.Source
	more int64
}

func (l *lying) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	e, r, err := l.Source.Next(ctx)
	if e.Size > 0 {
		e.Size -= l.more
	}
	return e, r, err
}

func testSize(t *testing.T, sink archive.Sink, readBack ReadBack, more int64) {
	src := &lying{Source: Source([]File{{Name: "a", Content: make([]byte, 2000)}}), more: more}
	if _, err := archive.Copy(t.Context(), sink, src, archive.CopyOptions{}); err == nil {
		t.Error("Copy: got nil, want an error")
	}
	refused(t, sink, readBack)
}

func testNames(t *testing.T, sink archive.Sink, readBack ReadBack) {
	for _, name := range []string{"", ".", "..", "../x", "/x", "./x", "x/", "x//y", "x/../y", "x\x00", "x\xff"} {
		if err := sink.Put(t.Context(), archive.Entry{Name: name, ModTime: Time}, bytes.NewReader(nil)); err == nil {
			t.Errorf("Put of %q: got nil, want an error", name)
		}
	}
	refused(t, sink, readBack)
}

func testTwice(t *testing.T, sink archive.Sink, readBack ReadBack) {
	put(t, sink, []File{{Name: "a", Content: []byte("first")}})
	e := archive.Entry{Name: "a", Size: 6, ModTime: Time}
	if err := sink.Put(t.Context(), e, bytes.NewReader([]byte("second"))); err == nil {
		t.Error("second Put of one name: got nil, want an error")
	}
	refused(t, sink, readBack)
}

func testCancelPut(t *testing.T, sink archive.Sink, readBack ReadBack) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	e := archive.Entry{Name: "a", Size: 1, ModTime: Time}
	if err := sink.Put(ctx, e, bytes.NewReader([]byte("x"))); !errors.Is(err, errStop) {
		t.Errorf("Put with a cancelled context: got %v, want the context's cause", err)
	}
	refused(t, sink, readBack)
}

// endless delivers zeros and calls back at every read.
type endless struct{ onRead func() }

func (e *endless) Read(p []byte) (int, error) {
	e.onRead()
	clear(p)
	return len(p), nil
}

func testCancelContent(t *testing.T, sink archive.Sink, readBack ReadBack) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reads := 0
	r := &endless{onRead: func() {
		if reads++; reads == 2 {
			cancel(errStop)
		}
	}}
	if err := sink.Put(ctx, archive.Entry{Name: "a", Size: 1 << 30, ModTime: Time}, r); !errors.Is(err, errStop) {
		t.Errorf("Put with a context cancelled on the way: got %v, want the context's cause", err)
	}
	refused(t, sink, readBack)
}

func testCancelCommit(t *testing.T, sink archive.Sink, readBack ReadBack) {
	put(t, sink, Checkpoint())
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	if err := sink.Commit(ctx); !errors.Is(err, errStop) {
		t.Errorf("Commit with a cancelled context: got %v, want the context's cause", err)
	}
	if err := sink.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	invisible(t, "after a cancelled Commit", readBack)
}
