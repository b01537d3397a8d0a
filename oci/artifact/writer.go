package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/ckarchive/ckarchive/archive"
)

// BlobWriter takes a blob whose digest is not known yet; nothing is seen of it before Commit.
type BlobWriter = interface {
	io.WriteCloser
	Commit(ctx context.Context, mediaType string) (ocispec.Descriptor, error)
}

// Ingester is where a [Writer] puts the image: a local store.
type Ingester interface {
	content.Pusher
	content.Tagger
	// Ingest begins a blob.
	Ingest(ctx context.Context) (BlobWriter, error)
}

// WriterOptions are the options of [NewWriter]. The zero value writes a zstd layer and no name.
type WriterOptions struct {
	// Compression of the layer; empty means zstd. Engines older than 2022 want gzip.
	Compression archive.Compression
	// Tag is the name that Commit gives the image; empty for none.
	Tag string
}

// Writer is a [archive.Sink] that makes the universal image in a store.
type Writer struct {
	store  Ingester
	opts   WriterOptions
	hold   io.Closer
	layer  *packedBlob
	tar    *archive.Writer
	diff   hash.Hash
	kept   map[string][]byte
	images bool // there was something in checkpoint/
	desc   ocispec.Descriptor
}

var _ archive.Sink = (*Writer)(nil)

// NewWriter begins an image in store. The caller closes the writer, also after Commit.
func NewWriter(ctx context.Context, store Ingester, opts WriterOptions) (*Writer, error) {
	if opts.Compression == "" {
		opts.Compression = archive.Zstd
	}
	w := &Writer{store: store, opts: opts, diff: sha256.New(), kept: map[string][]byte{}}
	var err error
	if w.hold, err = hold(ctx, store); err != nil {
		return nil, err
	}
	w.layer, err = newPackedBlob(ctx, store, func(to io.Writer) (io.WriteCloser, error) {
		return archive.Compress(to, opts.Compression)
	})
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.tar = archive.NewWriter(io.MultiWriter(w.layer, w.diff))
	return w, nil
}

// Put implements [archive.Sink]. The members that the manifest speaks of are kept in memory.
func (w *Writer) Put(ctx context.Context, e archive.Entry, r io.Reader) error {
	w.images = w.images || strings.HasPrefix(e.Name, archive.CheckpointDir+"/")
	switch e.Name {
	case archive.ConfigDump, archive.SpecDump, archive.MetadataFile:
		if e.Kind == archive.KindDir {
			break
		}
		raw, err := io.ReadAll(io.LimitReader(r, archive.MaxJSONBytes+1))
		if err != nil {
			return &archive.EntryError{Op: "write", Name: e.Name, Err: err}
		}
		w.kept[e.Name] = raw
		// Put reads to the end of a member too long for its kind; it is judged by Commit.
		r = io.MultiReader(bytes.NewReader(raw), r)
	}
	return w.tar.Put(ctx, e, r)
}

// Commit implements [archive.Sink]: layer, config, manifest and then the name.
func (w *Writer) Commit(ctx context.Context) error {
	if err := w.commit(ctx); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

func (w *Writer) commit(ctx context.Context) error {
	if w.layer == nil {
		return errors.New("write image: already closed")
	}
	if !w.images {
		return fmt.Errorf("%w: nothing in %s/", archive.ErrNotArchive, archive.CheckpointDir)
	}
	f, err := gather(w.kept)
	if err != nil {
		return err
	}
	if err := w.tar.Commit(ctx); err != nil {
		return err
	}
	layer, err := w.layer.Commit(ctx, layerType(w.opts.Compression))
	if err != nil {
		return err
	}
	w.layer = nil
	config, err := w.pushJSON(ctx, ocispec.MediaTypeImageConfig, "", imageConfig(f, digest.NewDigest(digest.SHA256, w.diff)))
	if err != nil {
		return err
	}
	w.desc, err = w.pushJSON(ctx, ocispec.MediaTypeImageManifest, Type, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: Type,
		Config:       config,
		Layers:       []ocispec.Descriptor{layer},
		Annotations:  annotate(f),
	})
	if err != nil || w.opts.Tag == "" {
		return err
	}
	return w.store.Tag(ctx, w.desc, w.opts.Tag)
}

// imageConfig is the config of the image. It differs between any two
// checkpoints, as it must: engines know images by the digest of their config.
func imageConfig(f *facts, diffID digest.Digest) ocispec.Image {
	created := f.meta.Created.UTC()
	arch := f.meta.Host.Architecture
	if arch == "" {
		arch = runtime.GOARCH
	}
	return ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: arch, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History:  []ocispec.History{{Created: &created, CreatedBy: "ckarchive", Comment: "checkpoint"}},
	}
}

func (w *Writer) pushJSON(ctx context.Context, mediaType, artifactType string, v any) (ocispec.Descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := pushBytes(ctx, w.store, mediaType, raw)
	desc.ArtifactType = artifactType
	return desc, err
}

// pushBytes writes a blob that may be there already.
func pushBytes(ctx context.Context, store content.Pusher, mediaType string, raw []byte) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, raw)
	if err := store.Push(ctx, desc, bytes.NewReader(raw)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

// Descriptor is the manifest of the image, after Commit.
func (w *Writer) Descriptor() ocispec.Descriptor { return w.desc }

// Close implements [archive.Sink].
func (w *Writer) Close() error {
	var err error
	if w.tar != nil {
		err = w.tar.Close()
	}
	err = errors.Join(err, w.layer.Close())
	w.layer = nil
	if w.hold != nil {
		err = errors.Join(err, w.hold.Close())
		w.hold = nil
	}
	return err
}

// layerType is the media type of a layer.
func layerType(c archive.Compression) string {
	switch c {
	case archive.Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case archive.Uncompressed:
		return ocispec.MediaTypeImageLayer
	default:
		return ocispec.MediaTypeImageLayerZstd
	}
}
