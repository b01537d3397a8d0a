package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// TakePages reads the memory that CRIU writes into the pages file name, to its end. Several
// are taken at once. An error of it lets the dump fail, and the container go on.
type TakePages func(ctx context.Context, name string, r io.Reader) error

// CRIU numbers its pages files from 1, one for each task and each segment of shared memory.
const (
	pipesPerTask = 2
	sparePipes   = 32
	// maxPipes bounds the open descriptors. A pages file beyond it is an ordinary file.
	maxPipes = 256
	// pipeBytes is what a pipe holds, the most that the kernel gives without privilege.
	pipeBytes = 1 << 20
	// pipePollMillis is how often a waiting reader looks whether the dump is over.
	pipePollMillis = 20
)

// PagePipes are FIFOs in the place of the pages files: CRIU moves pages into them without a
// copy, and nothing of the memory reaches a disk unless the reader puts it there.
type PagePipes struct {
	dir     string
	files   map[int32]string // by descriptor: those that nobody has opened yet
	readers errgroup.Group
	watcher errgroup.Group
	over    atomic.Bool
	mu      sync.Mutex // guards sizes
	sizes   map[string]int64
}

// OpenPagePipes puts FIFOs into the image directory dir, for a dump of the container of the process pid that a runtime
// asks CRIU for. An error leaves dir as it was: the runtime can write files there. [PagePipes.Run] is
// to follow. [Dump] has its own.
func OpenPagePipes(ctx context.Context, dir string, pid int, take TakePages) (*PagePipes, error) {
	tasks, err := taskTree(pid)
	if err != nil {
		return nil, err
	}
	return newPagePipes(ctx, dir, len(tasks), take)
}

// Run lets dump write the images, and gives the lengths of the pages files that were taken, for
// [CheckOptions].Taken. It returns when all of the memory has been read and the FIFOs are gone. No task of the container may run
// before that, so it has to be paused before and dump must leave it so: what is in a FIFO are references to its pages. The
// reader's error goes before that of dump, which only knows that a pipe was closed.
func (p *PagePipes) Run(dump func() error) (map[string]int64, error) {
	err := dump()
	sizes, terr := p.finish()
	if terr != nil && err != nil {
		err = fmt.Errorf("%w (%w)", terr, err)
	}
	return sizes, cmp.Or(err, terr)
}

// newPagePipes makes the FIFOs and begins to wait for CRIU.
func newPagePipes(ctx context.Context, dir string, tasks int, take TakePages) (*PagePipes, error) {
	p := &PagePipes{dir: dir, files: map[int32]string{}, sizes: map[string]int64{}}
	for id := range min(tasks*pipesPerTask+sparePipes, maxPipes) {
		name := pagesName(uint32(id + 1))
		if err := p.add(name); err != nil {
			p.abort()
			return nil, fmt.Errorf("make a pipe for %s: %w", name, err)
		}
	}
	p.watcher.Go(func() error { return p.watch(ctx, take) })
	return p, nil
}

func (p *PagePipes) add(name string) error {
	path := filepath.Join(p.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return err
	}
	// Without a writer, opening would wait for one.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	p.files[int32(fd)] = name //nolint:gosec // descriptors fit
	// A smaller pipe only means more turns.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeBytes)
	return nil
}

// watch starts a reader for each pipe that CRIU opens, until the dump is over.
func (p *PagePipes) watch(ctx context.Context, take TakePages) error {
	for {
		last := p.over.Load()
		polled := make([]unix.PollFd, 0, len(p.files))
		for fd := range p.files {
			polled = append(polled, unix.PollFd{Fd: fd, Events: unix.POLLIN})
		}
		timeout := pipePollMillis
		if last {
			timeout = 0 // what was written is there by now
		}
		if _, err := unix.Poll(polled, timeout); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, f := range polled {
			if f.Revents&(unix.POLLIN|unix.POLLHUP) != 0 {
				p.read(ctx, f.Fd, take)
			}
		}
		if last {
			return nil
		}
	}
}

// read takes one pages file. An error closes the pipe, which ends CRIU's dump.
func (p *PagePipes) read(ctx context.Context, fd int32, take TakePages) {
	name := p.files[fd]
	delete(p.files, fd)
	f := os.NewFile(uintptr(fd), name) //nolint:gosec // a descriptor is never negative
	p.readers.Go(func() (err error) {
		defer func() { err = errors.Join(err, f.Close()) }()
		c := &takenReader{r: f}
		if err := take(ctx, name, c); err != nil {
			return fmt.Errorf("take %s: %w", name, err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sizes[name] = c.n
		return nil
	})
}

// finish waits until all that CRIU wrote is taken, removes the FIFOs and gives the length of each
// pages file. The tasks must not run before that: a pipe holds references to their pages.
func (p *PagePipes) finish() (map[string]int64, error) {
	p.over.Store(true)
	err := errors.Join(p.watcher.Wait(), p.readers.Wait())
	for fd := range p.files {
		err = errors.Join(err, unix.Close(int(fd)))
		delete(p.files, fd)
	}
	return p.sizes, errors.Join(err, p.remove())
}

// abort ends the readers of a dump that failed; CRIU has closed its ends.
func (p *PagePipes) abort() {
	// The dump's own error is told.
	_, _ = p.finish()
}

// remove removes the FIFOs. What CRIU made in place of one stays.
func (p *PagePipes) remove() error {
	entries, err := os.ReadDir(p.dir)
	for _, e := range entries {
		if e.Type()&os.ModeNamedPipe != 0 {
			err = errors.Join(err, os.Remove(filepath.Join(p.dir, e.Name())))
		}
	}
	return err
}

// ReleasePipes ends a CRIU's waiting for somebody to read the pages files in dir, whose reader is dead:
// its dump fails, and the container goes on.
func ReleasePipes(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Type()&os.ModeNamedPipe == 0 {
			continue
		}
		// A reader that comes and goes lets the writer open the pipe, and then fail.
		fd, oerr := unix.Open(filepath.Join(dir, e.Name()), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if oerr != nil && !errors.Is(oerr, unix.ENOENT) {
			err = errors.Join(err, oerr)
		}
		if oerr == nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}

type takenReader struct {
	r io.Reader
	n int64
}

func (c *takenReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}
