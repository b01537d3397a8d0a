package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
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
	if spec.Process != nil && spec.Process.Terminal && r.cmd.ConsoleSocket == "" {
		return withHint(&environmentError{errors.New("the container has a terminal, and nobody to hold its other end")},
			"give --console-socket SOCKET, on which a program such as recvtty listens")
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
	if err := r.checkMounts(); err != nil {
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
		var err error
		r.runtime, err = runtime.Lookup(runtime.Direct, r.app.directDir())
		return err
	}
	names := []string{r.cmd.Runtime}
	if r.cmd.Runtime == "" {
		names = []string{r.meta.Container.Runtime.Name, "runc", "crun"}
	}
	var errs error
	for _, name := range names {
		// The archive's word is only a name of our table: a path would be a program to run.
		if name != r.cmd.Runtime && !slices.Contains(runtime.Names(), name) || name == runtime.Direct {
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

// checkMounts wants every host path of --map-mount.
func (r *restore) checkMounts() error {
	for dest, source := range r.cmd.MapMount {
		if _, err := os.Stat(source); err != nil {
			return withHint(&environmentError{fmt.Errorf("--map-mount %s=%s: no such file or directory on this host", dest, source)},
				"make it, or name another source")
		}
	}
	return nil
}

// checkBase tells early that a diff lacks what it is a diff of.
func (r *restore) checkBase() error {
	for _, dir := range []string{r.cmd.Rootfs, r.cmd.Base} {
		if dir == "" {
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return withHint(fmt.Errorf("root file system %q: %w", dir, archive.ErrNotFound), "name a directory with the root file system that the container was started from")
		}
	}
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
