package artifact

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// The media types of an encrypted native artifact. All are age files; packs keep their types, and
// their frames are encrypted one by one.
const (
	sealedKeys   = "application/vnd.ckarchive.keys.v1+age"
	sealedMeta   = nativeMeta + "+age"
	sealedIndex  = nativeIndex + "+age"
	sealedRootfs = "application/vnd.ckarchive.rootfs.v1.tar+zstd+age"
)

// maxKeysBytes is the length of the layer of keys: a key for each of some thousand recipients.
const maxKeysBytes = 1 << 20

// nativeKeys open the parts of an encrypted checkpoint. They are a layer that is encrypted to the
// recipients, so that these change without the rest. Each part has a key that no other part of any
// checkpoint has: parts cannot be exchanged. The frames of a row of children have one.
type nativeKeys struct {
	FormatVersion int       `json:"formatVersion"` // nativeVersion
	Frames        []byte    `json:"frames"`
	Meta          crypt.Key `json:"meta"`
	Index         crypt.Key `json:"index"`
	Rootfs        crypt.Key `json:"rootfs"`
	// RootfsContent is what the config of a checkpoint in plain form says.
	RootfsContent *nativeRootfs `json:"rootfsContent,omitempty"`
}

// nativeEncryption is what the config of an encrypted checkpoint says of it.
type nativeEncryption struct {
	// Recipients is the fingerprint of the recipients under the key of the frames. A child for others
	// gets other keys: who was left out cannot read what comes later.
	Recipients []byte `json:"recipients"`
}

// newKeys makes the keys of a checkpoint; frames are those of the parent, or nil.
func newKeys(frames []byte) (k *nativeKeys, err error) {
	k = &nativeKeys{FormatVersion: nativeVersion, Frames: frames}
	if frames == nil {
		k.Frames = make([]byte, pages.KeyBytes)
		_, _ = rand.Read(k.Frames) // never fails
	}
	for _, key := range []*crypt.Key{&k.Meta, &k.Index, &k.Rootfs} {
		if *key, err = crypt.NewKey(); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *nativeKeys) seal(to *crypt.Recipients) ([]byte, error) {
	raw, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return sealBytes(raw, to.Encrypt)
}

// openKeys reads the layer of keys.
func openKeys(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, open archive.Decrypter) (*nativeKeys, error) {
	if open == nil {
		return nil, archive.ErrEncrypted
	}
	sealed, err := fetchSmall(ctx, fetcher, desc, "layer of keys", maxKeysBytes)
	if err != nil {
		return nil, err
	}
	raw, err := openBytes(sealed, open)
	if err != nil {
		return nil, err
	}
	var k nativeKeys
	if err := archive.DecodeJSON("keys", raw, &k); err != nil {
		return nil, err
	}
	switch {
	case k.FormatVersion != nativeVersion:
		return nil, rejectf("keys of format version %d, this program knows %d", k.FormatVersion, nativeVersion)
	case len(k.Frames) != pages.KeyBytes || !k.Meta.Valid() || !k.Index.Valid() || !k.Rootfs.Valid() || !k.RootfsContent.valid():
		return nil, rejectf("the layer of keys lacks some")
	}
	return &k, nil
}

// sealBytes encrypts what is in memory.
func sealBytes(plain []byte, seal archive.Encrypter) ([]byte, error) {
	var b bytes.Buffer
	w, err := seal(&b)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func openBytes(sealed []byte, open archive.Decrypter) ([]byte, error) {
	r, err := open(bytes.NewReader(sealed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Encrypted tells whether what desc leads to is encrypted, which takes no key. What is no checkpoint of
// ours is not.
func Encrypted(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) (bool, error) {
	_, m, err := resolve(ctx, fetcher, desc, 0)
	if errors.Is(err, archive.ErrRejected) || errors.Is(err, ErrContainerd) {
		return false, nil
	}
	if err != nil || m.Config.MediaType != NativeConfig {
		return false, err
	}
	l, err := sortLayers(m)
	return err == nil && l.keys != nil, err
}

// Encrypted tells whether the checkpoint is encrypted.
func (n *Native) Encrypted() bool { return n.keys != nil }

// fits tells whether a child for these recipients, nil for none, can refer to the pages of n.
func (n *Native) fits(to *crypt.Recipients) bool {
	if n.keys == nil || to == nil {
		return n.keys == nil && to == nil
	}
	return hmac.Equal(n.config.Encryption.Recipients, to.Fingerprint(n.keys.Frames))
}

// newReader reads the pages of n.
func (n *Native) newReader(ctx context.Context) (*pages.Reader, error) {
	if n.keys == nil {
		return pages.NewReader(ctx, n.index, packOpener{n.fetcher}), nil
	}
	return pages.NewSealedReader(ctx, n.index, packOpener{n.fetcher}, n.keys.Frames)
}

// readKeys opens what keeps the checkpoint closed, if anything does.
func (n *Native) readKeys(ctx context.Context, open archive.Decrypter) (err error) {
	if (n.config.Encryption != nil) != (n.layers.keys != nil) {
		return rejectf("config and layers do not agree on whether it is encrypted")
	}
	if n.layers.keys == nil {
		return nil
	}
	if n.config.Rootfs != nil {
		return rejectf("the config of an encrypted checkpoint tells what is encrypted")
	}
	if n.keys, err = openKeys(ctx, n.fetcher, *n.layers.keys, open); err != nil {
		return err
	}
	n.config.Rootfs = n.keys.RootfsContent
	return nil
}

// readIndex reads the page index.
func (n *Native) readIndex(ctx context.Context) (*pages.Index, error) {
	raw, err := fetchSmall(ctx, n.fetcher, n.layers.index, "page index", pages.MaxIndexBytes)
	if err != nil {
		return nil, err
	}
	if n.keys != nil {
		if raw, err = openBytes(raw, n.keys.Index.Decrypt); err != nil {
			return nil, fmt.Errorf("page index: %w", err)
		}
	}
	ix, err := pages.ParseIndex(raw)
	if err == nil && len(ix.Packs) > 0 && ix.Sealed() != (n.keys != nil) {
		err = rejectf("the memory is encrypted and the rest is not, or the other way round")
	}
	return ix, err
}

// openers are the keys of metadata and root file system; nil in plain form.
func (n *Native) openers() (meta, rootfs archive.Decrypter) {
	if n.keys == nil {
		return nil, nil
	}
	return n.keys.Meta.Decrypt, n.keys.Rootfs.Decrypt
}

// sealedPacker compresses and then encrypts.
type sealedPacker struct {
	io.WriteCloser
	sealer io.Closer
}

// sealing makes what compresses, and encrypts after that unless seal is nil.
func sealing(seal archive.Encrypter) func(io.Writer) (io.WriteCloser, error) {
	return func(to io.Writer) (io.WriteCloser, error) {
		if seal == nil {
			return archive.Compress(to, archive.Zstd)
		}
		sealer, err := seal(to)
		if err != nil {
			return nil, err
		}
		packer, err := archive.Compress(sealer, archive.Zstd)
		if err != nil {
			return nil, err
		}
		return &sealedPacker{packer, sealer}, nil
	}
}

// Close writes the end of both.
func (p *sealedPacker) Close() error {
	if err := p.WriteCloser.Close(); err != nil {
		return err
	}
	return p.sealer.Close()
}
