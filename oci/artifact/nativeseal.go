package artifact

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// makeKeys makes the keys of an encrypted checkpoint and gives that of its frames, which is the parent's
// if its pages are referred to.
func (w *NativeWriter) makeKeys() (frames []byte, err error) {
	if w.opts.Encrypt == nil {
		return nil, nil
	}
	if w.reader != nil {
		frames = w.opts.Parent.keys.Frames
	}
	if w.keys, err = newKeys(frames); err != nil {
		return nil, err
	}
	w.config.Encryption = &nativeEncryption{Recipients: w.opts.Encrypt.Fingerprint(w.keys.Frames)}
	return w.keys.Frames, nil
}

// sealers encrypt metadata and root file system; they are nil in plain form.
func (w *NativeWriter) sealers() (meta, rootfs archive.Encrypter) {
	if w.keys == nil {
		return nil, nil
	}
	return w.keys.Meta.Encrypt, w.keys.Rootfs.Encrypt
}

// typed gives the media type of a layer.
func (w *NativeWriter) typed(plain, sealed string) string {
	if w.keys == nil {
		return plain
	}
	return sealed
}

// pushIndex writes the page index.
func (w *NativeWriter) pushIndex(ctx context.Context, ix *pages.Index) (ocispec.Descriptor, error) {
	raw, err := ix.Marshal()
	if err == nil && w.keys != nil {
		raw, err = sealBytes(raw, w.keys.Index.Encrypt)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return pushBytes(ctx, w.store, w.typed(nativeIndex, sealedIndex), raw)
}

// pushKeys writes the layer of keys, if there is one.
func (w *NativeWriter) pushKeys(ctx context.Context) (*ocispec.Descriptor, error) {
	if w.keys == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	raw, err := w.keys.seal(w.opts.Encrypt)
	if err != nil {
		return nil, err
	}
	desc, err := pushBytes(ctx, w.store, sealedKeys, raw)
	return &desc, err
}

// setRootfs notes what the layer of the root file system holds, in the config or among the keys.
func (w *NativeWriter) setRootfs(r *nativeRootfs) {
	if w.keys == nil {
		w.config.Rootfs = r
		return
	}
	w.keys.RootfsContent = r
}
