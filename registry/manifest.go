package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// The Docker forms of manifest and index, which registries still give.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// manifestTypes are what a registry is asked for.
func manifestTypes() []string {
	return []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerManifestList}
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest || isIndex(mediaType)
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

// checkDigest takes the digests that may become the name of a file or a part of a URL.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return contentf("digest %s: %w", quoteName(string(d)), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return contentf("digest %s: algorithm is neither sha256 nor sha512", quoteName(string(d)))
	}
	return nil
}

// checkDescriptor rejects what no content can have.
func checkDescriptor(desc ocispec.Descriptor) error {
	if err := checkDigest(desc.Digest); err != nil {
		return err
	}
	switch {
	case desc.Size <= 0 || desc.Size > MaxBlobBytes:
		return contentf("%s: size of %d bytes", desc.Digest, desc.Size)
	case isManifest(desc.MediaType) && desc.Size > MaxManifestBytes:
		return contentf("%s: manifest of %d bytes, the limit is %d", desc.Digest, desc.Size, MaxManifestBytes)
	}
	return nil
}

// plain is desc without what is only said about it.
func plain(desc ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}

// manifest is what this package wants to know of any manifest or index.
type manifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Subject       *ocispec.Descriptor  `json:"subject"`
	Annotations   map[string]string    `json:"annotations"`
}

// parseManifest reads a manifest or index. Content that could be taken for both
// is rejected, whatever its media type says.
func parseManifest(desc ocispec.Descriptor, raw []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, contentf("manifest %s: %w", desc.Digest, err)
	}
	switch {
	case m.SchemaVersion != 2:
		return nil, contentf("manifest %s: schema version %d", desc.Digest, m.SchemaVersion)
	case m.MediaType != "" && m.MediaType != desc.MediaType:
		return nil, contentf("manifest %s: is called %s and calls itself %s", desc.Digest, quoteName(desc.MediaType), quoteName(m.MediaType))
	case m.Manifests != nil && (m.Layers != nil || m.Config != nil):
		return nil, contentf("manifest %s: has both layers and manifests", desc.Digest)
	case isIndex(desc.MediaType) && (m.Layers != nil || m.Config != nil):
		return nil, contentf("manifest %s: an index with layers", desc.Digest)
	case !isIndex(desc.MediaType) && (m.Manifests != nil || m.Config == nil):
		return nil, contentf("manifest %s: an image manifest without config", desc.Digest)
	case len(m.Layers) > MaxLayers || len(m.Manifests) > MaxLayers:
		return nil, contentf("manifest %s: more than %d parts", desc.Digest, MaxLayers)
	}
	for _, d := range m.parts() {
		if err := checkDescriptor(d); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
	}
	return &m, nil
}

// parts are the descriptors of everything that belongs to the manifest.
func (m *manifest) parts() []ocispec.Descriptor {
	var parts []ocispec.Descriptor
	if m.Config != nil {
		parts = append(parts, *m.Config)
	}
	parts = append(parts, m.Layers...)
	return append(parts, m.Manifests...)
}

// fetchManifest reads a manifest whole and checks it against its digest.
func fetchManifest(ctx context.Context, src content.Fetcher, desc ocispec.Descriptor) ([]byte, *manifest, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, nil, err
	}
	if desc.Size > MaxManifestBytes {
		return nil, nil, contentf("manifest %s: %d bytes, the limit is %d", desc.Digest, desc.Size, MaxManifestBytes)
	}
	raw, err := content.FetchAll(ctx, src, desc)
	if err != nil {
		return nil, nil, verifyError(desc, err)
	}
	m, err := parseManifest(desc, raw)
	return raw, m, err
}

// verifyError gives the errors of oras' checks the class of content.
func verifyError(desc ocispec.Descriptor, err error) error {
	switch {
	case errors.Is(err, content.ErrMismatchedDigest):
		return contentf("blob %s does not match its digest", desc.Digest)
	case errors.Is(err, content.ErrTrailingData):
		return contentf("blob %s is longer than its %d bytes", desc.Digest, desc.Size)
	case errors.Is(err, io.ErrUnexpectedEOF) && !hasClass(err):
		return contentf("blob %s is shorter than its %d bytes", desc.Digest, desc.Size)
	}
	return err
}

// verifiedReader gives io.EOF only if the content was what its descriptor says.
type verifiedReader struct {
	vr   *content.VerifyReader
	desc ocispec.Descriptor
	io.Closer
}

func newVerifiedReader(rc io.ReadCloser, desc ocispec.Descriptor) io.ReadCloser {
	return &verifiedReader{vr: content.NewVerifyReader(rc, desc), desc: desc, Closer: rc}
}

// Read reads content and checks all of it before it says io.EOF.
func (r *verifiedReader) Read(p []byte) (int, error) {
	n, err := r.vr.Read(p)
	if errors.Is(err, io.EOF) {
		if verr := r.vr.Verify(); verr != nil {
			return n, verifyError(r.desc, verr)
		}
		return n, io.EOF
	}
	if err != nil {
		return n, verifyError(r.desc, err)
	}
	return n, nil
}
