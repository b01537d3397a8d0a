package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// scene is what all tools work with.
type scene struct {
	dir    string // everything of this benchmark
	base   string // the pristine root file system
	out    string // shared with the container
	id     string // of the container
	mib    int    // its memory
	binary string // ckarchive
}

// newScene builds the programs and the root file system below dir.
func newScene(ctx context.Context, dir, binary, tree string, mib int) (*scene, error) {
	s := &scene{
		dir: dir, base: filepath.Join(dir, "base"), out: filepath.Join(dir, "out"),
		id: fmt.Sprintf("ckarchive-bench-%d", os.Getpid()), mib: mib, binary: binary,
	}
	if tree != "" {
		if err := run(ctx, "cp", "-a", tree, s.base); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{s.out, "dev", "etc", "out", "proc", "sys", "tmp"} {
		if d != s.out {
			d = filepath.Join(s.base, d)
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(s.base, "etc/removed"), []byte("removed by the load\n"), 0o644); err != nil {
		return nil, err
	}
	if err := build(ctx, filepath.Join(s.base, "load"), "github.com/ckarchive/ckarchive/test/bench/load"); err != nil {
		return nil, err
	}
	if s.binary == "" {
		s.binary = filepath.Join(dir, "ckarchive")
		return s, build(ctx, s.binary, "github.com/ckarchive/ckarchive/cmd/ckarchive")
	}
	var err error
	s.binary, err = filepath.Abs(s.binary)
	return s, err
}

func build(ctx context.Context, to, pkg string) error {
	return run(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, pkg)
}

// command is what the container runs.
func (s *scene) command() []string { return []string{"/load", strconv.Itoa(s.mib), "/out"} }

// clear empties the directory that is shared with the container.
func (s *scene) clear() error {
	for _, name := range []string{"ticks", "sum", "check"} {
		if err := os.Remove(filepath.Join(s.out, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// warmUp makes the machine ready: dirty pages are written, so that nobody pays for those of
// another, and on virtual machines the memory has been touched.
func (s *scene) warmUp() (err error) {
	unix.Sync()
	f, err := os.CreateTemp("/dev/shm", "ckarchive-bench-")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	want := int64(s.mib) << 20 * 3 / 2
	free, err := archive.FreeSpace("/dev/shm")
	if err != nil {
		return err
	}
	zeros := bytes.NewReader(make([]byte, 1<<20))
	for n := int64(0); n < min(want, free/2); n += zeros.Size() {
		if _, err := zeros.WriteTo(f); err != nil {
			return err
		}
		if _, err := zeros.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return nil
}

// pollEvery and patience bound the waiting for the container's files.
const (
	pollEvery = 2 * time.Millisecond
	patience  = 2 * time.Minute
)

// await polls until found answers.
func await(ctx context.Context, what string, found func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no %s within %s", what, patience))
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if ok, err := found(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// firstTick waits for the first instruction of the container after the time since.
func (s *scene) firstTick(ctx context.Context, since time.Time) (time.Time, error) {
	var tick time.Time
	err := await(ctx, "tick of the container", func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(s.out, "ticks"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		tick, err = tickAfter(b, since)
		return !tick.IsZero(), err
	})
	return tick, err
}

// tickAfter finds the first time after since in the lines of b, or gives the zero time. A last
// line without its end is still being written.
func tickAfter(b []byte, since time.Time) (time.Time, error) {
	for line := range strings.Lines(string(b)) {
		digits, whole := strings.CutSuffix(line, "\n")
		if !whole {
			break
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("read a tick: %w", err)
		}
		if at := time.Unix(0, n); at.After(since) {
			return at, nil
		}
	}
	return time.Time{}, nil
}

// checkMemory lets the restored container compute the checksum of its memory again.
func (s *scene) checkMemory(ctx context.Context) error {
	want, err := os.ReadFile(filepath.Join(s.out, "sum"))
	if err != nil {
		return err
	}
	request := filepath.Join(s.out, "check")
	if err := os.WriteFile(request, nil, 0o644); err != nil {
		return err
	}
	err = await(ctx, "checksum of the memory", func() (bool, error) {
		_, err := os.Stat(request)
		return errors.Is(err, fs.ErrNotExist), nil
	})
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(s.out, "sum"))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("the memory has changed: its checksum is %s, it was %s", bytes.TrimSpace(got), bytes.TrimSpace(want))
	}
	return nil
}
