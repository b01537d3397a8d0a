package archive

import (
	"bytes"
	"os"
)

// sparseBlock is the smallest hole: a page of memory, and the block of most file systems.
const sparseBlock = 4096

var zeroPage [sparseBlock]byte //nolint:gochecknoglobals // a constant

// sparseFile writes a new file and leaves a hole for every block of zeros: what was never
// touched of a container's memory, or was given back, costs neither disk nor page cache.
type sparseFile struct {
	file *os.File
	size int64 // bytes so far, holes included
}

// Write implements [io.Writer].
func (s *sparseFile) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, zero := zeroRun(p[done:], s.size)
		if !zero {
			var err error
			if n, err = s.file.WriteAt(p[done:done+n], s.size); err != nil {
				s.size += int64(n)
				return done + n, err
			}
		}
		done += n
		s.size += int64(n)
	}
	return done, nil
}

// finish gives the file its size, which a hole at its end does not.
func (s *sparseFile) finish() error { return s.file.Truncate(s.size) }

// zeroRun measures the bytes at the beginning of p, which is at offset in the file, that are whole
// blocks of zeros, or else those before the next such block.
func zeroRun(p []byte, offset int64) (n int, zero bool) {
	for n < len(p) {
		step := min(len(p)-n, sparseBlock-int((offset+int64(n))%sparseBlock))
		is := step == sparseBlock && bytes.Equal(p[n:n+step], zeroPage[:])
		if n == 0 {
			zero = is
		}
		if is != zero {
			break
		}
		n += step
	}
	return n, zero
}
