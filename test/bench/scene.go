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
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// scene is what all tools work with.
type scene struct {
	dir    string // everything of this scene
	base   string // the pristine root file system
	out    string // shared with the container
	id     string // of the container
	mib    int    // its memory, about
	binary string // ckarchive
	load   workload
}

// newScene makes the root file system for a workload below dir, which it makes, with a copy of tree if there is one.
func newScene(ctx context.Context, dir, binary, tree string, mib int, choose func(out string) (workload, error)) (*scene, error) {
	s := &scene{
		dir: dir, base: filepath.Join(dir, "base"), out: filepath.Join(dir, "out"),
		id: fmt.Sprintf("ckarchive-bench-%d", os.Getpid()), mib: mib, binary: binary,
	}
	var err error
	if s.load, err = choose(s.out); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
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
	return s, s.load.install(ctx, s.base)
}

func build(ctx context.Context, to, pkg string) error {
	return run(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, pkg)
}

// clear empties the directory that is shared with the container.
func (s *scene) clear() error {
	for _, name := range []string{"ticks", "sum", "check", "change"} {
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
