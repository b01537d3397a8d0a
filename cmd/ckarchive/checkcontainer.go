package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// container looks at one container, and changes nothing.
func (c *checkCmd) container(ctx context.Context, a *app) error {
	if err := needRoot("check of a container"); err != nil {
		return err
	}
	ctr, err := runtime.Find(ctx, c.Target, c.find(a))
	if err != nil {
		return err
	}
	if err := ctr.Dumpable(); err != nil {
		return err
	}
	if sandboxed(ctr) {
		rep, err := lookAtSandbox(ctx, ctr)
		if err != nil {
			return err
		}
		return c.report(ctx, a, ctr, rep)
	}
	opts, err := c.preflight(ctr, criu.Flags{
		TCPEstablished: on(c.TCPEstablished), TCPClose: on(c.TCPClose), FileLocks: on(c.FileLocks),
		ExtUnixSk: on(c.ExtUnixSk), ShellJob: on(c.ShellJob),
	}, c.External)
	if err != nil {
		return err
	}
	rep, err := criu.Preflight(ctx, opts)
	if err != nil {
		return cause(ctx, fmt.Errorf("check container %q: %w", ctr.ID, err))
	}
	return c.report(ctx, a, ctr, rep)
}

// report prints what was found, and is an error if it stops a dump.
func (c *checkCmd) report(ctx context.Context, a *app, ctr *runtime.Container, rep criu.Report) (err error) {
	v := containerReport{Container: ctr.ID, Report: rep}
	if v.Files, err = filesToArchive(ctx, ctr); err != nil {
		return cause(ctx, fmt.Errorf("check container %q: %w", ctr.ID, err))
	}
	v.Disk = rep.Memory + rep.Tmpfs + v.Files
	if err := a.printPreflight(ctr, v); err != nil {
		return err
	}
	return refuseDump(ctr, rep)
}

// containerReport is what check says of a container.
type containerReport struct {
	Container string `json:"container"`
	criu.Report
	Files int64 `json:"files"` // bytes of its root file system that an archive without --base holds
	Disk  int64 `json:"disk"`  // bytes to be written in all, before they are packed
}

// filesToArchive is how much of the root file system goes into an archive: an overlay's upper layer, or all of it.
func filesToArchive(ctx context.Context, ctr *runtime.Container) (int64, error) {
	dir := ctr.Rootfs
	if upper, _, ok, err := rootfs.Layers(0, dir); err != nil {
		return 0, err
	} else if ok {
		dir = upper
	}
	return usage(ctx, dir)
}

// usage sums the files of one file system below dir. What goes away meanwhile does not count.
func usage(ctx context.Context, dir string) (total int64, err error) {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return 0, err
	}
	seen := map[uint64]bool{} // files with several names
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil //nolint:nilerr // gone
		}
		if st.Dev != top.Dev {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type().IsRegular() && !seen[st.Ino] {
			seen[st.Ino] = st.Nlink > 1
			total += st.Size
		}
		return nil
	})
	return total, err
}

// stops tells whether a finding stops an export: what lets the dump fail, and a process that would be lost.
func stops(f criu.Finding) bool {
	return f.Severity == criu.Blocker || f.Code == criu.CodeStray
}

// refuseDump is the error of a container that cannot be dumped as it is.
func refuseDump(ctr *runtime.Container, rep criu.Report) error {
	for _, f := range rep.Findings {
		if !stops(f) {
			continue
		}
		hint := asFlag(f.Remedy, f.Option)
		if f.Code == criu.CodeStray {
			hint += " with --force"
		}
		return withHint(&environmentError{fmt.Errorf("container %q cannot be dumped like this: %s", ctr.ID, f.Told())}, hint)
	}
	return nil
}

func (a *app) printPreflight(ctr *runtime.Container, v containerReport) error {
	if a.cli.JSON {
		return a.printJSON(v)
	}
	return a.columns(func(w io.Writer) {
		fmt.Fprintf(w, "container\t%s (%s, pid %d)\n", ctr.ID, ctr.Status, ctr.PID)
		fmt.Fprintf(w, "tasks\t%d\n", v.Tasks)
		fmt.Fprintf(w, "memory\t%s\n", units.BytesSize(float64(v.Memory)))
		fmt.Fprintf(w, "tmpfs\t%s\n", units.BytesSize(float64(v.Tmpfs)))
		fmt.Fprintf(w, "files\t%s\n", units.BytesSize(float64(v.Files)))
		fmt.Fprintf(w, "disk\tat most %s\n", units.BytesSize(float64(v.Disk)))
		fmt.Fprintf(w, "freeze\tabout %s\n", v.Freeze.Round(time.Millisecond))
		for _, f := range v.Findings {
			text := f.Told()
			if f.Remedy != "" && f.Severity != criu.Info {
				text += "; " + asFlag(f.Remedy, f.Option)
			}
			fmt.Fprintf(w, "%s\t%s\n", f.Severity, oneLine(text))
		}
	})
}

// ghostLimit reads --ghost-limit, in bytes.
func ghostLimit(text string) (uint32, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 || n > 1<<32-1 {
		return 0, usagef("--ghost-limit %q is not a size below 4 GiB", text)
	}
	return uint32(n), nil
}
