package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
)

// maxManifestBytes is the length of a manifest or config, the limit of registries.
const maxManifestBytes = 4 << 20

// maxIndexDepth is how many indexes may lie between a name and its manifest.
const maxIndexDepth = 2

// Image is a checkpoint image as a [archive.Source]. Its layer is opened by the
// first call of Next, is read in one pass, and its digest and that of its
// uncompressed bytes are checked before Next says io.EOF.
type Image struct {
	fetcher  content.Fetcher
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	config   ocispec.Image

	layer  *layerStream
	source *archive.Reader
	err    error
}

var _ archive.Source = (*Image)(nil)

// Open reads the manifest and config that desc leads to. An index leads to its
// manifest for this machine. What is no checkpoint is an archive.ErrNotArchive.
// The caller closes the image; fetcher must outlive it.
func Open(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) (*Image, error) {
	desc, m, err := resolve(ctx, fetcher, desc, 0)
	if err != nil {
		return nil, err
	}
	return newImage(ctx, fetcher, desc, m)
}

func newImage(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, m *ocispec.Manifest) (*Image, error) {
	i := &Image{fetcher: fetcher, desc: desc, manifest: *m}
	if err := i.check(ctx); err != nil {
		return nil, fmt.Errorf("image %s: %w", i.desc.Digest, err)
	}
	return i, nil
}

// resolve finds the manifest.
func resolve(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, *ocispec.Manifest, error) {
	raw, err := fetchJSON(ctx, fetcher, desc, "manifest")
	if err != nil {
		return desc, nil, err
	}
	switch desc.MediaType {
	case ocispec.MediaTypeImageIndex, dockerManifestList:
	case ocispec.MediaTypeImageManifest, dockerManifest:
		var m ocispec.Manifest
		return desc, &m, decode("manifest", raw, &m)
	default:
		return desc, nil, notCheckpoint(desc.MediaType)
	}
	var index ocispec.Index
	if err := decode("index", raw, &index); err != nil {
		return desc, nil, err
	}
	if depth == maxIndexDepth {
		return desc, nil, rejectf("indexes nest deeper than %d", maxIndexDepth)
	}
	if isContainerd(&index) {
		return desc, nil, fmt.Errorf("index %s: %w", desc.Digest, ErrContainerd)
	}
	next, err := fitting(&index)
	if err != nil {
		return desc, nil, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	return resolve(ctx, fetcher, next, depth+1)
}

// fitting is the one manifest of an index that is for this machine.
func fitting(index *ocispec.Index) (ocispec.Descriptor, error) {
	manifests := []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerManifestList}
	var fitting []ocispec.Descriptor
	for _, d := range index.Manifests {
		if slices.Contains(manifests, d.MediaType) && (d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH) {
			fitting = append(fitting, d)
		}
	}
	if len(fitting) != 1 {
		return ocispec.Descriptor{}, rejectf("it lists %d manifests for linux/%s: name one by its digest", len(fitting), runtime.GOARCH)
	}
	return fitting[0], nil
}

// check looks whether the manifest is a checkpoint of the one shape, and reads its config.
func (i *Image) check(ctx context.Context) error {
	m := &i.manifest
	known := m.ArtifactType == Type
	for _, key := range recognise() {
		if _, ok := m.Annotations[key]; ok && m.ArtifactType == "" {
			known = true
		}
	}
	switch {
	case m.ArtifactType != "" && m.ArtifactType != Type:
		return notCheckpoint(m.ArtifactType)
	case !known && m.Config.MediaType != ocispec.MediaTypeImageConfig:
		return notCheckpoint(m.Config.MediaType)
	case !known:
		return notCheckpoint("ordinary image")
	case len(m.Layers) != 1:
		return rejectf("a checkpoint image has one layer, this has %d", len(m.Layers))
	}
	switch t := m.Layers[0].MediaType; t {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd:
	default:
		return rejectf("layer of type %s, which is no tar", archive.QuoteName(t))
	}
	switch t := m.Config.MediaType; t {
	case ocispec.MediaTypeImageConfig:
		raw, err := fetchJSON(ctx, i.fetcher, m.Config, "config")
		if err != nil {
			return err
		}
		if err := decode("config", raw, &i.config); err != nil {
			return err
		}
		if len(i.config.RootFS.DiffIDs) != 1 {
			return rejectf("config lists %d layers, the manifest one", len(i.config.RootFS.DiffIDs))
		}
		return nil
	case ocispec.MediaTypeEmptyJSON:
		return nil // says nothing, promises nothing
	default:
		return notCheckpoint(t)
	}
}

// Descriptor is the manifest of the image.
func (i *Image) Descriptor() ocispec.Descriptor { return i.desc }

// Annotations are those of the manifest. They were written by whoever made the image.
func (i *Image) Annotations() map[string]string { return i.manifest.Annotations }

// Config is the image's config.
func (i *Image) Config() ocispec.Image { return i.config }

// Layer is the one layer.
func (i *Image) Layer() ocispec.Descriptor { return i.manifest.Layers[0] }

// Next implements [archive.Source].
func (i *Image) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	if i.err == nil && i.source == nil {
		i.err = i.begin(ctx)
	}
	if i.err != nil {
		return archive.Entry{}, nil, i.err
	}
	e, r, err := i.source.Next(ctx)
	if errors.Is(err, io.EOF) {
		if verr := i.verify(); verr != nil {
			err = verr
		}
	}
	i.err = err
	return e, r, err
}

// begin opens the layer.
func (i *Image) begin(ctx context.Context) error {
	layer := i.Layer()
	var err error
	if i.layer, err = openLayer(ctx, i.fetcher, layer, nil); err != nil {
		return err
	}
	if want := layer.MediaType; layerType(i.layer.compression) != want {
		return rejectf("layer of type %s holds %s data", archive.QuoteName(want), i.layer.compression)
	}
	source, err := archive.NewReader(i.layer, archive.ReaderOptions{})
	if err != nil {
		return err
	}
	i.source = source
	if c := source.Compression(); c != archive.Uncompressed {
		return rejectf("layer is compressed twice (%s)", c)
	}
	return nil
}

// verify compares what was read with the digests that promised it.
func (i *Image) verify() error {
	var diffID digest.Digest
	if ids := i.config.RootFS.DiffIDs; len(ids) == 1 {
		diffID = ids[0]
	}
	return i.layer.verify(diffID)
}

// Close implements [archive.Source].
func (i *Image) Close() error {
	if i.source != nil {
		_ = i.source.Close() // nothing was written, and what failed to be read was told by Next
		i.source = nil
	}
	if i.layer != nil {
		i.layer.close()
	}
	if i.err == nil {
		i.err = errors.New("read image: already closed")
	}
	return nil
}

// fetchJSON reads a manifest or config whole and checks it against its digest.
func fetchJSON(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, what string) ([]byte, error) {
	return fetchSmall(ctx, fetcher, desc, what, maxManifestBytes)
}

// fetchSmall reads a blob of at most limit bytes whole and checks it against its digest.
func fetchSmall(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, what string, limit int64) ([]byte, error) {
	if desc.Size <= 0 || desc.Size > limit {
		return nil, rejectf("%s of %d bytes, the limit is %d", what, desc.Size, limit)
	}
	raw, err := content.FetchAll(ctx, fetcher, desc)
	switch {
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData), errors.Is(err, content.ErrInvalidDescriptorSize):
		return nil, rejectf("%s %s: %w", what, desc.Digest, err)
	case err != nil:
		return nil, fmt.Errorf("read %s %s: %w", what, desc.Digest, err)
	}
	return raw, nil
}

// decode reads JSON that no two readers can read differently, and that names itself as it should.
func decode(what string, raw []byte, v any) error {
	var both struct {
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := archive.DecodeJSON(what, raw, &both); err != nil {
		return err
	}
	if both.Layers != nil && both.Manifests != nil {
		return rejectf("%s has both layers and manifests", what)
	}
	return archive.DecodeJSON(what, raw, v)
}

// notCheckpoint says what an image is instead.
func notCheckpoint(kind string) error {
	return fmt.Errorf("%w: not a checkpoint image (type %s)", archive.ErrNotArchive, archive.QuoteName(kind))
}

func rejectf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", archive.ErrRejected, fmt.Errorf(format, args...))
}
