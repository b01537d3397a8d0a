package archive

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// Replay reads a stream and keeps what it has read, as it came, in a file without a name: what turns out to be needed
// twice can be read again. A reader on it that reads ahead may still do so during the other calls.
type Replay struct {
	in  io.Reader
	dir string

	reading sync.Mutex // one at a time reads in and keeps it, in order
	rested  bool

	mu   sync.Mutex // of what follows
	file *os.File   // nil before the first byte, and when nothing is kept any more
	done bool       // nothing is kept any more
	err  error      // why not all was kept
}

// NewReplay reads in, which stays the caller's, and keeps what is read in dir; an empty one is that for temporary files.
func NewReplay(in io.Reader, dir string) *Replay { return &Replay{in: in, dir: dir} }

// Read implements [io.Reader]. That something cannot be kept is told by Rest alone.
func (r *Replay) Read(p []byte) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	if r.rested {
		return 0, io.EOF // to one that is no longer heard
	}
	n, err := r.in.Read(p)
	r.keep(p[:n])
	return n, err
}

func (r *Replay) keep(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done || r.err != nil {
		return
	}
	if r.file == nil {
		if r.file, r.err = CreateUnnamed(r.dir); r.err != nil {
			return
		}
	}
	if _, err := r.file.Write(p); err != nil {
		r.err = bare(err)
	}
}

// Rest reads the stream to its end, and gives a path at which all of it can be opened until Close.
func (r *Replay) Rest(ctx context.Context) (string, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.rested = true
	_, err := io.Copy(keeper{r}, ContextReader(ctx, r.in))
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.err != nil:
		return "", fmt.Errorf("keep what is read in a temporary file: %w", r.err)
	case err != nil:
		return "", err
	case r.file == nil:
		return "", fmt.Errorf("%w: it is empty", ErrNotArchive)
	}
	return fmt.Sprintf("/proc/self/fd/%d", r.file.Fd()), nil
}

// keeper writes what Rest reads.
type keeper struct{ r *Replay }

func (k keeper) Write(p []byte) (int, error) {
	k.r.keep(p)
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	return len(p), k.r.err
}

// Close forgets what was kept. What is read from then on is not kept. It may be called twice.
func (r *Replay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}
