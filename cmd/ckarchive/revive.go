package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// run unpacks, builds the bundle and restores. Whatever fails, nothing is left behind.
func (r *restore) run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			r.release()
		}
	}()
	p := r.app.newProgress()
	defer func() { p.close(err) }()
	if r.id == "" {
		r.home = r.app.unnamedHome() // nothing is known of the archive yet
	}
	if err := r.claim(ctx); err != nil {
		return errors.Join(err, r.closeSource())
	}
	if err := r.unpack(ctx, p, r.unpacked()); err != nil {
		return errors.Join(err, r.discard(ctx))
	}
	p.begin("check", 0)
	if err := r.judgeImages(ctx); err != nil {
		return errors.Join(err, r.discard(ctx))
	}
	if err := r.revive(ctx, p, r.unpacked()); err != nil {
		return &restoreError{errors.Join(fmt.Errorf("restore container %q: %w", r.id, err), r.discard(ctx))}
	}
	if r.cmd.Stats && !r.sandboxed() {
		if r.stats, err = criu.ReadRestoreStats(r.work()); err != nil {
			r.app.warn("CRIU left no statistics: %v", err)
		}
	}
	p.begin("clean up", 0)
	if err := errors.Join(archive.RemoveTree(r.unpacked()), r.writeState(ctx, stateRunning)); err != nil {
		r.app.warn("clean up after the restore: %v", err)
	}
	return nil
}

// unpack verifies the archive while it goes to disk.
func (r *restore) unpack(ctx context.Context, p *progress, dir string) (err error) {
	if r.template != "" {
		return r.share(ctx, p, dir)
	}
	if r.fromCache(ctx, p, dir) {
		return r.closeSource()
	}
	src := archive.NewVerified(r.src)
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := archive.CreateDir(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	total := int64(0)
	if r.meta != nil {
		for _, m := range r.meta.Members {
			total += m.Size
		}
	}
	t := p.begin("unpack", total)
	if _, err := archive.Copy(ctx, dst, src, archive.CopyOptions{OnBytes: t.add}); err != nil {
		return fmt.Errorf("read %s: %w", r.cmd.Source, err)
	}
	if !src.Proven() {
		r.app.warn("%s carries no digests of its members: it could not be proved", r.cmd.Source)
	}
	if err := dst.Commit(ctx); err != nil {
		return err
	}
	if r.spec == nil {
		return r.judgeUnpacked(ctx, dir)
	}
	r.toCache(ctx, dir)
	return nil
}

// judgeUnpacked is judge for archives whose metadata comes last.
func (r *restore) judgeUnpacked(ctx context.Context, dir string) error {
	files := map[string][]byte{}
	for _, name := range []string{archive.ConfigDump, archive.SpecDump} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		files[name] = b
	}
	unnamed := r.home
	if err := r.judge(ctx, files); err != nil {
		r.home = unnamed
		return err
	}
	unlock, err := r.app.lock("restore-" + r.id)
	if err != nil {
		r.home = unnamed
		return err
	}
	r.unlock = append(r.unlock, unlock)
	if err := errors.Join(archive.RemoveTree(r.home), os.Rename(unnamed, r.home)); err != nil {
		return errors.Join(err, archive.RemoveTree(unnamed))
	}
	return r.writeState(ctx, stateRestoring)
}

// unpacked is where the archive's members are until the container runs.
func (r *restore) unpacked() string { return filepath.Join(r.home, "archive") }

// revive turns the unpacked archive into a running container.
func (r *restore) revive(ctx context.Context, p *progress, unpacked string) error {
	spec, err := r.rebuildSpec()
	if err != nil {
		return err
	}
	unlock, err := r.app.lock("rootfs-" + r.rootfs)
	if err != nil {
		return fmt.Errorf("use root file system %q: %w", r.rootfs, err)
	}
	r.unlock = append(r.unlock, unlock)
	r.sayGrants()
	images := filepath.Join(unpacked, archive.CheckpointDir)
	if r.sandboxed() {
		r.saved.Prepare(spec)
	} else if err := r.confine(ctx, images, spec); err != nil {
		return err
	}
	if len(r.options.taken) > 0 {
		r.app.say("as it was dumped: %s", strings.Join(r.options.taken, " "))
	}
	p.begin("root file system", 0)
	if err := r.buildRootfs(ctx, unpacked); err != nil {
		return err
	}
	if err := r.fixRoot(images); err != nil {
		return err
	}
	if err := r.fitNetworkLock(images); err != nil {
		return err
	}
	if err := r.makeStandIns(ctx, unpacked); err != nil {
		return err
	}
	if !r.sandboxed() {
		if err := criu.CheckPaths(ctx, images, spec, r.rootfs, r.mountSources()); err != nil {
			return err
		}
	}
	if err := r.writeBundle(spec); err != nil {
		return err
	}
	p.begin("restore", 0)
	ctx, cancel := context.WithTimeoutCause(ctx, r.cmd.Timeout, fmt.Errorf("the restore took longer than %s", r.cmd.Timeout))
	defer cancel()
	if !r.cmd.Detach && !r.app.cli.JSON {
		// Before the first output of the container, which has the same stdout.
		if _, err := fmt.Fprintln(r.app.stdout, r.id); err != nil {
			return err
		}
	}
	switch {
	case r.sandboxed():
		err = r.restoreSandbox(ctx, images, spec)
	case r.runtime.Name == runtime.Direct:
		err = r.restoreDirectly(ctx, images, spec)
	default:
		err = r.restoreByRuntime(ctx, images, spec)
	}
	if err != nil {
		err = timedOut(ctx, r.app.keepLog(err, filepath.Join(r.work(), criu.RestoreLog), r.id))
	}
	return err
}

// claim takes the ID for this process and makes the container's home.
func (r *restore) claim(ctx context.Context) error {
	if _, err := r.app.openStore(ctx, true); err != nil {
		return err
	}
	unlock, err := r.app.lock("restore-" + filepath.Base(r.home))
	if err != nil {
		return err
	}
	r.unlock = append(r.unlock, unlock)
	if err := r.app.recoverAll(ctx); err != nil {
		return err
	}
	// Left by a container of that ID which its runtime no longer knows.
	if err := archive.RemoveTree(r.home); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(r.home, "work"), 0o700); err != nil {
		return err
	}
	return r.writeState(ctx, stateRestoring)
}

// discard removes everything that a failed restore made.
func (r *restore) discard(ctx context.Context) error {
	// A runtime that was killed has ended and removed nothing. First of all: the log waits for its writers.
	err := runtime.EndCgroups(context.WithoutCancel(ctx), r.cgroups)
	r.logger.stop()
	r.dropPipes()
	r.output.Wait()
	err = errors.Join(err, archive.RemoveTree(r.home))
	if r.madeBundle {
		err = errors.Join(err, archive.RemoveTree(r.bundle))
	}
	return err
}
