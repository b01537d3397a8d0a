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
	// Encrypt, unless nil, encrypts the whole file.
	Encrypt Encrypter
}

// FileSink is a [Sink] that makes an archive file. The file has its name only
// after Commit; until then, and after a failure, an existing one is untouched.
type FileSink struct {
	file *AtomicFile
	*packing
}

var _ Sink = (*FileSink)(nil)

// packing is the way from entries to the bytes of a file: tar, compression, encryption.
type packing struct {
	tar    *Writer
	packer io.WriteCloser
	sealer io.WriteCloser // nil: it is not encrypted
}

func newPacking(w io.Writer, c Compression, encrypt Encrypter) (*packing, error) {
	p := &packing{}
	var err error
	if encrypt != nil {
		if p.sealer, err = encrypt(w); err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		w = p.sealer
	}
	if p.packer, err = Compress(w, c); err != nil {
		return nil, err
	}
	p.tar = newFileWriter(p.packer)
	return p, nil
}

// Put implements [Sink].
func (p *packing) Put(ctx context.Context, e Entry, r io.Reader) error { return p.tar.Put(ctx, e, r) }

// end writes all that is still to be written.
func (p *packing) end(ctx context.Context) error {
	if err := p.tar.Commit(ctx); err != nil {
		return err
	}
	packer := p.packer
	p.packer = nil
	if err := packer.Close(); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if p.sealer != nil {
		if err := p.sealer.Close(); err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
	}
	return nil
}

// discard ends without the end marks of tar and encryption.
func (p *packing) discard() error {
	err := p.tar.Close()
	if p.packer != nil {
		// Ends the compressor's goroutines. What it still writes is of no use to anybody, and so is its error.
		_ = p.packer.Close()
		p.packer = nil
	}
	return err
}

// CreateFile begins the archive file path. It fails before anything else happens when the
// directory is missing or not writable, or the file is there.
func CreateFile(path string, opts FileOptions) (*FileSink, error) {
	f, err := CreateAtomic(path, opts.Replace)
	if err != nil {
		return nil, err
	}
	p, err := newPacking(f, opts.Compression, opts.Encrypt)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &FileSink{file: f, packing: p}, nil
}

// Commit implements [Sink]. See [AtomicFile.Commit] for [ErrNotDurable].
func (s *FileSink) Commit(ctx context.Context) error {
	if err := s.end(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	return s.file.Commit(ctx)
}

// Temporary is the name that the file has until Commit.
func (s *FileSink) Temporary() string { return s.file.file.Name() }

// Size is the length of the file so far, in bytes.
func (s *FileSink) Size() int64 { return s.file.size }

// Close implements [Sink].
func (s *FileSink) Close() error { return errors.Join(s.discard(), s.file.Close()) }

// StreamSink is a [Sink] that writes an archive to a stream such as standard
// output. A stream cannot be taken back: a reader learns by the missing end mark
// that it was not committed.
type StreamSink struct{ *packing }

var _ Sink = (*StreamSink)(nil)

// StreamOptions adjust [NewStreamSink].
type StreamOptions struct {
	Compression Compression // empty means Zstd
	// Encrypt, unless nil, encrypts the whole stream.
	Encrypt Encrypter
}

// NewStreamSink writes to w, which stays the caller's.
func NewStreamSink(w io.Writer, opts StreamOptions) (*StreamSink, error) {
	p, err := newPacking(w, opts.Compression, opts.Encrypt)
	if err != nil {
		return nil, err
	}
	return &StreamSink{p}, nil
}

// Commit implements [Sink].
func (s *StreamSink) Commit(ctx context.Context) error { return s.end(ctx) }

// Close implements [Sink]. Without Commit nothing more is written to the
// stream but what the compressor had begun.
func (s *StreamSink) Close() error { return s.discard() }

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
