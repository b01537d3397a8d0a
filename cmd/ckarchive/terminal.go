package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
)

// hadHostTerminal tells whether the container was started on a terminal of its host, without one
// of its own: by "runc run" in a shell.
func (r *restore) hadHostTerminal() bool {
	return slices.ContainsFunc(r.meta.Externals, func(e archive.External) bool { return e.Kind == "tty" && e.FD <= 2 })
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// hostTerminal makes the terminal that stands for the one of the dumping host. Its other end goes
// to the console socket if one was given, to the log of a detached container, or to our output.
func (r *restore) hostTerminal(ctx context.Context) (*os.File, error) {
	master, terminal, err := openTerminal()
	if err != nil {
		return nil, fmt.Errorf("make a terminal for the container: %w", err)
	}
	r.pipes = append(r.pipes, terminal)
	switch {
	case r.cmd.ConsoleSocket != "":
		err = errors.Join(criu.SendConsole(ctx, r.cmd.ConsoleSocket, master), master.Close())
	case r.cmd.Detach:
		defer master.Close() //nolint:errcheck // the logger has its own
		own, derr := unix.FcntlInt(terminal.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if derr != nil {
			return nil, derr
		}
		r.logger, err = startLoggerOn(master, os.NewFile(uintptr(own), terminal.Name()), r.logPath())
	default:
		w := r.app.stdout
		r.output.Go(func() {
			_, _ = io.Copy(w, master) // a terminal ends with an error
			_ = master.Close()
		})
	}
	return terminal, err
}

// openTerminal makes a terminal: what is written to one end is read from the other.
func openTerminal() (master, terminal *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	return master, terminal, nil
}
