package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// restoreByRuntime hands the images to an OCI runtime, with a CRIU configuration that
// lets any runtime restore the images of any other.
func (r *restore) restoreByRuntime(ctx context.Context, images string, spec *specs.Spec) error {
	empty, err := r.makeEmpty()
	if err != nil {
		return err
	}
	// Runtimes make missing mount points as well, with the modes that our umask leaves.
	if err := criu.PrepareMountpoints(r.rootfs, images, r.mountSources()); err != nil {
		return err
	}
	if err := criu.ShareImages(images, spec); err != nil {
		return err
	}
	files, err := r.cmd.inheritedFiles()
	if err != nil {
		return err
	}
	defer closeFiles(files)
	opts := r.runtimeOptions(images, spec, files)
	chosen, err := r.configOptions(files)
	if err != nil {
		return err
	}
	chosen.EmptyDir = empty
	if path := spec.Linux.CgroupsPath; path != "" && r.runtime.KeepsCgroup() {
		chosen.Lines = append(chosen.Lines, "cgroup-root "+path)
	}
	config, err := criu.ConfigFile(ctx, images, spec, r.mountSources(), chosen)
	if err != nil {
		return err
	}
	if err := os.WriteFile(opts.CRIUConfig, config, 0o600); err != nil {
		return err
	}
	if ownNetwork(spec) && !r.ownBundle() {
		hooked, err := withLoopback(spec)
		if err != nil {
			return err
		}
		if err := r.writeConfig(hooked); err != nil {
			return err
		}
	}
	if opts.Stdin, opts.Stdout, opts.Stderr, err = r.stdio(ctx); err != nil {
		return err
	}
	if err := r.beginWork(ctx, spec.Linux.CgroupsPath); err != nil {
		return err
	}
	pid, err := r.runtime.Restore(ctx, opts)
	if err != nil {
		return criu.ByRuntime("restore", filepath.Join(r.work(), criu.RestoreLog), err)
	}
	// The hook has done its work, and is no part of the container.
	if err := r.writeBundle(spec); err != nil {
		r.app.warn("write the bundle of container %q again: %v", r.id, err)
	}
	return r.found(ctx, pid)
}

// cgroup is the path for the new configuration: empty where the engine may choose.
func (r *restore) cgroup() string {
	if r.cmd.CgroupPath == "" && r.runtime.KeepsCgroup() {
		return "/" + r.id
	}
	return r.cmd.CgroupPath
}

// work is CRIU's work directory.
func (r *restore) work() string { return filepath.Join(r.home, "work") }

// makeEmpty makes the empty directory that hides others.
func (r *restore) makeEmpty() (string, error) {
	empty := filepath.Join(r.home, "empty")
	return empty, os.Mkdir(empty, 0o755)
}

// runtimeOptions are those for the runtime's command line.
func (r *restore) runtimeOptions(images string, spec *specs.Spec, files map[string]*os.File) runtime.RestoreOptions {
	flags := r.flags()
	o := runtime.RestoreOptions{
		ID: r.id, Bundle: r.bundle, ImagesDir: images, WorkDir: r.work(),
		CRIUConfig: filepath.Join(r.work(), "criu.conf"), CRIUPath: filepath.Dir(r.criu.Path),
		ConsoleSocket: r.cmd.ConsoleSocket, TCPEstablished: flags.TCPEstablished, ExtUnixSk: flags.ExtUnixSk,
		ShellJob: flags.ShellJob, FileLocks: flags.FileLocks, NoPivot: r.cmd.NoPivot, NoSubreaper: r.cmd.NoSubreaper,
		CgroupMode: flags.CgroupMode, LSMProfile: r.cmd.LSMProfile, LSMMountContext: r.cmd.LSMMountContext,
		ConsumeImages: r.consumes(), Spec: spec,
	}
	for _, key := range slices.Sorted(maps.Keys(files)) {
		o.Inherited = append(o.Inherited, files[key])
	}
	return o
}

// configOptions are those that a runtime's command line has no word for.
func (r *restore) configOptions(files map[string]*os.File) (criu.ConfigOptions, error) {
	flags := r.flags()
	o := criu.ConfigOptions{
		TCPClose: flags.TCPClose, SkipRWXCheck: flags.SkipRWXCheck, MountCompat: flags.MountCompat,
		WeakSysctls: r.cmd.WeakSysctls, External: r.cmd.External, Inherit: map[string]int{},
		ConsumeImages: r.consumes(),
	}
	for i, key := range slices.Sorted(maps.Keys(files)) {
		o.Inherit[key] = runtime.FirstInherited + i
	}
	if r.cmd.CRIUConfig == "" {
		return o, nil
	}
	b, err := os.ReadFile(r.cmd.CRIUConfig)
	if err != nil {
		return o, err
	}
	o.Lines = strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	return o, nil
}

func closeFiles(files map[string]*os.File) {
	for _, f := range files {
		_ = f.Close() // a copy of the caller's descriptor
	}
}

// criuOptions are those of CRIU's request.
func (r *restore) criuOptions(images string, spec *specs.Spec, files map[string]*os.File) (criu.RestoreOptions, error) {
	veth, err := r.cmd.veths()
	o := criu.RestoreOptions{
		Flags: r.flags(), Spec: spec, Rootfs: r.rootfs, ImagesDir: images, WorkDir: r.work(),
		CgroupPath:    cmp.Or(r.cmd.CgroupPath, "/ckarchive/"+r.id),
		ConsoleSocket: r.cmd.ConsoleSocket, MountMap: r.mountSources(),
		WeakSysctls: r.cmd.WeakSysctls, LSMProfile: r.cmd.LSMProfile, LSMMountContext: r.cmd.LSMMountContext,
		External: r.cmd.External, Files: files, Veth: veth, ConsumeImages: r.consumes(), Own: r.own,
	}
	o.ConfigFile = r.cmd.CRIUConfig
	return o, err
}

// restoreDirectly uses CRIU and keeps a record, by which ckarchive is the runtime.
func (r *restore) restoreDirectly(ctx context.Context, images string, spec *specs.Spec) error {
	files, err := r.cmd.inheritedFiles()
	if err != nil {
		return err
	}
	defer closeFiles(files)
	opts, err := r.criuOptions(images, spec, files)
	if err != nil {
		return err
	}
	if opts.EmptyDir, err = r.makeEmpty(); err != nil {
		return err
	}
	if opts.Stdin, opts.Stdout, opts.Stderr, err = r.stdio(ctx); err != nil {
		return err
	}
	if err := r.beginWork(ctx, opts.CgroupPath); err != nil {
		return err
	}
	restored, err := criu.Restore(ctx, r.criu, opts)
	if err != nil {
		return err
	}
	err = runtime.WriteRecord(context.WithoutCancel(ctx), r.runtime.Root, runtime.Record{
		ID: r.id, PID: restored.PID, StartTime: restored.StartTime, Bundle: r.bundle,
		Cgroup: restored.CgroupPath, Descriptors: descriptorsOf(restored.PID), Created: time.Now().UTC(),
	})
	if err != nil {
		return errors.Join(err, endProcess(restored.PID))
	}
	return r.found(ctx, restored.PID)
}

// beginWork notes what has to be ended if this process is killed from now on. What is started before, as the
// container's log, is none of that.
func (r *restore) beginWork(ctx context.Context, cgroup string) error {
	lock, err := capture.LockShared(filepath.Join(r.home, workLock))
	if err != nil {
		return err
	}
	r.unlock = append(r.unlock, func() { _ = lock.Close() }) // closing releases
	if !strings.Contains(cgroup, ":") {                      // which systemd makes, and removes
		if r.cgroups, err = runtime.FreeCgroups(r.id, cgroup); err != nil {
			return err
		}
	}
	return r.writeState(ctx, stateRestoring)
}

// found makes sure that the container is there, and alive.
func (r *restore) found(ctx context.Context, pid int) error {
	r.pid = pid
	ctr, err := r.runtime.Container(ctx, r.id)
	if err != nil {
		return errors.Join(err, endProcess(pid))
	}
	r.ctr = ctr
	if err := ctr.Dumpable(); err != nil {
		return errors.Join(errors.New("it was restored and ended at once"), err, ctr.Delete(ctx))
	}
	return nil
}
