package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// nodes is everything below one descriptor, each digest once.
type nodes struct {
	manifests []manifestNode       // children before their parents
	blobs     []ocispec.Descriptor // in the order of the manifests
}

// manifestNode is a manifest with its verified bytes.
type manifestNode struct {
	desc ocispec.Descriptor
	raw  []byte
}

// size is the sum of all blobs and manifests in bytes.
func (n *nodes) size() int64 {
	var total int64
	for _, m := range n.manifests {
		total += m.desc.Size
	}
	for _, b := range n.blobs {
		total += b.Size
	}
	return total
}

// graph reads the manifests below root, which must be one itself.
func graph(ctx context.Context, src content.Fetcher, root ocispec.Descriptor) (*nodes, error) {
	if !isManifest(root.MediaType) {
		return nil, contentf("%s is no manifest (type %s)", root.Digest, quoteName(root.MediaType))
	}
	w := walker{src: src, seen: map[digest.Digest]int64{}}
	if err := w.visit(ctx, root, 1); err != nil {
		return nil, err
	}
	return &w.nodes, nil
}

// walker collects nodes.
type walker struct {
	src  content.Fetcher
	seen map[digest.Digest]int64 // sizes
	nodes
}

func (w *walker) visit(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if size, ok := w.seen[desc.Digest]; ok {
		if size != desc.Size {
			return contentf("%s is said to have %d and %d bytes", desc.Digest, size, desc.Size)
		}
		return nil
	}
	w.seen[desc.Digest] = desc.Size
	if !isManifest(desc.MediaType) {
		w.blobs = append(w.blobs, plain(desc))
		return nil
	}
	switch {
	case depth > MaxIndexDepth:
		return contentf("manifest %s: indexes nest deeper than %d", desc.Digest, MaxIndexDepth)
	case len(w.manifests) >= MaxManifests:
		return contentf("more than %d manifests", MaxManifests)
	}
	raw, m, err := fetchManifest(ctx, w.src, desc)
	if errors.Is(err, ErrNotFound) && depth > 1 {
		return missing(desc, err)
	}
	if err != nil {
		return err
	}
	for _, part := range m.parts() {
		if err := w.visit(ctx, part, depth+1); err != nil {
			return err
		}
	}
	w.manifests = append(w.manifests, manifestNode{plain(desc), raw})
	return nil
}

// missing is the error for a part that a manifest names and nobody has. It is
// no ErrNotFound: what the user named is there, but broken.
func missing(desc ocispec.Descriptor, err error) error {
	return fmt.Errorf("%w: %s is named by the manifest and missing: %v", ErrRegistry, desc.Digest, err) //nolint:errorlint // must not be an ErrNotFound
}
