package signature

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/ckarchive/ckarchive/archive"
)

// The names that cosign gives its parts.
const (
	// ArtifactType is that of the manifest of signatures.
	ArtifactType = "application/vnd.dev.cosign.artifact.sig.v1+json"

	payloadType         = "application/vnd.dev.cosign.simplesigning.v1+json"
	annotationSignature = "dev.cosignproject.cosign/signature"
	claimType           = "cosign container image signature"
)

// What is read of signatures before they are refused.
const (
	maxManifestBytes = 1 << 20
	maxPayloadBytes  = 64 << 10
	// MaxSignatures is how many signatures of one checkpoint are looked at.
	MaxSignatures = 100
	maxReferrers  = 20
)

// ErrUnsigned marks what none of the keys vouches for.
var ErrUnsigned = errors.New("not signed by a key that is trusted")

// claim is what is signed.
type claim struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// Tag is the tag of the signatures of what has a digest: sha256-HEX.sig.
func Tag(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() + ".sig" }

// Source is where signatures are: a repository, a store or a layout.
type Source interface {
	content.Fetcher
	content.Resolver
}

// Target is where signatures are put.
type Target interface {
	Source
	content.Pusher
	content.Tagger
}

// referrers is a [Source] that lists what refers to a manifest. One that cannot gives none.
type referrers interface {
	Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error)
}

// Sign adds a signature for desc to those that name leads to in target. reference is the repository, without tag, that the
// signature is to speak of. It gives the manifest of all signatures. Signing again with the same key changes nothing.
func Sign(ctx context.Context, target Target, name, reference string, desc ocispec.Descriptor, key *PrivateKey) (ocispec.Descriptor, error) {
	var c claim
	c.Critical.Identity.Reference, c.Critical.Image.Digest, c.Critical.Type = reference, desc.Digest, claimType
	payload, err := json.Marshal(c)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layers, at, err := existing(ctx, target, name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, l := range layers {
		if l.Digest == digest.FromBytes(payload) && key.Public().verify(sha256.Sum256(payload), l.Annotations[annotationSignature]) {
			return at, nil
		}
	}
	text, err := key.sign(sha256.Sum256(payload))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := push(ctx, target, payloadType, payload)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer.Annotations = map[string]string{annotationSignature: text}
	at, err = pushManifest(ctx, target, desc, append(layers, layer))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return at, target.Tag(ctx, at, name)
}

// existing are the signatures that are there already.
func existing(ctx context.Context, from Source, name string) ([]ocispec.Descriptor, ocispec.Descriptor, error) {
	at, err := from.Resolve(ctx, name)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, err
	}
	layers, err := signatures(ctx, from, at)
	return layers, at, err
}

func pushManifest(ctx context.Context, target Target, subject ocispec.Descriptor, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	image := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.Digest)
	}
	raw, err := json.Marshal(image)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := push(ctx, target, ocispec.MediaTypeImageConfig, raw)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	raw, err = json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
		Config:       config,
		Layers:       layers,
		Subject:      &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := push(ctx, target, ocispec.MediaTypeImageManifest, raw)
	desc.ArtifactType = ArtifactType
	return desc, err
}

// push writes a blob that may be there already.
func push(ctx context.Context, target Target, mediaType string, raw []byte) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, raw)
	if err := target.Push(ctx, desc, bytes.NewReader(raw)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return desc, err
	}
	return desc, nil
}

// Verify looks for a signature of desc by one of keys, at name and among the referrers of desc. Without one it is an
// [ErrUnsigned]. Nothing of desc itself is read. It gives the key.
func Verify(ctx context.Context, from Source, name string, desc ocispec.Descriptor, keys []*PublicKey) (*PublicKey, error) {
	var found []ocispec.Descriptor
	var problems []error
	at, err := from.Resolve(ctx, name)
	switch {
	case err == nil:
		found = append(found, at)
	case !errors.Is(err, errdef.ErrNotFound):
		return nil, err
	}
	if r, ok := from.(referrers); ok {
		more, err := r.Referrers(ctx, desc, ArtifactType)
		if err != nil && len(found) == 0 {
			return nil, err
		}
		found = append(found, more[:min(len(more), maxReferrers)]...)
	}
	seen := map[digest.Digest]bool{}
	for _, m := range found {
		if seen[m.Digest] {
			continue
		}
		seen[m.Digest] = true
		key, err := verifyManifest(ctx, from, m, desc, keys)
		if key != nil {
			return key, nil
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		return nil, fmt.Errorf("%s: %w: there is no signature of it", desc.Digest, ErrUnsigned)
	}
	return nil, fmt.Errorf("%s: %w", desc.Digest, errors.Join(problems...))
}

// verifyManifest looks through one manifest of signatures.
func verifyManifest(ctx context.Context, from Source, at, desc ocispec.Descriptor, keys []*PublicKey) (*PublicKey, error) {
	layers, err := signatures(ctx, from, at)
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		payload, err := fetch(ctx, from, l, maxPayloadBytes)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if key.verify(sha256.Sum256(payload), l.Annotations[annotationSignature]) && claims(payload, desc.Digest) {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: none of its %d signatures is by such a key", ErrUnsigned, len(layers))
}

// claims tells whether a payload, whose signature is right, speaks of the digest.
func claims(payload []byte, d digest.Digest) bool {
	var c claim
	return archive.DecodeJSON("payload", payload, &c) == nil && c.Critical.Type == claimType && c.Critical.Image.Digest == d
}

// signatures are the layers of a manifest of signatures.
func signatures(ctx context.Context, from Source, at ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if at.MediaType != ocispec.MediaTypeImageManifest {
		return nil, fmt.Errorf("%w: signatures of type %s", archive.ErrRejected, archive.QuoteName(at.MediaType))
	}
	raw, err := fetch(ctx, from, at, maxManifestBytes)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := archive.DecodeJSON("signatures", raw, &m); err != nil {
		return nil, err
	}
	var list []ocispec.Descriptor
	for _, l := range m.Layers {
		if l.MediaType == payloadType {
			list = append(list, l)
		}
	}
	if len(list) > MaxSignatures {
		return nil, fmt.Errorf("%w: %d signatures, the limit is %d", archive.ErrRejected, len(list), MaxSignatures)
	}
	return list, nil
}

// fetch reads a small blob and checks it against its digest.
func fetch(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size <= 0 || desc.Size > limit {
		return nil, fmt.Errorf("%w: signature of %d bytes, the limit is %d", archive.ErrRejected, desc.Size, limit)
	}
	return content.FetchAll(ctx, from, desc)
}
