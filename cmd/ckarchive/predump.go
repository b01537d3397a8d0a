package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// checkEngine refuses what the container's runtime cannot be asked for, before it is.
func (x *export) checkEngine(ctx context.Context) error {
	if x.cmd.Engine != engineRuntime {
		return nil
	}
	if x.ctr.Runtime.Name == runtime.Direct {
		return withHint(&environmentError{fmt.Errorf("container %q was restored directly: it has no runtime to dump it", x.ctr.ID)}, "use --engine direct")
	}
	err := x.ctr.CheckOptions(ctx, x.cmd.forRuntime())
	if errors.Is(err, runtime.ErrNoOption) {
		return &usageError{err: err, hint: "use --engine direct"}
	}
	return err
}

// checkMemory refuses what needs more of this host than a plain dump: to be told which memory changed, or large pipes.
func (x *export) checkMemory(ctx context.Context) error {
	if x.cmd.LazyPages {
		if err := criu.CanServeLazily(); err != nil {
			return withHint(&environmentError{fmt.Errorf("export container %q: %w", x.ctr.ID, err)}, "sysctl fs.pipe-max-size=4194304 lets it")
		}
	}
	if !x.cmd.PreDump && x.cmd.Parent == "" {
		return nil
	}
	f, err := x.criu.Features(ctx)
	if err != nil {
		return err
	}
	if !f.MemTrack {
		return withHint(&environmentError{fmt.Errorf("export container %q: %w", x.ctr.ID, criu.ErrNoMemTrack)},
			"leave out --pre-dump and --parent: a dump of all memory works; ckarchive check tells what this kernel has")
	}
	return nil
}

// preDump writes the memory of the container, which goes on.
func (x *export) preDump(ctx context.Context, a *app, out *sink, p *progress) error {
	ctx, cancel := context.WithTimeoutCause(ctx, x.cmd.Timeout, fmt.Errorf("the pre-dump took longer than %s", x.cmd.Timeout))
	defer cancel()
	p.begin("pre-dump", 0)
	x.meta.Created = time.Now().UTC().Truncate(time.Second)
	images := out.images.Dir()
	var err error
	if x.cmd.Engine == engineRuntime {
		err = x.checkpointByRuntime(ctx, images, x.workDir(images), filepath.Join(images, "runtime.log"))
	} else {
		var dumped criu.Dumped
		dumped, err = criu.PreDump(ctx, x.criu, x.dumpOptions(images, images))
		x.meta.Stats = dumped.Stats
	}
	if err != nil {
		return a.keepLog(timedOut(ctx, err), filepath.Join(x.workDir(images), archive.DumpLog), x.ctr.ID)
	}
	return out.Commit(ctx)
}

// withoutMemory makes a failure of serving memory one of the dump: the images without it are of no use and go, while the
// container goes on.
func (x *export) withoutMemory(err error) error {
	var ce *capture.Error
	if !x.cmd.LazyPages || !errors.As(err, &ce) || !ce.Archived() {
		return err
	}
	return &capture.Error{Phase: capture.Dumped, State: ce.State, Err: errors.Join(ce.Err, archive.RemoveTree(x.out.path))}
}

// servesMemory tells that criu lazy-pages may connect.
func (x *export) servesMemory(a *app) error {
	a.say("the memory of container %q is served at %s; everything else is in %s", x.ctr.ID, x.cmd.PageServer, x.out.path)
	if x.cmd.StatusFD == noStatusFD {
		return nil
	}
	f := os.NewFile(uintptr(x.cmd.StatusFD), "status-fd")
	if f == nil {
		return fmt.Errorf("--status-fd %d is no descriptor", x.cmd.StatusFD)
	}
	_, err := f.Write([]byte{0})
	return errors.Join(err, f.Close())
}

// dumpByRuntime uses the runtime's own checkpoint command. What it does not tell is read from
// the images.
func (x *export) dumpByRuntime(ctx context.Context, a *app, images, dir string) error {
	if err := os.Mkdir(images, 0o700); err != nil {
		return err
	}
	work := x.workDir(dir)
	taken, err := x.takeFromRuntime(ctx, a, images, filepath.Dir(dir), func() error {
		return x.checkpointByRuntime(ctx, images, work, filepath.Join(filepath.Dir(dir), "runtime.log"))
	})
	if err != nil {
		return err
	}
	if err := x.tidy(images, dir); err != nil {
		return err
	}
	checked, err := criu.Check(ctx, images, criu.CheckOptions{WithoutMemory: x.cmd.PageServer != "", Taken: taken})
	if err != nil {
		return fmt.Errorf("images of the dump are not whole: %w", err)
	}
	version, err := x.criu.Version(ctx)
	if err != nil {
		return err
	}
	x.meta.CRIU = version.String()
	x.meta.Container.Processes = checked.Processes
	x.meta.Container.MemoryBytes = checked.MemoryBytes
	if x.meta.Externals, err = criu.ImageExternals(images); err != nil {
		return err
	}
	x.meta.Stats, err = criu.ReadStats(work)
	return err
}

// takeFromRuntime takes the memory while the runtime's CRIU writes it, if it is wanted anywhere but in files. dir
// is the directory of the capture. Where no pipes can be made, files take it.
func (x *export) takeFromRuntime(ctx context.Context, a *app, images, dir string, dump func() error) (map[string]int64, error) {
	take, err := x.takePages(dir)
	if err != nil {
		return nil, err
	}
	if take == nil {
		return nil, dump()
	}
	pipes, err := criu.OpenPagePipes(ctx, images, x.ctr.PID, take)
	if err != nil {
		a.say("memory goes to files until it is archived: %v", err)
		return nil, dump()
	}
	return pipes.Run(dump)
}

// checkpointByRuntime runs the checkpoint command.
func (x *export) checkpointByRuntime(ctx context.Context, images, work, log string) error {
	options := x.cmd.forRuntime()
	if x.cmd.Parent != "" {
		// Runtimes take it relative to the images.
		link, err := filepath.Rel(images, x.cmd.Parent)
		if err != nil {
			return err
		}
		options["parent"] = link
	}
	config, err := x.checkpointConfig(filepath.Dir(log))
	if err != nil {
		return err
	}
	err = x.ctr.Checkpoint(ctx, runtime.CheckpointOptions{
		ImagesDir: images, WorkDir: work, LogPath: log, CRIUPath: filepath.Dir(x.criu.Path),
		CRIUConfig: config, Options: options,
	})
	if err == nil {
		return nil
	}
	err = criu.ByRuntime("dump", filepath.Join(work, archive.DumpLog), err)
	return errors.Join(err, criu.Unlock(context.WithoutCancel(ctx), x.ctr.PID))
}

// checkpointConfig writes a CRIU configuration for the runtime into dir: what it leaves out,
// and then what the user adds.
func (x *export) checkpointConfig(dir string) (string, error) {
	config, err := criu.CheckpointConfig(x.ctr.PID)
	if err != nil {
		return "", err
	}
	if x.cmd.CRIUConfig != "" {
		more, err := os.ReadFile(x.cmd.CRIUConfig)
		if err != nil {
			return "", err
		}
		config = append(config, more...)
	}
	path := filepath.Join(dir, "criu.conf")
	return path, os.WriteFile(path, config, 0o600)
}
