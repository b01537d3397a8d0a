package artifact

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
)

// The Docker forms of what a base image consists of, which registries still give.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Base is an ordinary image, OCI's or Docker's: the root file system that a container was started from, layer by layer.
type Base struct {
	fetcher  content.Fetcher
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	config   ocispec.Image
}

// OpenBase reads the manifest and config that desc leads to. An index leads to its manifest for this machine. There is
// nothing to close; fetcher must outlive it.
func OpenBase(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) (*Base, error) {
	desc, m, err := resolve(ctx, fetcher, desc, 0)
	if err != nil {
		return nil, err
	}
	b := &Base{fetcher: fetcher, desc: desc, manifest: *m}
	if err := b.check(ctx); err != nil {
		return nil, fmt.Errorf("image %s: %w", desc.Digest, err)
	}
	return b, nil
}

func (b *Base) check(ctx context.Context) error {
	if t := b.manifest.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		return rejectf("config of type %s: it is no image of a root file system", archive.QuoteName(t))
	}
	for _, l := range b.manifest.Layers {
		switch l.MediaType {
		case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd, dockerLayer:
		default:
			return rejectf("layer of type %s, which is no tar", archive.QuoteName(l.MediaType))
		}
	}
	raw, err := fetchJSON(ctx, b.fetcher, b.manifest.Config, "config")
	if err != nil {
		return err
	}
	if err := decode("config", raw, &b.config); err != nil {
		return err
	}
	if got, want := len(b.config.RootFS.DiffIDs), len(b.manifest.Layers); got != want {
		return rejectf("config lists %d layers, the manifest %d", got, want)
	}
	return nil
}

// ID is the digest of the config, by which engines know an image.
func (b *Base) ID() digest.Digest { return b.manifest.Config.Digest }

// Differs tells in which regard it is not the image that a checkpoint names, or gives "". Layers decide where the
// checkpoint knows them, since the same layers may have several IDs; else the ID or the manifest's digest.
func (b *Base) Differs(from archive.Base) string {
	var layers []string
	for _, id := range b.config.RootFS.DiffIDs {
		layers = append(layers, id.String())
	}
	id := "sha256:" + strings.TrimPrefix(from.ImageID, "sha256:")
	switch {
	case len(from.DiffIDs) > 0:
		if !slices.Equal(layers, from.DiffIDs) {
			return "it has other layers"
		}
	case from.ImageID != "" && id != b.ID().String():
		return fmt.Sprintf("its ID is %s, and not %s", b.ID(), id)
	case from.ImageID == "" && from.Manifest != "" && from.Manifest != b.desc.Digest.String():
		return fmt.Sprintf("its manifest is %s, and not %s", b.desc.Digest, from.Manifest)
	}
	return ""
}

// Bytes is the length of the layers together, as they are stored.
func (b *Base) Bytes() int64 {
	n := int64(0)
	for _, l := range b.manifest.Layers {
		n += l.Size
	}
	return n
}

// Layers gives the layers to apply, from the lowest on, each as a tar, and checks each against the manifest and the
// config before the next. apply does not keep its reader.
func (b *Base) Layers(ctx context.Context, apply func(layer io.Reader) error) error {
	for n, desc := range b.manifest.Layers {
		if err := b.layer(ctx, desc, b.config.RootFS.DiffIDs[n], apply); err != nil {
			return fmt.Errorf("image %s, layer %d: %w", b.desc.Digest, n+1, err)
		}
	}
	return nil
}

func (b *Base) layer(ctx context.Context, desc ocispec.Descriptor, diffID digest.Digest, apply func(io.Reader) error) error {
	l, err := openLayer(ctx, b.fetcher, desc, nil)
	if err != nil {
		return err
	}
	defer l.close()
	if err := apply(l); err != nil {
		return err
	}
	return l.verify(diffID)
}
