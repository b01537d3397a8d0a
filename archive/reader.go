package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ReaderOptions adjust a [Reader].
type ReaderOptions struct {
	// MaxBytes limits the sum of the sizes of all members, in bytes; 0 means MaxTotalBytes.
	MaxBytes int64
	// Sequential unpacks no further ahead than it has to: for who reads only the beginning of a
	// stream whose bytes are dear.
	Sequential bool
	// PassParent passes over the link from images to those that they were dumped on top of, see [ParentLink], which an
	// engine leaves in its archive: for who has the others too.
	PassParent bool
	// Decrypt opens an encrypted archive. Nil: such an archive is an [ErrEncrypted].
	Decrypt Decrypter
}

// Reader is a [Source] over a tar stream, compressed or not. It takes the
// archives of every engine and rejects, on the stream and before a sink sees
// anything of the entry, whatever is not a plain tree of regular files and
// directories with a proper end.
type Reader struct {
	frames  *framing
	tar     *tar.Reader
	unpack  io.Closer
	packed  Compression
	sealed  bool
	max     int64
	total   int64
	entries int
	names   claims
	err     error
}

var _ Source = (*Reader)(nil)

// NewReader reads the archive in r. r stays the caller's and must outlive the Reader.
func NewReader(r io.Reader, opts ReaderOptions) (*Reader, error) {
	clear, encrypted, err := decrypt(r, opts.Decrypt)
	if err != nil {
		return nil, err
	}
	plain, packed, err := decompress(clear, opts.Sequential)
	if err != nil {
		return nil, err
	}
	limit := opts.MaxBytes
	if limit <= 0 {
		limit = MaxTotalBytes
	}
	frames := newFraming(plain)
	frames.passParent = opts.PassParent
	return &Reader{
		frames: frames,
		tar:    tar.NewReader(frames),
		unpack: plain,
		packed: packed,
		sealed: encrypted,
		max:    limit,
		names:  claims{},
	}, nil
}

// Compression tells how the stream is packed.
func (r *Reader) Compression() Compression { return r.packed }

// Encrypted tells whether the stream is encrypted.
func (r *Reader) Encrypted() bool { return r.sealed }

// Next implements [Source].
func (r *Reader) Next(ctx context.Context) (Entry, io.Reader, error) {
	if r.err != nil {
		return Entry{}, nil, r.err
	}
	e, body, err := r.next(ctx)
	r.err = err
	return e, body, err
}

func (r *Reader) next(ctx context.Context) (Entry, io.Reader, error) {
	for {
		if ctx.Err() != nil {
			return Entry{}, nil, context.Cause(ctx)
		}
		h, err := r.tar.Next()
		if errors.Is(err, io.EOF) {
			return r.end(ctx)
		}
		if err != nil {
			return Entry{}, nil, r.headerError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if h.Typeflag == tar.TypeDir && (h.Name == "./" || h.Name == ".") {
			continue // tar -C dir -cf x.tar . begins with the folder itself
		}
		if r.frames.passParent && h.Typeflag == tar.TypeSymlink && h.Name == Image(ParentLink) {
			continue
		}
		e, err := r.accept(h)
		if err != nil {
			return Entry{}, nil, err
		}
		if e.Kind == KindDir {
			return e, nil, nil
		}
		return e, &tarBody{r: r.tar}, nil
	}
}

// end is reached when archive/tar saw an end, which it also does where there is none.
func (r *Reader) end(ctx context.Context) (Entry, io.Reader, error) {
	if err := r.frames.finish(ctx); err != nil {
		return Entry{}, nil, err
	}
	if r.entries == 0 {
		return Entry{}, nil, fmt.Errorf("%w: it has no members", ErrNotArchive)
	}
	return Entry{}, nil, io.EOF
}

func (r *Reader) headerError(err error) error {
	switch {
	case errors.Is(err, ErrRejected):
		return err
	case !r.frames.any && errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it is shorter than a tar header", ErrNotArchive)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return rejectf("damaged tar header after %d members: %w", r.entries, err)
	}
	return asRejection(err)
}

// accept checks one header against the rules.
func (r *Reader) accept(h *tar.Header) (Entry, error) {
	name, err := CleanName(h.Name)
	if err != nil {
		return Entry{}, &EntryError{Op: "read", Name: h.Name, Err: err}
	}
	e := Entry{Name: name, Mode: h.FileInfo().Mode().Perm(), ModTime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeDir:
		if h.Size != 0 {
			// Old tars have no type for directories, only the final slash.
			return Entry{}, rejectEntry(name, "a directory with a size")
		}
		e.Kind = KindDir
	case tar.TypeReg, tar.TypeCont:
		if strings.HasSuffix(h.Name, "/") {
			return Entry{}, rejectEntry(name, "a file with a directory's name, which some readers take for one")
		}
		e.Kind, e.Size = KindFile, h.Size
	default:
		return Entry{}, rejectEntry(name, "type %q: only regular files and directories are allowed", h.Typeflag)
	}
	if r.entries++; r.entries > MaxEntries {
		return Entry{}, rejectf("more than %d members", MaxEntries)
	}
	if e.Size > r.max-r.total {
		return Entry{}, rejectEntry(name, "members of more than %d bytes in all", r.max)
	}
	r.total += e.Size
	if err := r.names.add(e); err != nil {
		return Entry{}, &EntryError{Op: "read", Name: name, Err: err}
	}
	return e, nil
}

// Close implements [Source]. It does not close the stream given to [NewReader].
func (r *Reader) Close() error {
	if r.err == nil {
		r.err = errClosed
	}
	if r.unpack == nil {
		return nil
	}
	err := r.unpack.Close()
	r.unpack = nil
	return err
}

var errClosed = errors.New("already closed")

// tarBody gives a member's content with this package's errors.
type tarBody struct{ r io.Reader }

func (b *tarBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = asRejection(err)
	}
	return n, err
}
