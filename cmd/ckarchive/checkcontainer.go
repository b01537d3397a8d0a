package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// container looks at one container, and changes nothing.
func (c *checkCmd) container(ctx context.Context, a *app) error {
	if err := needRoot("check of a container"); err != nil {
		return err
	}
	limit, err := ghostLimit(c.GhostLimit)
	if err != nil {
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
		return errors.Join(err, a.printPreflight(ctr, rep))
	}
	rep, err := criu.Preflight(ctx, criu.PreflightOptions{
		Flags: criu.Flags{
			TCPEstablished: on(c.TCPEstablished), TCPClose: on(c.TCPClose), FileLocks: on(c.FileLocks),
			ExtUnixSk: on(c.ExtUnixSk), ShellJob: on(c.ShellJob),
		},
		Spec: ctr.Spec, PID: ctr.PID, Rootfs: ctr.Rootfs, Descriptors: ctr.Descriptors,
		LinkRemap: c.LinkRemap, GhostLimit: limit,
	})
	if err != nil {
		return cause(ctx, fmt.Errorf("check container %q: %w", ctr.ID, err))
	}
	if err := a.printPreflight(ctr, rep); err != nil {
		return err
	}
	if blockers := rep.Blockers(); len(blockers) > 0 {
		first := blockers[0]
		return withHint(&environmentError{fmt.Errorf("container %q cannot be dumped like this: %s", ctr.ID, first.Text)}, asFlag(first.Remedy, first.Option))
	}
	return nil
}

func (a *app) printPreflight(ctr *runtime.Container, rep criu.Report) error {
	if a.cli.JSON {
		return a.printJSON(rep)
	}
	return a.columns(func(w io.Writer) {
		fmt.Fprintf(w, "container\t%s (%s, pid %d)\n", ctr.ID, ctr.Status, ctr.PID)
		fmt.Fprintf(w, "tasks\t%d\n", rep.Tasks)
		fmt.Fprintf(w, "memory\t%s\n", units.BytesSize(float64(rep.Memory)))
		fmt.Fprintf(w, "freeze\tabout %s\n", rep.Freeze.Round(time.Millisecond))
		for _, f := range rep.Findings {
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
