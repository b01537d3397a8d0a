package artifact

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// The media types of the native artifact. Its artifact type is [Type]; the config tells it
// from the universal image.
const (
	NativeConfig = "application/vnd.ckarchive.config.v1+json"
	nativeMeta   = "application/vnd.ckarchive.meta.v1.tar+zstd"
	nativeIndex  = "application/vnd.ckarchive.pageindex.v1+zstd"
	nativePack   = "application/vnd.ckarchive.pagepack.v1"
	nativeDelta  = "application/vnd.ckarchive.pagedelta.v1"
)

// The annotations of the native artifact, besides those that the universal image has as well.
const (
	// AnnotationParent is the digest of the checkpoint that this one was written as a child of. It
	// tells where this one came from; everything that is needed is in the manifest's layers.
	AnnotationParent = "io.ckarchive.parent"
	// AnnotationDepth is how many checkpoints in a row were written as children: 0 for a whole one.
	AnnotationDepth = "io.ckarchive.depth"
	// AnnotationMemoryBytes is the size of the pages files, AnnotationNewBytes that of the
	// packs that were new with this checkpoint.
	AnnotationMemoryBytes = "io.ckarchive.raw-bytes"
	AnnotationNewBytes    = "io.ckarchive.new-bytes"
)

// When a checkpoint is written whole although it has a parent: a long row of children needs
// many small packs, and pages of which nothing is left any more.
const (
	// MaxDepth is the longest row of children.
	MaxDepth = 32
	// rebasePercent is how large the packs that a parent needs may be, in per cent of those
	// of the last whole checkpoint.
	rebasePercent = 150
)

// nativeConfig is the config of a native artifact.
type nativeConfig struct {
	FormatVersion int       `json:"formatVersion"` // 1
	Created       time.Time `json:"created"`       // of the checkpoint
	Architecture  string    `json:"architecture"`
	OS            string    `json:"os"`
	// Depth is that of AnnotationDepth. FullBytes is the size of the packs of the last whole checkpoint.
	Depth     int   `json:"depth"`
	FullBytes int64 `json:"fullBytes"`
	// Encryption is there if the checkpoint is encrypted. Then Rootfs is not: it is in the layer of keys.
	Encryption *nativeEncryption `json:"encryption,omitempty"`
	// Rootfs is what is in the layer of the root file system, if there is one.
	Rootfs *nativeRootfs `json:"rootfs,omitempty"`
}

// nativeRootfs is the uncompressed root file system diff.
type nativeRootfs struct {
	Size   int64         `json:"size"` // bytes
	DiffID digest.Digest `json:"diffID"`
}

// valid tells whether it can be; nil can.
func (r *nativeRootfs) valid() bool { return r == nil || r.Size >= 0 && r.DiffID.Validate() == nil }

// nativeVersion is the version of the config that is written and read.
const nativeVersion = 1

// layers are the layers of a native artifact by what they are.
type layers struct {
	meta, index ocispec.Descriptor
	rootfs      *ocispec.Descriptor
	keys        *ocispec.Descriptor // nil: nothing is encrypted
	packs       map[digest.Digest]ocispec.Descriptor
}

// sortLayers tells the layers of a manifest apart. Layers of types that are not known here are left alone.
func sortLayers(m *ocispec.Manifest) (*layers, error) {
	l := &layers{packs: map[digest.Digest]ocispec.Descriptor{}}
	var metas, indexes, roots, keys, sealed int
	for _, d := range m.Layers {
		switch d.MediaType {
		case sealedKeys:
			l.keys = &d
			keys++
		case nativeMeta, sealedMeta:
			l.meta = d
			metas++
		case nativeIndex, sealedIndex:
			l.index = d
			indexes++
		case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd, sealedRootfs:
			l.rootfs = &d
			roots++
		case nativePack, nativeDelta:
			l.packs[d.Digest] = d
		}
		if d.MediaType == sealedMeta || d.MediaType == sealedIndex || d.MediaType == sealedRootfs {
			sealed++
		}
	}
	if metas != 1 || indexes != 1 || roots > 1 {
		return nil, rejectf("a native checkpoint has one layer of metadata, one page index and at most one root file system; this has %d, %d and %d", metas, indexes, roots)
	}
	if keys > 1 || sealed != keys*(metas+indexes+roots) {
		return nil, rejectf("some layers of the checkpoint are encrypted and some are not, or there are %d layers of keys", keys)
	}
	return l, nil
}

// check compares the page index with the manifest: a pack that the manifest does not name may be
// gone tomorrow.
func (l *layers) check(ix *pages.Index) error {
	for _, want := range packDescriptors(ix) {
		got, ok := l.packs[want.Digest]
		if !ok {
			return rejectf("the page index needs pack %s, which the manifest does not name", want.Digest)
		}
		if got.Size != want.Size {
			return rejectf("pack %s: %d bytes in the manifest, %d in the page index", want.Digest, got.Size, want.Size)
		}
	}
	return nil
}

// annotateNative adds what only the native artifact says.
func annotateNative(notes map[string]string, parent digest.Digest, c *nativeConfig, s pages.Stats) {
	if parent != "" {
		notes[AnnotationParent] = parent.String()
	}
	notes[AnnotationDepth] = strconv.Itoa(c.Depth)
	notes[AnnotationMemoryBytes] = strconv.FormatInt(s.Pages*pages.PageBytes, 10)
	notes[AnnotationNewBytes] = strconv.FormatInt(s.NewBytes, 10)
}

// parseNativeConfig reads the config.
func parseNativeConfig(raw []byte) (*nativeConfig, error) {
	var c nativeConfig
	if err := archive.DecodeJSON("config", raw, &c); err != nil {
		return nil, err
	}
	switch {
	case c.FormatVersion != nativeVersion:
		return nil, rejectf("format version %d, this program knows %d", c.FormatVersion, nativeVersion)
	case c.Depth < 0 || c.FullBytes < 0 || c.FullBytes > archive.MaxTotalBytes || !c.Rootfs.valid():
		return nil, rejectf("config: a number or digest that cannot be")
	}
	return &c, nil
}

// marshalNative gives the bytes of a config or manifest, which a registry must take.
func marshalNative(what string, v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err == nil && len(raw) > maxManifestBytes {
		err = fmt.Errorf("%s of %d bytes, registries take %d: there are too many packs", what, len(raw), maxManifestBytes)
	}
	return raw, err
}
