package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// holdChunk is what a member of a [Hold] takes of the memory at a time, in bytes.
const holdChunk = 4 << 20

// Hold keeps members in memory that was taken from the kernel before: to put a byte there costs one
// copy of it and nothing else, so a container whose memory is put there stands still as short as
// can be. What the memory has no room for goes to files.
type Hold struct {
	// Dir is a directory, made when it is needed, for what the memory has no room for. It is set
	// before the first Put.
	Dir string

	mu      sync.Mutex
	memory  []byte // of which used bytes are given out
	used    int
	members []*held
	closed  bool
}

// held is one member: its beginning in chunks of memory, its end, if need be, in a file.
type held struct {
	name   string
	chunks [][]byte // all of holdChunk bytes but the last
	inside int64    // bytes in them
	path   string
	size   int64
}

// NewHold takes memory for size bytes from the kernel, rounded up to whole chunks; with size 0 it
// takes none. Close gives it back.
func NewHold(size int64) (*Hold, error) {
	h := &Hold{}
	size = (size + holdChunk - 1) / holdChunk * holdChunk
	if size <= 0 {
		return h, nil
	}
	var err error
	h.memory, err = unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("take %d bytes of memory: %w", size, err)
	}
	// Both may fail on an old kernel, and then the memory comes when it is written.
	_ = unix.Madvise(h.memory, unix.MADV_HUGEPAGE)
	if err := populate(h.memory); errors.Is(err, unix.ENOMEM) {
		return nil, errors.Join(fmt.Errorf("take %d bytes of memory: %w", size, err), h.Close())
	}
	return h, nil
}

// populators bounds how many goroutines take memory: the kernel zeroes it, and more cores than that wait for
// each other.
const populators = 4

// populate takes the memory behind a mapping on several cores.
func populate(memory []byte) error {
	n := min(runtime.GOMAXPROCS(0), populators)
	part := (len(memory)/n/holdChunk + 1) * holdChunk
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		piece := memory[min(i*part, len(memory)):min((i+1)*part, len(memory))]
		if len(piece) > 0 {
			group.Go(func() { errs[i] = unix.Madvise(piece, unix.MADV_POPULATE_WRITE) })
		}
	}
	group.Wait()
	return errors.Join(errs...)
}

// Put reads r to its end and keeps it as the member name. Several members may be put at once.
// An empty one is not kept.
func (h *Hold) Put(ctx context.Context, name string, r io.Reader) error {
	m := &held{name: name}
	err := h.fill(ctx, m, r)
	if err != nil {
		return &EntryError{Op: "hold", Name: name, Err: bare(err)}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.size > 0 {
		h.members = append(h.members, m)
	}
	return nil
}

func (h *Hold) fill(ctx context.Context, m *held, r io.Reader) error {
	for {
		chunk := h.take()
		if chunk == nil {
			return h.overflow(ctx, m, r)
		}
		n, err := readFull(ctx, r, chunk)
		m.chunks = append(m.chunks, chunk[:n])
		m.inside += int64(n)
		m.size += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readFull fills b, or gives io.EOF with what there was.
func readFull(ctx context.Context, r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var got int
		got, err = r.Read(b[n:])
		n += got
	}
	return n, err
}

// take gives the next chunk, or nil when there is none left.
func (h *Hold) take() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.used+holdChunk > len(h.memory) {
		return nil
	}
	h.used += holdChunk
	return h.memory[h.used-holdChunk : h.used : h.used]
}

// overflow puts the rest of r into a file, if there is a rest.
func (h *Hold) overflow(ctx context.Context, m *held, r io.Reader) (err error) {
	first := make([]byte, 1)
	if _, err := readFull(ctx, r, first); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	f, err := h.newFile(m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(first); err != nil {
		return err
	}
	n, err := copyContext(ctx, f, r)
	m.size += 1 + n
	return err
}

func (h *Hold) newFile(m *held) (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := os.Mkdir(h.Dir, dirMode); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	for i := 0; ; i++ {
		m.path = filepath.Join(h.Dir, strconv.Itoa(i))
		f, err := os.OpenFile(m.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
}

// Size is the length of all members, in bytes.
func (h *Hold) Size() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := int64(0)
	for _, m := range h.members {
		n += m.size
	}
	return n
}

// Names are the members that were put, in the archive's order.
func (h *Hold) Names() []string {
	names := []string{}
	for _, m := range h.sorted() {
		names = append(names, m.name)
	}
	return names
}

func (h *Hold) sorted() []*held {
	h.mu.Lock()
	defer h.mu.Unlock()
	members := slices.Clone(h.members)
	slices.SortFunc(members, func(a, b *held) int { return compareNames(a.name, b.name) })
	return members
}

// kept implements [Kept].
func (h *Hold) kept() ([]keptMember, error) {
	if h == nil {
		return nil, nil
	}
	h.mu.Lock()
	closed := h.closed
	h.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	members := []keptMember{}
	for _, m := range h.sorted() {
		members = append(members, keptMember{name: m.name, size: m.size, open: func() (io.ReadCloser, error) {
			b, err := h.Open(m.name)
			if err != nil {
				return nil, err
			}
			return &blobReader{io.NewSectionReader(b, 0, b.Size()), b}, nil
		}})
	}
	return members, nil
}

// blobReader reads a blob from its beginning, and closes it.
type blobReader struct {
	*io.SectionReader
	io.Closer
}

// Open gives a member. It must be closed before the Hold is.
func (h *Hold) Open(name string) (Blob, error) {
	for _, m := range h.sorted() {
		if m.name != name {
			continue
		}
		b := &heldBlob{held: m}
		if m.path == "" {
			return b, nil
		}
		f, err := os.Open(m.path)
		if err != nil {
			return nil, &EntryError{Op: "open", Name: name, Err: bare(err)}
		}
		b.file = f
		return b, nil
	}
	return nil, &EntryError{Op: "open", Name: name, Err: ErrNotFound}
}

// Close gives the memory back and removes the files.
func (h *Hold) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.members, h.closed = nil, true
	var err error
	if h.Dir != "" {
		err = RemoveTree(h.Dir)
	}
	if h.memory != nil {
		err = errors.Join(err, unix.Munmap(h.memory))
		h.memory = nil
	}
	return err
}

// heldBlob reads a member of a Hold.
type heldBlob struct {
	*held
	file *os.File // of its end, or nil
}

func (b *heldBlob) Size() int64 { return b.size }

// ReadAt implements [io.ReaderAt].
func (b *heldBlob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: negative offset %d", b.name, off)
	}
	done := 0
	for done < len(p) && off < b.inside {
		n := copy(p[done:], b.chunks[off/holdChunk][off%holdChunk:])
		done += n
		off += int64(n)
	}
	if done == len(p) {
		return done, nil
	}
	if b.file == nil || off >= b.size {
		return done, io.EOF
	}
	n, err := b.file.ReadAt(p[done:], off-b.inside)
	return done + n, err
}

func (b *heldBlob) Close() error {
	if b.file == nil {
		return nil
	}
	return b.file.Close()
}
