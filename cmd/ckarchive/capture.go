package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// dump lets CRIU write the images into dir, which has the archive's layout; the
// statistics and the log go beside them under their archive names.
func (x *export) dump(ctx context.Context, a *app, dir string, frozen func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, x.cmd.Timeout, fmt.Errorf("the dump took longer than %s", x.cmd.Timeout))
	defer cancel()
	images := filepath.Join(dir, archive.CheckpointDir)
	x.watch.dumping()
	var err error
	switch {
	case sandboxed(x.ctr):
		err = x.dumpSandbox(ctx, images)
	case x.cmd.Engine == engineRuntime:
		err = x.dumpByRuntime(ctx, a, images, dir)
	default:
		err = x.dumpDirectly(ctx, a, images, dir, frozen)
	}
	if err != nil {
		if x.cmd.WorkPath != "" {
			return timedOut(ctx, err) // the log is where it was wanted
		}
		return timedOut(ctx, a.keepLog(err, filepath.Join(dir, archive.DumpLog), x.ctr.ID))
	}
	return nil
}

// dumpOptions are what the flags and the container say of a dump.
func (x *export) dumpOptions(images, work string) criu.DumpOptions {
	c := x.cmd
	objects, sockets := splitExternal(c.External)
	return criu.DumpOptions{
		Flags: c.flags(), Spec: x.ctr.Spec, PID: x.ctr.PID, Rootfs: x.ctr.Rootfs, Descriptors: x.ctr.Descriptors,
		ImagesDir: images, WorkDir: x.workDir(work),
		TCPSkipInFlight: c.TCPSkipInFlight, LinkRemap: c.LinkRemap, GhostLimit: x.ghostLimit, FreezeTimeout: c.FreezeTimeout,
		ForceIrmap: c.ForceIrmap, IrmapPaths: c.IrmapPath, EmptyNetNS: c.EmptyNs != "",
		External: objects, ExternalSockets: sockets,
		Parent: c.Parent, AutoDedup: c.AutoDedup, PageServer: c.PageServer,
	}
}

// workDir is where CRIU writes its log and statistics: in --work-path, or among the archive's members.
func (x *export) workDir(usual string) string {
	if x.cmd.WorkPath != "" {
		return x.cmd.WorkPath
	}
	return usual
}

// timedOut says that it was the deadline of --timeout that ended what failed.
func timedOut(ctx context.Context, err error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return withHint(fmt.Errorf("%w: %w", context.Cause(ctx), err), "allow more time with --timeout")
}

func (x *export) dumpDirectly(ctx context.Context, a *app, images, work string, frozen func(context.Context) error) error {
	opts := x.dumpOptions(images, work)
	opts.LeaveRunning = frozen == nil
	var err error
	if opts.ToolsDir, err = a.toolsDir(); err != nil {
		return err
	}
	if x.cmd.LazyPages {
		opts.PageServer, opts.LazyPages = "", x.cmd.PageServer
		opts.LazyReady = func() error { return x.servesMemory(a) }
	}
	switch {
	case frozen != nil:
		// The archive is sealed in there.
		opts.PostDump = func(ctx context.Context, d criu.Dumped) error {
			if err := x.note(d, images, work); err != nil {
				return err
			}
			return frozen(ctx)
		}
	case x.cmd.LinkRemap:
		// CRIU's links to deleted files are in the root file system only until its dump ends.
		opts.PostDump = func(ctx context.Context, _ criu.Dumped) error {
			defer func() { x.collected = true }()
			return x.collect(ctx, work)
		}
	}
	if opts.TakePages, err = x.takePages(filepath.Dir(work)); err != nil {
		return err
	}
	dumped, err := criu.Dump(ctx, x.criu, opts)
	if err != nil || frozen != nil {
		return err
	}
	return x.note(dumped, images, work)
}

// note puts what a dump says of itself into the metadata, and its files where the archive takes them from.
func (x *export) note(d criu.Dumped, images, work string) error {
	x.meta.CRIU = d.Version.String()
	x.meta.Externals = d.Externals
	x.meta.Stats = d.Stats
	x.meta.Container.Processes = d.Processes
	x.meta.Container.MemoryBytes = d.MemoryBytes
	return x.tidy(images, work)
}

// tidy copies CRIU's log and statistics from --work-path into the archive, and removes the link to --parent, which is
// made again where the images go.
func (x *export) tidy(images, work string) error {
	if x.cmd.Parent != "" {
		if err := os.Remove(filepath.Join(images, archive.ParentLink)); err != nil {
			return err
		}
	}
	if x.cmd.WorkPath == "" {
		return nil
	}
	for _, name := range []string{archive.DumpLog, archive.StatsDump} {
		b, err := os.ReadFile(filepath.Join(x.cmd.WorkPath, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no statistics before the dump is over
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// collect archives what changed in the root file system, and what the container's engine keeps beside it, while the container
// stands still.
func (x *export) collect(ctx context.Context, dir string) error {
	if x.collected {
		return nil
	}
	x.watch.collecting()
	defer func() { x.watch.collected() }()
	if err := x.collectRootfs(ctx, dir); err != nil {
		return fmt.Errorf("archive the root file system %q: %w", x.ctr.Rootfs, err)
	}
	return x.collectBesides(ctx, dir)
}

func (x *export) collectRootfs(ctx context.Context, dir string) error {
	opts := rootfs.Options{Skip: x.ctr.SandboxFiles()}
	for _, m := range x.ctr.Spec.Mounts {
		opts.Skip = append(opts.Skip, m.Destination)
	}
	var result rootfs.Result
	err := createIn(dir, archive.RootfsDiff, func(f *os.File) (err error) {
		result, err = x.diff(ctx, f, opts)
		return err
	})
	if err != nil {
		return err
	}
	x.meta.Rootfs = &archive.Rootfs{
		Method: result.Method, Files: result.Files, Deleted: len(result.Deleted) / 2, Skipped: result.Skipped,
	}
	if len(result.Deleted) == 0 {
		return nil
	}
	b, err := json.Marshal(result.Deleted)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, archive.DeletedFiles), b, 0o600)
}

// diff chooses how the changes are found: against the base that was given, in an overlay's
// upper layer, or not at all.
func (x *export) diff(ctx context.Context, f *os.File, opts rootfs.Options) (rootfs.Result, error) {
	if x.baseDir != "" {
		return rootfs.Directory(ctx, f, x.baseDir, x.ctr.Rootfs, opts)
	}
	upper, lowers, ok, err := rootfs.Layers(0, x.ctr.Rootfs)
	if err != nil {
		return rootfs.Result{}, err
	}
	if ok {
		if x.meta.Base == nil {
			x.meta.Base = &archive.Base{}
		}
		x.meta.Base.Layers = lowers
		return rootfs.Overlay(ctx, f, upper, lowers, x.ctr.Rootfs, opts)
	}
	return rootfs.Directory(ctx, f, "", x.ctr.Rootfs, opts)
}

// printPlan is --dry-run.
func (x *export) printPlan(a *app) error {
	method := "whole tree"
	if x.baseDir != "" {
		method = "differences from " + x.baseDir
	} else if _, _, ok, err := rootfs.Layers(0, x.ctr.Rootfs); err != nil {
		return err
	} else if ok {
		method = "upper layer of the overlay"
	}
	after := "killed"
	switch {
	case x.cmd.LeavePaused:
		after = "left " + runtime.Paused
	case x.cmd.goesOn():
		after = "left " + x.ctr.Status
	}
	memory := "unknown"
	if n, err := x.ctr.MemoryUsage(); err == nil {
		memory = units.BytesSize(float64(n))
	}
	return a.printTable([][2]string{
		{"container", x.ctr.ID + " (" + x.ctr.Status + ", pid " + fmt.Sprint(x.ctr.PID) + ")"},
		{"runtime", x.ctr.Runtime.Name + " in " + x.ctr.Runtime.Root},
		{"engine", x.cmd.Engine},
		{"criu", x.criu.Path},
		{"memory", "at most " + memory},
		{"root file system", method},
		{"destination", x.dest.text + " (" + string(x.compression) + ")"},
		{"afterwards", after},
	})
}
