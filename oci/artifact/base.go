package artifact

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
)

// Docker's names for what OCI has names of its own for. Registries still give them for old images.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// BaseImage is an ordinary container image: what the root file system of a container began as.
type BaseImage struct {
	fetcher  content.Fetcher
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	diffIDs  []string
}

// OpenBase reads the manifest and config that desc leads to. An index leads to its manifest for
// this machine. A checkpoint is no base image and an archive.ErrRejected. fetcher must outlive
// the image.
func OpenBase(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) (*BaseImage, error) {
	b := &BaseImage{fetcher: fetcher}
	if err := b.resolve(ctx, desc, 0); err != nil {
		return nil, err
	}
	if err := b.readConfig(ctx); err != nil {
		return nil, fmt.Errorf("image %s: %w", b.desc.Digest, err)
	}
	return b, nil
}

func (b *BaseImage) resolve(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	raw, err := fetchJSON(ctx, b.fetcher, desc, "manifest")
	if err != nil {
		return err
	}
	switch desc.MediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest:
		b.desc = desc
		return decode("manifest", raw, &b.manifest)
	case ocispec.MediaTypeImageIndex, dockerList:
	default:
		return rejectf("type %s, which is no image", archive.QuoteName(desc.MediaType))
	}
	var index ocispec.Index
	if err := decode("index", raw, &index); err != nil {
		return err
	}
	if depth == maxIndexDepth {
		return rejectf("indexes nest deeper than %d", maxIndexDepth)
	}
	next, err := fitting(&index)
	if err != nil {
		return fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	return b.resolve(ctx, next, depth+1)
}

// readConfig reads the digests of the layers' content, which every image has to promise.
func (b *BaseImage) readConfig(ctx context.Context) error {
	c := b.manifest.Config
	if b.manifest.ArtifactType != "" || c.MediaType != ocispec.MediaTypeImageConfig && c.MediaType != dockerConfig {
		return rejectf("it is no image with a root file system, but of type %s", archive.QuoteName(b.manifest.ArtifactType+" "+c.MediaType))
	}
	for _, key := range recognise() {
		if _, ok := b.manifest.Annotations[key]; ok {
			return rejectf("it is a checkpoint, and no base image of one")
		}
	}
	raw, err := fetchJSON(ctx, b.fetcher, c, "config")
	if err != nil {
		return err
	}
	var config ocispec.Image
	if err := decode("config", raw, &config); err != nil {
		return err
	}
	if len(config.RootFS.DiffIDs) != len(b.manifest.Layers) || len(b.manifest.Layers) == 0 {
		return rejectf("config lists %d layers, the manifest %d", len(config.RootFS.DiffIDs), len(b.manifest.Layers))
	}
	for _, id := range config.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return rejectf("layer %s of the config: %w", archive.QuoteName(id.String()), err)
		}
		b.diffIDs = append(b.diffIDs, id.String())
	}
	return nil
}

// Base names the image by its digests, as an archive does.
func (b *BaseImage) Base() archive.Base {
	return archive.Base{
		ImageID: b.manifest.Config.Digest.String(), Manifest: b.desc.Digest.String(), DiffIDs: b.diffIDs,
	}
}

// Layers gives the tar of every layer to apply, the lowest first. The reader is valid until apply
// returns, which need not read all of it. A layer is proven after apply has seen it: what was made
// of it is to be thrown away on an error.
func (b *BaseImage) Layers(ctx context.Context, apply func(ctx context.Context, layer io.Reader) error) error {
	for i, desc := range b.manifest.Layers {
		if err := b.layer(ctx, i, apply); err != nil {
			return fmt.Errorf("layer %s of image %s: %w", desc.Digest, b.desc.Digest, err)
		}
	}
	return nil
}

func (b *BaseImage) layer(ctx context.Context, i int, apply func(context.Context, io.Reader) error) error {
	l, err := openLayer(ctx, b.fetcher, b.manifest.Layers[i], nil)
	if err != nil {
		return err
	}
	defer l.close()
	if err := apply(ctx, l); err != nil {
		return err
	}
	return l.verify(digest.Digest(b.diffIDs[i]))
}
