package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
)

// layerStream is a compressed layer, unpacked in one pass. What it gives is proven by verify.
type layerStream struct {
	desc        ocispec.Descriptor
	rc          io.Closer
	packed      *content.VerifyReader
	plain       io.ReadCloser
	compression archive.Compression
	diff        hash.Hash
}

// openLayer begins to read a layer, which the caller closes. open is for an encrypted one, and else nil.
func openLayer(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, open archive.Decrypter) (*layerStream, error) {
	rc, err := fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	l := &layerStream{desc: desc, rc: rc, packed: content.NewVerifyReader(rc, desc), diff: sha256.New()}
	clear := io.Reader(layerReader{l.packed})
	if open != nil {
		clear, err = open(clear)
	}
	if err == nil {
		l.plain, l.compression, err = archive.Decompress(clear)
	}
	if err != nil {
		return nil, errors.Join(err, rc.Close())
	}
	return l, nil
}

// Read implements [io.Reader].
func (l *layerStream) Read(p []byte) (int, error) {
	n, err := l.plain.Read(p)
	_, _ = l.diff.Write(p[:n])
	return n, err
}

// verify reads what is left and compares all with the digests that promised it; an empty
// diffID promises nothing.
func (l *layerStream) verify(diffID digest.Digest) error {
	if _, err := io.Copy(io.Discard, l); err != nil {
		return err
	}
	if err := l.packed.Verify(); err != nil {
		return rejectf("layer %s: %w", l.desc.Digest, err)
	}
	if got := digest.NewDigest(digest.SHA256, l.diff); diffID != "" && diffID != got {
		return rejectf("uncompressed layer is %s, the config says %s", got, archive.QuoteName(diffID.String()))
	}
	return nil
}

func (l *layerStream) close() {
	_ = l.plain.Close() // nothing was written, and what failed to be read was told by Read
	_ = l.rc.Close()
}

// layerReader tells a layer that is shorter than promised from a connection that broke.
type layerReader struct{ r io.Reader }

// Read reads. The verifying reader says a bare io.ErrUnexpectedEOF for a clean early end.
func (l layerReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err == io.ErrUnexpectedEOF { //nolint:errorlint // a wrapped one comes from below
		err = rejectf("layer is cut off")
	}
	return n, err
}
