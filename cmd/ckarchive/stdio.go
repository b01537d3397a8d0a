package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// stdio is what the container's standard descriptors become: ckarchive's own in the foreground; a
// log otherwise, so that a caller who waits for the end of our output is not kept waiting by
// the container. What was a file or a FIFO of the dumping host becomes one again.
func (r *restore) stdio(ctx context.Context) (in, out, errs *os.File, err error) {
	if !r.cmd.Detach {
		in = r.app.stdin
	}
	if r.spec.Process != nil && r.spec.Process.Terminal {
		return in, nil, nil, nil
	}
	if r.hadHostTerminal() && !(isTerminal(r.app.stdout) && !r.cmd.Detach) {
		terminal, err := r.hostTerminal(ctx)
		return terminal, terminal, terminal, err
	}
	if out, err = r.outputOf(1, r.app.stdout); err != nil {
		return nil, nil, nil, err
	}
	errs, err = r.outputOf(2, r.app.stderr)
	return in, out, errs, err
}

// outputOf gives what descriptor fd of the container becomes; w is ours.
func (r *restore) outputOf(fd int, w io.Writer) (*os.File, error) {
	for _, e := range r.meta.Externals {
		if e.FD != fd || e.Kind != "file" {
			continue
		}
		switch e.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			return r.outputFile(e)
		case unix.S_IFIFO:
			return r.outputFIFO(e)
		}
	}
	if !r.cmd.Detach {
		return r.foreground(w)
	}
	if r.logger == nil {
		var err error
		if r.logger, err = startLogger(r.logPath()); err != nil {
			return nil, err
		}
	}
	return r.logger.pipe, nil
}

// logPath is where the output goes that has no other place.
func (r *restore) logPath() string {
	if r.cmd.Log != "" {
		return r.cmd.Log
	}
	return filepath.Join(r.home, "container.log")
}

// outputFile stands for a file of the dumping host. CRIU wants it as long as it was, unless
// the container only appends to it.
func (r *restore) outputFile(e archive.External) (_ *os.File, err error) {
	path := r.logPath()
	f, err := os.OpenFile(path, e.Flags&(unix.O_ACCMODE|unix.O_APPEND)|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the container's log: %w", err)
	}
	r.pipes = append(r.pipes, f)
	if err := f.Chmod(os.FileMode(e.Mode & 0o777)); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if e.Flags&unix.O_APPEND == 0 && info.Size() != e.Size {
		if err := f.Truncate(e.Size); err != nil {
			return nil, err
		}
	}
	r.app.say("the container writes to a file, as it did: %s", path)
	return f, nil
}

// outputFIFO stands for a FIFO of the dumping host; our logger reads it.
func (r *restore) outputFIFO(e archive.External) (*os.File, error) {
	path := filepath.Join(r.home, "output")
	err := unix.Mkfifo(path, e.Mode&0o777)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make the container's FIFO: %w", err)
	}
	if err := os.Chmod(path, os.FileMode(e.Mode&0o777)); err != nil {
		return nil, err
	}
	// Both ends at once: opening one alone waits for the other.
	both, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer both.Close() //nolint:errcheck // never written through
	if r.logger == nil {
		from, err := os.OpenFile(path, os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		defer from.Close() //nolint:errcheck // the logger has its own
		to, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		if r.logger, err = startLoggerOn(from, to, r.logPath()); err != nil {
			return nil, errors.Join(err, to.Close())
		}
	}
	return r.logger.pipe, nil
}

// foreground gives what a container writes to in place of w: w itself if it is a pipe or a
// terminal, else a pipe to it. CRIU opens descriptors anew, and a file would be written over
// from its beginning.
func (r *restore) foreground(w io.Writer) (*os.File, error) {
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return f, nil
		}
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r.pipes = append(r.pipes, to)
	r.output.Go(func() {
		// An output that cannot be written any more is the caller's loss, not the container's.
		_, _ = io.Copy(w, from)
		_, _ = io.Copy(io.Discard, from)
		_ = from.Close()
	})
	return to, nil
}

// dropPipes closes our ends of the container's output, which then ends with the container.
func (r *restore) dropPipes() {
	for _, p := range r.pipes {
		_ = p.Close() // nothing is buffered
	}
	r.pipes = nil
}
