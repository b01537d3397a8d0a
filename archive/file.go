package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// FileOptions adjust [CreateFile].
type FileOptions struct {
	Compression Compression // empty means Zstd
	Replace     bool        // an existing file is replaced by Commit
}

// FileSink is a [Sink] that makes an archive file. The file has its name only
// after Commit; until then, and after a failure, an existing one is untouched.
type FileSink struct {
	file   *AtomicFile
	packer io.WriteCloser
	tar    *Writer
}

var _ Sink = (*FileSink)(nil)

// CreateFile begins the archive file path. It fails before anything else happens when the
// directory is missing or not writable, or the file is there.
func CreateFile(path string, opts FileOptions) (*FileSink, error) {
	f, err := CreateAtomic(path, opts.Replace)
	if err != nil {
		return nil, err
	}
	packer, err := Compress(f, opts.Compression)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &FileSink{file: f, packer: packer, tar: newFileWriter(packer)}, nil
}

// Put implements [Sink].
func (s *FileSink) Put(ctx context.Context, e Entry, r io.Reader) error { return s.tar.Put(ctx, e, r) }

// Commit implements [Sink]. See [AtomicFile.Commit] for [ErrNotDurable].
func (s *FileSink) Commit(ctx context.Context) error {
	if err := s.tar.Commit(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	packer := s.packer
	s.packer = nil
	if err := packer.Close(); err != nil {
		return errors.Join(fmt.Errorf("compress: %w", err), s.Close())
	}
	return s.file.Commit(ctx)
}

// Temporary is the name that the file has until Commit.
func (s *FileSink) Temporary() string { return s.file.file.Name() }

// Size is the length of the file so far, in bytes.
func (s *FileSink) Size() int64 { return s.file.size }

// Close implements [Sink].
func (s *FileSink) Close() error {
	err := s.tar.Close()
	if s.packer != nil {
		// Ends the compressor's goroutines. What it still writes goes into a file that is
		// removed, so that its error means nothing.
		_ = s.packer.Close()
		s.packer = nil
	}
	return errors.Join(err, s.file.Close())
}

// StreamSink is a [Sink] that writes an archive to a stream such as standard
// output. A stream cannot be taken back: a reader learns by the missing end mark
// that it was not committed.
type StreamSink struct {
	packer io.WriteCloser
	tar    *Writer
}

var _ Sink = (*StreamSink)(nil)

// NewStreamSink writes to w, which stays the caller's.
func NewStreamSink(w io.Writer, c Compression) (*StreamSink, error) {
	packer, err := Compress(w, c)
	if err != nil {
		return nil, err
	}
	return &StreamSink{packer: packer, tar: newFileWriter(packer)}, nil
}

// Put implements [Sink].
func (s *StreamSink) Put(ctx context.Context, e Entry, r io.Reader) error {
	return s.tar.Put(ctx, e, r)
}

// Commit implements [Sink].
func (s *StreamSink) Commit(ctx context.Context) error {
	if err := s.tar.Commit(ctx); err != nil {
		return err
	}
	packer := s.packer
	s.packer = nil
	return packer.Close()
}

// Close implements [Sink]. Without Commit nothing more is written to the
// stream but what the compressor had begun.
func (s *StreamSink) Close() error {
	err := s.tar.Close()
	if s.packer != nil {
		_ = s.packer.Close()
		s.packer = nil
	}
	return err
}

// FileSource is a [Source] over an archive file.
type FileSource struct {
	*Reader
	file *os.File
}

var _ Source = (*FileSource)(nil)

// OpenFile opens the archive file path. Its compression is found by content.
func OpenFile(path string, opts ReaderOptions) (*FileSource, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("open %q: %w", path, ErrNotFound)
		}
		return nil, fmt.Errorf("open %q: %w", path, bare(err))
	}
	src, err := openFile(f, opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %q: %w", path, err), f.Close())
	}
	return src, nil
}

func openFile(f *os.File, opts ReaderOptions) (*FileSource, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%w: it is a directory", ErrNotArchive)
	}
	r, err := NewReader(f, opts)
	if err != nil {
		return nil, err
	}
	return &FileSource{Reader: r, file: f}, nil
}

// Close implements [Source].
func (s *FileSource) Close() error {
	err := s.Reader.Close()
	if cerr := s.file.Close(); !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}
