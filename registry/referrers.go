package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Referrers lists the manifests that name desc as their subject and have the artifact type. Of long lists it is the
// beginning. A registry without such lists has none.
func (r *Repository) Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	list, err := r.referrers(ctx, desc, artifactType)
	return list, opError("list referrers", r.named(desc.Digest.String()), err)
}

func (r *Repository) referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	resp, err := r.send(ctx, http.MethodGet, "/referrers/"+desc.Digest.String(), url.Values{"artifactType": {artifactType}},
		exchange{header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}}, "pull")
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	if contentType(resp) != ocispec.MediaTypeImageIndex {
		return nil, nil // not what the distribution specification calls such a list
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifestBytes+1))
	if err != nil {
		return nil, classify(err)
	}
	if len(raw) > MaxManifestBytes {
		return nil, contentf("list of referrers is longer than %d bytes", MaxManifestBytes)
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, contentf("list of referrers: %w", err)
	}
	var list []ocispec.Descriptor
	for _, d := range index.Manifests {
		// Registries need not heed the artifact type that was asked for.
		if d.ArtifactType == artifactType && checkDescriptor(d) == nil {
			list = append(list, plain(d))
		}
	}
	return list, nil
}
