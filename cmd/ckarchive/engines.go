package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// flags are the options of the restore: those of the dump that must be given again, and what
// the command line adds. An option of the dump that the command line replaces gives way.
func (r *restore) flags() criu.Flags {
	dumped := func(flag string) bool { return r.meta.Options[flag] == "true" }
	c := r.cmd
	return criu.Flags{
		TCPEstablished: c.TCPEstablished || dumped("tcp-established") && !c.TCPClose,
		TCPClose:       c.TCPClose || dumped("tcp-close") && !c.TCPEstablished,
		FileLocks:      c.FileLocks || dumped("file-locks"),
		ExtUnixSk:      c.ExtUnixSk || dumped("ext-unix-sk"),
		ShellJob:       c.ShellJob || dumped("shell-job"),
	}
}

// consumeImages: the images are unpacked for one restore and go after it, so their memory may go
// while it is restored.
const consumeImages = true

// restoreByRuntime hands the images to an OCI runtime, with a CRIU configuration that
// lets any runtime restore the images of any other.
func (r *restore) restoreByRuntime(ctx context.Context, images string, spec *specs.Spec) error {
	flags := r.flags()
	work := filepath.Join(r.home, "work")
	empty := filepath.Join(r.home, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	// Runtimes make missing mount points as well, with the modes that our umask leaves.
	if err := criu.PrepareMountpoints(r.rootfs, images, r.cmd.MapMount); err != nil {
		return err
	}
	config, err := criu.ConfigFile(ctx, images, spec, r.cmd.MapMount, criu.ConfigOptions{
		EmptyDir: empty, TCPClose: flags.TCPClose, ConsumeImages: consumeImages, Lines: r.configLines(),
	})
	if err != nil {
		return err
	}
	configPath := filepath.Join(work, "criu.conf")
	if err := os.WriteFile(configPath, config, 0o600); err != nil {
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
	in, out, errs, err := r.stdio()
	if err != nil {
		return err
	}
	pid, err := r.runtime.Restore(ctx, runtime.RestoreOptions{
		ID: r.id, Bundle: r.bundle, ImagesDir: images, WorkDir: work,
		CRIUConfig: configPath, CRIUPath: filepath.Dir(r.criu.Path),
		ConsoleSocket: r.cmd.ConsoleSocket, TCPEstablished: flags.TCPEstablished, ExtUnixSk: flags.ExtUnixSk,
		ShellJob: flags.ShellJob, FileLocks: flags.FileLocks, NoPivot: r.cmd.NoPivot,
		ConsumeImages: consumeImages,
		Stdin:         in, Stdout: out, Stderr: errs,
	})
	if err != nil {
		return criu.ByRuntime("restore", filepath.Join(work, criu.RestoreLog), err)
	}
	// The hook has done its work, and is no part of the container.
	if err := r.writeBundle(spec); err != nil {
		r.app.warn("write the bundle of container %q again: %v", r.id, err)
	}
	return r.found(ctx, pid)
}

// configLines are options that a runtime's command line lacks.
func (r *restore) configLines() []string {
	if r.cmd.IgnoreCPU {
		return []string{"cpu-cap none"}
	}
	return nil
}

// restoreDirectly uses CRIU and keeps a record, by which ckarchive is the runtime.
func (r *restore) restoreDirectly(ctx context.Context, images string, spec *specs.Spec) error {
	work, empty := filepath.Join(r.home, "work"), filepath.Join(r.home, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	in, out, errs, err := r.stdio()
	if err != nil {
		return err
	}
	restored, err := criu.Restore(ctx, r.criu, criu.RestoreOptions{
		Flags: r.flags(), Spec: spec, Rootfs: r.rootfs, ImagesDir: images, WorkDir: work,
		CgroupPath: "/ckarchive/" + r.id, Stdin: in, Stdout: out, Stderr: errs,
		ConsoleSocket: r.cmd.ConsoleSocket, MountMap: r.cmd.MapMount, EmptyDir: empty, IgnoreCPU: r.cmd.IgnoreCPU,
		ConsumeImages: consumeImages,
	})
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
