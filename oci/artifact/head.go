package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

// How much is fetched at a time. Whoever reads on gets more at once, whoever jumps gets little.
const (
	firstPieceBytes = 16 << 10
	maxPieceBytes   = 128 << 10
)

// Head gives the image as a [archive.Source] for who reads only its beginning: from a registry it
// fetches little more than what is read, and of an uncompressed layer not what is passed over. What it
// gives cannot be checked against the digest of the layer. Where the fetcher gives no random
// access it is the image itself. ctx is for all reads. Close of the source closes the image.
func (i *Image) Head(ctx context.Context) (archive.Source, error) {
	from, ok := i.fetcher.(blobOpener)
	if !ok {
		return i, nil
	}
	layer, err := from.OpenBlob(ctx, i.Layer())
	if err != nil {
		return nil, err
	}
	h := &head{image: i, layer: layer}
	if h.source, err = i.beginHead(layer); err != nil {
		return nil, errors.Join(fmt.Errorf("image %s: %w", i.desc.Digest, err), h.Close())
	}
	return h, nil
}

func (i *Image) beginHead(layer blob) (archive.Source, error) {
	ahead := &readAhead{blob: layer}
	if layerType(archive.Uncompressed) == i.Layer().MediaType {
		return &walked{newWalker(ahead)}, nil
	}
	r, err := archive.NewReader(ahead, archive.ReaderOptions{Sequential: true})
	if err != nil {
		return nil, err
	}
	if c := r.Compression(); layerType(c) != i.Layer().MediaType {
		return nil, errors.Join(rejectf("layer of type %s holds %s data", archive.QuoteName(i.Layer().MediaType), c), r.Close())
	}
	return r, nil
}

// head is the beginning of an image.
type head struct {
	image  *Image
	layer  blob
	source archive.Source // nil if it could not be begun
}

var (
	_ archive.Source = (*head)(nil)
	_ foreign.Told   = (*head)(nil)
)

// Known implements [foreign.Told].
func (h *head) Known() foreign.Known { return h.image.Known() }

// Next implements [archive.Source].
func (h *head) Next(ctx context.Context) (archive.Entry, io.Reader, error) { return h.source.Next(ctx) }

// Close implements [archive.Source].
func (h *head) Close() error {
	var err error
	if h.source != nil {
		err = h.source.Close()
	}
	return errors.Join(err, h.layer.Close(), h.image.Close())
}

// walked is an uncompressed layer, of which nothing is read that is passed over.
type walked struct{ *walker }

// Next implements [archive.Source].
func (w *walked) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	if w.tar == nil {
		return archive.Entry{}, nil, errors.New("read image: already closed")
	}
	e, err := w.next(ctx)
	if err != nil || e.Kind == archive.KindDir {
		return e, nil, err
	}
	return e, bodyReader{w.tar}, nil
}

// Close implements [archive.Source].
func (w *walked) Close() error {
	w.tar = nil
	return nil
}

// bodyReader gives the content of a member with this package's errors.
type bodyReader struct{ r io.Reader }

func (b bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = headerError(err)
	}
	return n, err
}

// readAhead reads a blob in pieces that grow while it is read in order.
type readAhead struct {
	blob  blob
	pos   int64
	piece []byte
	at    int64 // where piece is in the blob
}

var _ io.ReadSeeker = (*readAhead)(nil)

// Read implements [io.Reader].
func (r *readAhead) Read(p []byte) (int, error) {
	if r.pos >= r.blob.Size() {
		return 0, io.EOF
	}
	end := r.at + int64(len(r.piece))
	if r.pos < r.at || r.pos >= end {
		size := firstPieceBytes
		if r.pos == end {
			size = min(max(2*len(r.piece), firstPieceBytes), maxPieceBytes)
		}
		piece := make([]byte, min(int64(size), r.blob.Size()-r.pos))
		if n, err := r.blob.ReadAt(piece, r.pos); n < len(piece) {
			return 0, err
		}
		r.piece, r.at = piece, r.pos
	}
	n := copy(p, r.piece[r.pos-r.at:])
	r.pos += int64(n)
	return n, nil
}

// Seek implements [io.Seeker].
func (r *readAhead) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.blob.Size()
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d in a blob", offset)
	}
	r.pos = offset
	return offset, nil
}
