package criu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestDumpTakePages dumps a paused container twice, through pipes and to files: the memory is
// the same, and nothing of it is left in the images' directory.
func TestDumpTakePages(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t)
	tick(t, c.out)
	run(t, c.runc("pause", c.id))
	files := c.options(t.TempDir())
	files.LeaveRunning = true
	want, err := Dump(t.Context(), b, files)
	if err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	var mu sync.Mutex
	taken := map[string][]byte{}
	pipes := c.options(t.TempDir())
	pipes.LeaveRunning = true
	pipes.TakePages = func(_ context.Context, name string, r io.Reader) error {
		content, err := io.ReadAll(r)
		mu.Lock()
		defer mu.Unlock()
		taken[name] = content
		return err
	}
	pipes.PostDump = func(context.Context, Dumped) error {
		mu.Lock()
		defer mu.Unlock()
		if len(taken) == 0 {
			t.Error("PostDump was called before the memory was taken")
		}
		return nil
	}
	got, err := Dump(t.Context(), b, pipes)
	if err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	if got.MemoryBytes != want.MemoryBytes || got.MemoryBytes == 0 {
		t.Errorf("%d bytes of memory, want %d", got.MemoryBytes, want.MemoryBytes)
	}
	for name, content := range taken {
		onDisk, err := os.ReadFile(filepath.Join(files.ImagesDir, name))
		must(t, err)
		if n := differentPages(content, onDisk); n > maxTraces {
			t.Errorf("%s: %d pages through the pipe differ from those in a file of %d bytes", name, n, len(onDisk))
		}
	}
	left, err := filepath.Glob(filepath.Join(pipes.ImagesDir, "pages-*"))
	must(t, err)
	if len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	run(t, c.runc("resume", c.id))
	mustTick(t, c.out)
}

// maxTraces are the pages of a task that the first dump itself may have changed: CRIU runs code on
// the task's stack.
const maxTraces = 2

// differentPages counts the pages in which two files differ, all of them if their lengths do.
func differentPages(a, b []byte) (n int) {
	if len(a) != len(b) {
		return max(len(a), len(b))
	}
	size := os.Getpagesize()
	for ; len(a) > 0; a, b = a[min(size, len(a)):], b[min(size, len(b)):] {
		if !bytes.Equal(a[:min(size, len(a))], b[:min(size, len(b))]) {
			n++
		}
	}
	return n
}

// TestDumpTakePagesFails lets the reader fail at once and after some bytes: the dump fails with its
// reason, and the container goes on.
func TestDumpTakePagesFails(t *testing.T) {
	b := requireReal(t)
	full := errors.New("disk is full")
	for name, take := range map[string]TakePages{
		"at once": func(context.Context, string, io.Reader) error { return full },
		"midway": func(_ context.Context, _ string, r io.Reader) error {
			_, err := io.ReadFull(r, make([]byte, 4096))
			return errors.Join(full, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := startContainer(t)
			tick(t, c.out)
			opts := c.options(t.TempDir())
			opts.TakePages = take
			_, err := Dump(t.Context(), b, opts)
			if err == nil || !strings.Contains(err.Error(), full.Error()) {
				t.Fatalf("error %v, want the reader's", err)
			}
			mustTick(t, c.out)
			left, err := filepath.Glob(filepath.Join(opts.ImagesDir, "pages-*"))
			must(t, err)
			for _, path := range left {
				if fi, err := os.Lstat(path); err == nil && !fi.Mode().IsRegular() {
					t.Errorf("%s is left, a %v", path, fi.Mode())
				}
			}
		})
	}
}
