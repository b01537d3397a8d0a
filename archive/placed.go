package archive

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"
)

// The first large pages file of a zstd archive begins at a multiple of placedAlign, behind a
// skippable frame. So it can be written to its place in the file before the metadata in front of
// it is known: memory then reaches the disk once.
const (
	placedAlign int64 = 256 << 10
	// placedBytes is the content, in bytes, from which on it is worth it.
	placedBytes int64 = 64 << 20
	// flushBytes are sent to the disk at a time.
	flushBytes int64 = 16 << 20
)

var errNotPlaced = errors.New("there are no frames in place")

// placed is a range of an [AtomicFile] that is written before what comes in front of it.
type placed struct {
	file *AtomicFile
	off  int64
	size int64
	sum  *xxhash.Digest
	// moveTo is the file that takes the range when it is in the way.
	moveTo string
	moved  bool
	synced int64 // bytes whose way to the disk has begun
}

var _ io.Writer = (*placed)(nil)

// place begins the range at off. moveTo is the path of a file that does not exist.
func (a *AtomicFile) place(off int64, moveTo string) *placed {
	a.placed = &placed{file: a, off: off, sum: xxhash.New(), moveTo: moveTo}
	return a.placed
}

// Write implements [io.Writer].
func (p *placed) Write(b []byte) (int, error) {
	n, err := p.file.file.WriteAt(b, p.off+p.size)
	p.size += int64(n)
	_, _ = p.sum.Write(b[:n]) // never fails
	if p.size-p.synced >= flushBytes {
		// The disk works while CRIU does, and the sync at the end is short. Only that one counts.
		_ = unix.SyncFileRange(int(p.file.file.Fd()), p.off+p.synced, p.size-p.synced, unix.SYNC_FILE_RANGE_WRITE)
		p.synced = p.size
	}
	return n, err
}

// evict moves the range out of the file.
func (p *placed) evict() (err error) {
	p.file.placed = nil
	p.moved = true
	to, err := os.OpenFile(p.moveTo, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := io.Copy(to, io.NewSectionReader(p.file.file, p.off, p.size)); err != nil {
		return err
	}
	return p.file.file.Truncate(p.file.size)
}

// skipPlaced goes on writing behind the range of n bytes, which must begin here.
func (a *AtomicFile) skipPlaced(n int64) error {
	p := a.placed
	if p == nil || p.off != a.size || p.size != n {
		return errNotPlaced
	}
	a.placed = nil
	a.endPart()
	a.parts = append(a.parts, part{off: p.off, size: p.size, sum: p.sum.Sum64()})
	a.size += n
	if _, err := a.file.Seek(a.size, io.SeekStart); err != nil {
		return fmt.Errorf("write %q: %w", a.path, bare(err))
	}
	return nil
}
