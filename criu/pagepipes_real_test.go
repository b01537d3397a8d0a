package criu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// TestRuntimePipesStalledReader lets runc dump a task that writes one number after the other over all of its
// memory, into pipes whose reader reads the last of it long after runc has ended. The memory is that of one moment if the
// task goes on when Run has returned. That the test would see it otherwise is shown by a task that goes on before.
func TestRuntimePipesStalledReader(t *testing.T) {
	requireReal(t)
	for name, early := range map[string]bool{"after all is read": false, "before": true} {
		t.Run(name, func(t *testing.T) {
			c := startContainer(t, withTask(t, "generations"))
			tick(t, c.out)
			run(t, c.runc("pause", c.id))
			dir := t.TempDir()
			reader := stalledReader{ended: make(chan struct{})}
			pipes, err := OpenPagePipes(t.Context(), dir, c.pid, reader.take)
			must(t, err)
			sizes, err := pipes.Run(func() error {
				defer close(reader.ended)
				run(t, c.runc("checkpoint", "--leave-running", "--image-path", dir, "--work-path", t.TempDir(), c.id))
				if early {
					run(t, c.runc("resume", c.id))
				}
				return nil
			})
			must(t, err)
			if late := reader.late.Load(); late == 0 {
				t.Fatal("nothing was left to read when runc had ended: the reader did not stall")
			}
			if !early {
				run(t, c.runc("resume", c.id))
			}
			mustTick(t, c.out)
			torn := reader.torn(t)
			if torn != early {
				t.Errorf("memory of several moments: %v, want %v", torn, early)
			}
			_, err = Check(t.Context(), dir, CheckOptions{Taken: sizes})
			must(t, err)
			left, err := filepath.Glob(filepath.Join(dir, "pages-*"))
			must(t, err)
			if len(left) != 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// stalledReader leaves a pipe as full as it can until the dump has ended, and then waits.
type stalledReader struct {
	ended chan struct{}
	late  atomic.Int64 // bytes that were read after that
	mu    sync.Mutex
	all   [][]byte
}

const stall = 300 * time.Millisecond

func (s *stalledReader) take(_ context.Context, _ string, r io.Reader) error {
	f := r.(*takenReader).r.(*os.File)
	size, err := unix.FcntlInt(f.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return err
	}
	var content []byte
	piece, over := make([]byte, 64<<10), false
	for {
		select {
		case <-s.ended:
			if !over {
				time.Sleep(stall)
			}
			over = true
		default:
		}
		waiting, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
		if err != nil {
			return err
		}
		if !over && waiting < size*3/4 {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		n, err := r.Read(piece)
		content = append(content, piece[:n]...)
		if over {
			s.late.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.all = append(s.all, content)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// torn tells whether pages of the task are of generations that never were there together.
func (s *stalledReader) torn(t *testing.T) bool {
	t.Helper()
	lowest, highest, pages := uint64(math.MaxUint64), uint64(0), 0
	for _, content := range s.all {
		for ; len(content) >= 4096; content = content[4096:] {
			if string(content[:8]) != "GENERATE" {
				continue
			}
			n := binary.LittleEndian.Uint64(content[8:])
			lowest, highest, pages = min(lowest, n), max(highest, n), pages+1
		}
	}
	if pages < 4096 {
		t.Fatalf("%d pages of the task were found", pages)
	}
	return highest > lowest+1
}

// TestOpenPagePipesFails: a directory in which no pipe can be made is left as it was.
func TestOpenPagePipesFails(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "pages-3.img"), []byte("in the way"), 0o600))
	if _, err := OpenPagePipes(t.Context(), dir, os.Getpid(), nil); err == nil {
		t.Fatal("a pipe was made in place of a file")
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 1 || left[0].Name() != "pages-3.img" {
		t.Errorf("%v is left, want the file alone", left)
	}
}

// TestPagePipesRunErrors: why the reader failed says more than that a pipe was closed.
func TestPagePipesRunErrors(t *testing.T) {
	full, broken := errors.New("disk is full"), errors.New("broken pipe")
	for name, tt := range map[string]struct {
		take, dump error
		want       []error
	}{
		"both":   {full, broken, []error{full, broken}},
		"reader": {full, nil, []error{full}},
		"dump":   {nil, broken, []error{broken}},
		"none":   {nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pipes, err := OpenPagePipes(t.Context(), dir, os.Getpid(), func(_ context.Context, _ string, r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return errors.Join(tt.take, err)
			})
			must(t, err)
			sizes, err := pipes.Run(func() error {
				must(t, os.WriteFile(filepath.Join(dir, "pages-2.img"), make([]byte, 8192), 0o600))
				return tt.dump
			})
			if (err != nil) != (len(tt.want) > 0) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			for _, want := range tt.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v, want it to hold %v", err, want)
				}
			}
			if tt.take == nil && sizes["pages-2.img"] != 8192 {
				t.Errorf("sizes %v", sizes)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%v is left: %v", left, err)
			}
		})
	}
}
