package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/criu"
)

// previousFlag has the name that it has in podman container restore.
type previousFlag struct {
	ImportPrevious string `help:"Archive of podman container checkpoint --pre-checkpoint, with the memory that one of --with-previous lacks." type:"path" placeholder:"FILE"`
}

// joined gives the source as it is, or, with --import-previous, a directory with both parts of the checkpoint. The caller closes
// what is given with it.
func (f *previousFlag) joined(ctx context.Context, src location) (_ location, both io.Closer, err error) {
	if f.ImportPrevious == "" {
		return src, nothing{}, nil
	}
	if src.kind != locationFile {
		return src, nothing{}, usagef("--import-previous belongs to an archive file, and %s is none", src.text)
	}
	dir, remove, err := archive.Scratch("")
	if err != nil {
		return src, nothing{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	whole, before := filepath.Join(dir, "checkpoint"), filepath.Join(dir, "previous")
	for _, part := range [][2]string{{f.ImportPrevious, before}, {src.path, whole}} {
		if err := unpackPart(ctx, part[0], part[1]); err != nil {
			return src, nothing{}, fmt.Errorf("read %s: %w", part[0], err)
		}
	}
	images := filepath.Join(before, foreign.PreCheckpointDir)
	if _, err := os.Stat(images); err != nil {
		return src, nothing{}, fmt.Errorf("%w: %s was not made with --pre-checkpoint: it has no %s", archive.ErrNotArchive, f.ImportPrevious, foreign.PreCheckpointDir)
	}
	if err := criu.JoinParent(ctx, filepath.Join(whole, archive.CheckpointDir), images); err != nil {
		return src, nothing{}, err
	}
	src.path = whole
	return src, closerFunc(remove), nil
}

// unpackPart unpacks an archive of Podman without the link to the other one.
func unpackPart(ctx context.Context, path, dir string) (err error) {
	in, err := archive.OpenFile(path, archive.ReaderOptions{PassParent: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return unpackTo(ctx, dir, in)
}
