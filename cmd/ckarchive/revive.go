package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/policy"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// judge decides from the archive's metadata whether and how it can be restored here.
func (r *restore) judge(ctx context.Context, files map[string][]byte) error {
	spec := &specs.Spec{}
	if err := archive.DecodeJSON(archive.SpecDump, files[archive.SpecDump], spec); err != nil {
		return err
	}
	r.spec = spec
	r.meta = &archive.Metadata{}
	if b, ok := files[archive.MetadataFile]; ok {
		meta, err := archive.ParseMetadata(b)
		if err != nil {
			return err
		}
		r.meta = meta
	}
	if r.meta.Format != "" && r.meta.Format != archive.FormatCRIU {
		return withHint(fmt.Errorf("%w: its images are of %q, not of CRIU", archive.ErrRejected, r.meta.Format), "restore it with that runtime")
	}
	if err := r.chooseID(files[archive.ConfigDump]); err != nil {
		return err
	}
	if err := r.chooseRuntime(); err != nil {
		return err
	}
	if err := r.checkFree(ctx); err != nil {
		return err
	}
	if err := r.checkBase(); err != nil {
		return err
	}
	// Refuses now what it would refuse later, when the archive has been unpacked.
	_, err := r.rebuildSpec()
	return err
}

func (r *restore) chooseID(configDump []byte) error {
	var config struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	if err := archive.DecodeJSON(archive.ConfigDump, configDump, &config); err != nil {
		return err
	}
	switch {
	case r.cmd.ID != "":
		r.id = r.cmd.ID
	case r.meta.Container.ID != "":
		r.id = r.meta.Container.ID
	default:
		r.id = config.ID
	}
	if err := runtime.CheckID(r.id); err != nil {
		return withHint(fmt.Errorf("%w: %w", archive.ErrRejected, err), "give an ID with --id")
	}
	r.home = r.app.containerHome(r.id)
	r.bundle = r.cmd.Bundle
	if r.bundle == "" {
		r.bundle = filepath.Join(r.home, "bundle")
	}
	return nil
}

// chooseRuntime takes the runtime of the archive where it is installed, else one that
// restores.
func (r *restore) chooseRuntime() error {
	if r.cmd.Engine == "direct" || r.cmd.Runtime == runtime.Direct {
		r.cmd.Engine = "direct"
		root := r.cmd.RuntimeRoot
		if root == "" {
			root = r.app.directDir()
		}
		var err error
		r.runtime, err = runtime.Lookup(runtime.Direct, root)
		return err
	}
	names := []string{r.cmd.Runtime}
	if r.cmd.Runtime == "" {
		names = []string{r.meta.Container.Runtime.Name, "runc", "crun"}
	}
	var errs error
	for _, name := range names {
		if name == "" || name == runtime.Direct {
			continue
		}
		rt, err := runtime.Lookup(name, r.cmd.RuntimeRoot)
		if err == nil && !rt.CanRestore() {
			err = fmt.Errorf("%s: %w for restoring", name, runtime.ErrNoRuntime)
		}
		if err == nil {
			r.runtime = rt
			return nil
		}
		errs = errors.Join(errs, err)
	}
	return withHint(errs, "install runc, name another one with --runtime, or restore with --engine direct")
}

func (r *restore) checkFree(ctx context.Context) error {
	if r.runtime.Name == runtime.Direct {
		_, err := r.runtime.Container(ctx, r.id)
		if err == nil {
			return fmt.Errorf("%w: %q was restored directly", runtime.ErrExists, r.id)
		}
		if !errors.Is(err, runtime.ErrNotFound) {
			return err
		}
		return nil
	}
	return r.runtime.CheckFree(r.id)
}

// checkBase tells early that a diff lacks what it is a diff of.
func (r *restore) checkBase() error {
	if r.cmd.Rootfs != "" || r.cmd.Base != "" || r.meta.Rootfs != nil && r.meta.Rootfs.Method == "whole" {
		return nil
	}
	if r.ownBundle() {
		return nil
	}
	what := "the base root file system"
	if b := r.meta.Base; b != nil && b.Image != "" {
		what = fmt.Sprintf("the base image %q", b.Image)
	} else if b != nil && b.Path != "" {
		what = fmt.Sprintf("the base, %q on the dumping host,", b.Path)
	}
	return withHint(&environmentError{fmt.Errorf("%s is missing: the archive holds only what differs from it", what)},
		"give a copy of it with --rootfs DIR, which is changed, or the pristine one with --base DIR, which is copied")
}

// rebuildSpec makes the spec that is restored: the operator's own config.json of
// --bundle, or the archive's as far as the policy lets it.
func (r *restore) rebuildSpec() (*specs.Spec, error) {
	if r.ownBundle() {
		path := filepath.Join(r.bundle, "config.json")
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		spec := &specs.Spec{}
		if err := json.Unmarshal(b, spec); err != nil {
			return nil, fmt.Errorf("read %q: %w", path, err)
		}
		return spec, r.bundleRootfs(spec)
	}
	r.rootfs = r.cmd.Rootfs
	if r.rootfs == "" {
		r.rootfs = filepath.Join(r.bundle, "rootfs")
	}
	res, err := policy.Rebuild(r.spec, policy.Options{
		Rootfs: r.rootfs, Mounts: r.cmd.MapMount,
		Annotations: map[string]string{runtime.AnnotationGeneration: strconv.Itoa(r.meta.Container.Generation)},
	})
	if err != nil {
		return nil, fmt.Errorf("restore container %q: %w", r.id, err)
	}
	for _, d := range res.Dropped {
		r.app.say("left out of the archive's spec: %s", d)
	}
	return res.Spec, nil
}

// bundleRootfs takes the root directory of an operator's bundle, unless --rootfs names another.
func (r *restore) bundleRootfs(spec *specs.Spec) error {
	if spec.Root == nil || spec.Process == nil || spec.Linux == nil {
		return usagef("%s/config.json has no root, process or linux section", r.bundle)
	}
	if r.cmd.Rootfs != "" {
		spec.Root.Path = r.cmd.Rootfs
	}
	r.rootfs = spec.Root.Path
	if !filepath.IsAbs(r.rootfs) {
		r.rootfs = filepath.Join(r.bundle, r.rootfs)
	}
	return nil
}

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
		// Nothing is known of the archive yet: unpack under a name of its own.
		r.home = filepath.Join(r.app.containersDir(), "unpack-"+strconv.Itoa(os.Getpid()))
	}
	if err := r.claim(ctx); err != nil {
		return errors.Join(err, r.closeSource())
	}
	if err := r.unpack(ctx, p, r.unpacked()); err != nil {
		return errors.Join(err, r.discard())
	}
	if err := r.revive(ctx, p, r.unpacked()); err != nil {
		err = r.app.keepLog(err, filepath.Join(r.home, "work", criu.RestoreLog), r.id)
		return &restoreError{errors.Join(fmt.Errorf("restore container %q: %w", r.id, err), r.discard())}
	}
	if err := errors.Join(archive.RemoveTree(r.unpacked()), r.writeState(ctx, stateRunning)); err != nil {
		r.app.warn("clean up after the restore: %v", err)
	}
	return nil
}

// unpack verifies the archive while it goes to disk.
func (r *restore) unpack(ctx context.Context, p *progress, dir string) (err error) {
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
	if src.Metadata() == nil {
		r.app.warn("%s carries no digests of its members: it could not be proved", r.cmd.Source)
	}
	if err := dst.Commit(ctx); err != nil {
		return err
	}
	if r.spec == nil {
		return r.judgeUnpacked(ctx, dir)
	}
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
	images := filepath.Join(unpacked, archive.CheckpointDir)
	if _, err := criu.Check(ctx, images, criu.CheckOptions{Spec: spec}); err != nil {
		return err
	}
	p.begin("root file system", 0)
	if err := r.buildRootfs(ctx, unpacked); err != nil {
		return err
	}
	if err := r.writeBundle(spec); err != nil {
		return err
	}
	p.begin("restore", 0)
	ctx, cancel := context.WithTimeoutCause(ctx, r.cmd.Timeout, fmt.Errorf("the restore took longer than %s", r.cmd.Timeout))
	defer cancel()
	if r.runtime.Name == runtime.Direct {
		return r.restoreDirectly(ctx, images, spec)
	}
	return r.restoreByRuntime(ctx, images, spec)
}

// buildRootfs makes the root file system of the frozen moment.
func (r *restore) buildRootfs(ctx context.Context, unpacked string) (err error) {
	if err := r.makeBundle(); err != nil {
		return err
	}
	switch {
	case r.cmd.Base != "":
		if err := rootfs.CopyTree(ctx, r.cmd.Base, r.rootfs); err != nil {
			return err
		}
	case r.cmd.Rootfs == "" && !r.ownBundle():
		if err := os.MkdirAll(r.rootfs, 0o755); err != nil { //nolint:gosec // a container's root, which its users read
			return err
		}
	}
	deleted := []string{}
	if b, err := os.ReadFile(filepath.Join(unpacked, archive.DeletedFiles)); err == nil {
		if err := archive.DecodeJSON(archive.DeletedFiles, b, &deleted); err != nil {
			return err
		}
	}
	f, err := os.Open(filepath.Join(unpacked, archive.RootfsDiff))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if err := rootfs.Check(ctx, f, rootfs.ApplyOptions{}); err != nil {
		return err
	}
	if _, err := f.Seek(0, 0); err != nil {
		return err
	}
	return rootfs.Apply(ctx, r.rootfs, f, deleted, rootfs.ApplyOptions{})
}

// writeBundle makes the bundle's config.json, unless the operator's is there.
func (r *restore) writeBundle(spec *specs.Spec) error {
	if r.ownBundle() {
		return nil
	}
	if err := r.makeBundle(); err != nil {
		return err
	}
	return r.writeConfig(spec)
}

// writeConfig writes the bundle's config.json.
func (r *restore) writeConfig(spec *specs.Spec) error {
	b, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.bundle, "config.json"), append(b, '\n'), 0o600)
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

// ownBundle tells whether the operator prepared the bundle.
func (r *restore) ownBundle() bool {
	if r.cmd.Bundle == "" || r.madeBundle {
		return false
	}
	_, err := os.Stat(filepath.Join(r.bundle, "config.json"))
	return err == nil
}

// makeBundle makes the bundle's directory where there is none.
func (r *restore) makeBundle() error {
	if _, err := os.Lstat(r.bundle); errors.Is(err, os.ErrNotExist) {
		r.madeBundle = true
	}
	return os.MkdirAll(r.bundle, 0o700)
}

// discard removes everything that a failed restore made.
func (r *restore) discard() error {
	r.logger.stop()
	r.dropPipes()
	r.output.Wait()
	err := archive.RemoveTree(r.home)
	if r.madeBundle {
		err = errors.Join(err, archive.RemoveTree(r.bundle))
	}
	return err
}
