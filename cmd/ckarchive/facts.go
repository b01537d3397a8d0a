package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// preflight looks at the container and stops before the freeze if a dump would fail, or would lose a process.
func (x *export) preflight(ctx context.Context, a *app) error {
	if x.cmd.PreDump {
		return nil // it takes memory alone
	}
	opts, err := x.cmd.preflight(x.ctr, x.cmd.flags(), x.cmd.External)
	if err != nil {
		return err
	}
	rep, err := criu.Preflight(ctx, opts)
	if err != nil {
		return cause(ctx, fmt.Errorf("look at container %q: %w", x.ctr.ID, err))
	}
	refused := refuseDump(x.ctr, rep)
	for i, f := range rep.Findings {
		switch {
		case stops(f) && x.cmd.Force:
			a.warn("%s; going on all the same", f.Told())
		case stops(f) && i == 0:
			// It is the error.
		case f.Severity != criu.Info:
			a.warn("%s", f.Told())
		}
	}
	if x.cmd.Force {
		return nil
	}
	return refused
}

// findBase tells a base directory from a base image's name.
func (x *export) findBase() error {
	base := x.cmd.Base
	switch info, err := os.Stat(base); {
	case base == "":
		return nil
	case err == nil && info.IsDir():
		abs, err := filepath.Abs(base)
		if err != nil {
			return err
		}
		x.baseDir, x.base = abs, &archive.Base{Path: abs}
	case strings.HasPrefix(base, "/") || strings.HasPrefix(base, "."):
		return withHint(fmt.Errorf("base %q: %w", base, archive.ErrNotFound), "--base takes a directory with the pristine root file system, or the name of the base image")
	default:
		ref, err := parseName(base)
		if err != nil {
			return err
		}
		x.base = &archive.Base{Image: ref.String()}
	}
	return nil
}

// describe fills the part of the metadata that is known before the dump.
func (x *export) describe(ctx context.Context) error {
	host, err := runtime.ThisHost()
	if err != nil {
		return err
	}
	version, err := x.ctr.Runtime.Version(ctx)
	if err != nil {
		return err
	}
	x.addImage()
	x.meta = archive.Metadata{
		FormatVersion: archive.FormatVersion,
		Format:        x.ctr.Runtime.Format(),
		Tool:          "ckarchive/" + versionString(),
		Container: archive.Container{
			ID: x.ctr.ID, Name: x.name(), Engine: x.ctr.Engine, Created: x.ctr.Created, Generation: x.ctr.Generation + 1,
			Runtime: archive.Runtime{
				Name: x.ctr.Runtime.Name, Version: version, Root: x.ctr.Runtime.Root, Bundle: x.ctr.Bundle,
			},
		},
		Host:    host,
		Options: x.cmd.options(),
		Base:    x.base,
	}
	return nil
}

// name is what people call the container.
func (x *export) name() string {
	if x.cmd.Name != "" {
		return x.cmd.Name
	}
	return x.ctr.Name
}

// addImage notes the image that the container's engine made it from, unless --base named another.
func (x *export) addImage() {
	image := x.ctr.Image
	if image == nil || x.base != nil && x.base.Image != "" && x.base.Image != image.Image {
		return // another one was named
	}
	base := *image
	if x.base != nil {
		base.Path = x.base.Path
	}
	x.base = &base
}

func (f criuFlags) options() map[string]string {
	o := map[string]string{}
	for flag, set := range map[string]bool{
		"tcp-established": f.TCPEstablished, "tcp-close": f.TCPClose, "file-locks": f.FileLocks,
		"ext-unix-sk": f.ExtUnixSk, "shell-job": f.ShellJob,
	} {
		if set {
			o[flag] = "true"
		}
	}
	return o
}

func (f criuFlags) flags() criu.Flags {
	return criu.Flags{
		TCPEstablished: f.TCPEstablished, TCPClose: f.TCPClose, FileLocks: f.FileLocks,
		ExtUnixSk: f.ExtUnixSk, ShellJob: f.ShellJob,
	}
}

// checkSpace wants room for the images before anything is frozen.
func (x *export) checkSpace(a *app) error {
	need, err := x.ctr.MemoryUsage()
	if err != nil {
		return nil //nolint:nilerr // without a memory cgroup there is no estimate, and writing tells
	}
	free, err := archive.FreeSpace(a.cli.Root)
	if err != nil {
		return err
	}
	if need > free {
		return fmt.Errorf("export container %q: %w: its memory is %s, %q has %s free",
			x.ctr.ID, archive.ErrNoSpace, units.BytesSize(float64(need)), a.cli.Root, units.BytesSize(float64(free)))
	}
	return nil
}
