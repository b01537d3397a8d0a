package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// packedBlob is a blob of a store that is compressed, and perhaps encrypted, on its way there.
type packedBlob struct {
	blob   BlobWriter
	packer io.WriteCloser
}

func newPackedBlob(ctx context.Context, store Ingester, pack func(io.Writer) (io.WriteCloser, error)) (*packedBlob, error) {
	blob, err := store.Ingest(ctx)
	if err != nil {
		return nil, err
	}
	packer, err := pack(blob)
	if err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	return &packedBlob{blob: blob, packer: packer}, nil
}

// Write implements [io.Writer].
func (b *packedBlob) Write(p []byte) (int, error) { return b.packer.Write(p) }

// Commit ends the blob and gives what it became.
func (b *packedBlob) Commit(ctx context.Context, mediaType string) (ocispec.Descriptor, error) {
	packer := b.packer
	b.packer = nil
	if err := packer.Close(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("compress layer: %w", err)
	}
	return b.blob.Commit(ctx, mediaType)
}

// Close discards what was not committed. A nil blob has nothing to discard.
func (b *packedBlob) Close() error {
	if b == nil || b.blob == nil {
		return nil
	}
	if b.packer != nil {
		// Ends the compressor's goroutines; what it writes is discarded with the blob.
		_ = b.packer.Close()
		b.packer = nil
	}
	blob := b.blob
	b.blob = nil
	return blob.Close()
}

// holder is an [Ingester] that must not be cleaned up while an image is incomplete.
type holder interface {
	Hold(ctx context.Context) (io.Closer, error)
}

// hold keeps a store from being cleaned up until the result is closed.
func hold(ctx context.Context, store Ingester) (io.Closer, error) {
	if h, ok := store.(holder); ok {
		return h.Hold(ctx)
	}
	return io.NopCloser(nil), nil
}
