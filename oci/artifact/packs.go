package artifact

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

func packType(kind pages.Kind) string {
	if kind == pages.Delta {
		return nativeDelta
	}
	return nativePack
}

// packDescriptor is the descriptor of a pack.
func packDescriptor(p *pages.Pack) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: packType(p.Kind), Digest: digest.NewDigestFromBytes(digest.SHA256, p.Sum[:]), Size: p.Size()}
}

// packDescriptors are those of all packs of an index, each digest once.
func packDescriptors(ix *pages.Index) []ocispec.Descriptor {
	var list []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for i := range ix.Packs {
		d := packDescriptor(&ix.Packs[i])
		if !seen[d.Digest] {
			seen[d.Digest] = true
			list = append(list, d)
		}
	}
	return list
}

// packOpener gives the packs of a page index.
type packOpener struct{ from content.Fetcher }

var _ pages.Packs = packOpener{}

// OpenPack implements [pages.Packs].
func (o packOpener) OpenPack(ctx context.Context, p *pages.Pack) (archive.Blob, error) {
	desc := packDescriptor(p)
	if from, ok := o.from.(blobOpener); ok {
		return from.OpenBlob(ctx, desc)
	}
	rc, err := o.from.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close() //nolint:errcheck // read side
	return spool(ctx, io.LimitReader(rc, desc.Size))
}

// packWriter is a blob of a store as a pack.
type packWriter struct{ BlobWriter }

// Commit implements [pages.PackWriter].
func (p packWriter) Commit(ctx context.Context, kind pages.Kind) (sum pages.Sum, err error) {
	desc, err := p.BlobWriter.Commit(ctx, packType(kind))
	if err != nil {
		return sum, err
	}
	if n, err := hex.Decode(sum[:], []byte(desc.Digest.Encoded())); err != nil || n != len(sum) {
		return sum, fmt.Errorf("store gives pack %s a digest that is no SHA-256", desc.Digest)
	}
	return sum, nil
}

// adopt copies those packs of the parent that the store does not have.
func (w *NativeWriter) adopt(ctx context.Context, packs []ocispec.Descriptor) error {
	if w.reader == nil {
		return nil
	}
	for _, desc := range packs {
		if s, ok := w.store.(finder); ok {
			if there, err := s.Exists(ctx, desc); err != nil {
				return err
			} else if there {
				continue
			}
		}
		if _, ofParent := w.opts.Parent.layers.packs[desc.Digest]; !ofParent {
			continue
		}
		if err := w.copyPack(ctx, desc); err != nil {
			return fmt.Errorf("copy pack %s of parent: %w", desc.Digest, err)
		}
	}
	return nil
}

// finder is an [Ingester] that knows what it has without being given it.
type finder interface {
	Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error)
}

func (w *NativeWriter) copyPack(ctx context.Context, desc ocispec.Descriptor) error {
	rc, err := w.opts.Parent.fetcher.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer rc.Close() //nolint:errcheck // read side
	err = w.store.Push(ctx, desc, rc)
	if errors.Is(err, errdef.ErrAlreadyExists) {
		err = nil
	}
	return err
}
