package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// maxPagemapBytes is the length of a page map whose addresses are used. The pages of a longer one are
// stored all the same.
const maxPagemapBytes = 64 << 20

// NativeOptions are the options of [NewNativeWriter]. The zero value writes a whole checkpoint without a name.
type NativeOptions struct {
	// Tag is the name that Commit gives the checkpoint; empty for none.
	Tag string
	// Parent, unless nil, is an earlier checkpoint, of the same container if it is to be of use. Only pages
	// that differ from its are stored, unless the row of children is due to end: see [Native.Rebase]. It
	// stays the caller's and must be open until Close. Its packs are copied if the store lacks them.
	Parent *Native
	// Encrypt, unless nil, encrypts all but what the manifest says. The pages of a parent are referred to only if
	// it is for the same recipients.
	Encrypt *crypt.Recipients
	// PackBytes is that of pages.WriterOptions.
	PackBytes int64
}

// NativeWriter is an [archive.Sink] that makes the native artifact in a store.
type NativeWriter struct {
	store  Ingester
	opts   NativeOptions
	hold   io.Closer
	meta   *packedBlob
	tar    *archive.Writer
	pages  *pages.Writer
	reader *pages.Reader // of the parent, if its pages are used
	rootfs *ocispec.Descriptor
	keys   *nativeKeys // nil: it is not encrypted
	config nativeConfig
	kept   map[string][]byte
	taken  map[string]archive.Member
	images bool // there was something in checkpoint/
	desc   ocispec.Descriptor
	err    error
}

var _ archive.Sink = (*NativeWriter)(nil)

// NewNativeWriter begins a checkpoint in store. The caller closes the writer, also after Commit.
func NewNativeWriter(ctx context.Context, store Ingester, opts NativeOptions) (*NativeWriter, error) {
	w := &NativeWriter{store: store, opts: opts, kept: map[string][]byte{}, taken: map[string]archive.Member{}, config: nativeConfig{FormatVersion: nativeVersion}}
	if err := w.begin(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *NativeWriter) begin(ctx context.Context) (err error) {
	if w.hold, err = hold(ctx, w.store); err != nil {
		return err
	}
	opts := pages.WriterOptions{Create: w.pack, PackBytes: w.opts.PackBytes}
	if p := w.opts.Parent; p != nil && !p.Rebase() && p.fits(w.opts.Encrypt) {
		maps, err := p.pagemaps(ctx)
		if err != nil {
			return fmt.Errorf("parent %s: %w", p.desc.Digest, err)
		}
		if w.reader, err = p.newReader(ctx); err != nil {
			return err
		}
		opts.Parent = &pages.Parent{Reader: w.reader, Maps: maps}
	}
	if opts.Key, err = w.makeKeys(); err != nil {
		return err
	}
	if w.pages, err = pages.NewWriter(opts); err != nil {
		return err
	}
	metaKey, _ := w.sealers()
	if w.meta, err = newPackedBlob(ctx, w.store, sealing(metaKey)); err != nil {
		return err
	}
	w.tar = archive.NewWriter(w.meta)
	return nil
}

// pack begins a pack in the store.
func (w *NativeWriter) pack(ctx context.Context) (pages.PackWriter, error) {
	b, err := w.store.Ingest(ctx)
	if err != nil {
		return nil, err
	}
	return packWriter{b}, nil
}

// Put implements [archive.Sink].
func (w *NativeWriter) Put(ctx context.Context, e archive.Entry, r io.Reader) error {
	if w.err != nil {
		return w.err
	}
	if err := w.put(ctx, e, r); err != nil {
		w.err = err
		return err
	}
	return nil
}

func (w *NativeWriter) put(ctx context.Context, e archive.Entry, r io.Reader) error {
	w.images = w.images || strings.HasPrefix(e.Name, archive.CheckpointDir+"/")
	switch {
	case e.Kind == archive.KindDir:
	case archive.IsPages(e.Name):
		return w.putElsewhere(ctx, e, func() (int64, error) { return w.putPages(ctx, e, r) })
	case e.Name == archive.RootfsDiff:
		return w.putElsewhere(ctx, e, func() (int64, error) { return w.putRootfs(ctx, r) })
	case e.Name == archive.ConfigDump, e.Name == archive.SpecDump, e.Name == archive.MetadataFile:
		raw, rest, err := readStart(e, r, archive.MaxJSONBytes)
		if err != nil {
			return err
		}
		w.kept[e.Name], r = raw, rest // one that is too long for its kind is judged by Commit
	case pages.IsPagemap(e.Name):
		raw, rest, err := readStart(e, r, maxPagemapBytes)
		if err != nil {
			return err
		}
		if len(w.taken) == 0 {
			w.addresses(e.Name, raw)
		}
		r = rest
	}
	return w.tar.Put(ctx, e, r)
}

// readStart reads at most limit+1 bytes of a member and gives it whole again.
func readStart(e archive.Entry, r io.Reader, limit int64) ([]byte, io.Reader, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, nil, &archive.EntryError{Op: "write", Name: e.Name, Err: err}
	}
	return raw, io.MultiReader(bytes.NewReader(raw), r), nil
}

// putElsewhere leaves an empty member in the metadata, which keeps place and time of one whose content is
// in layers of its own.
func (w *NativeWriter) putElsewhere(ctx context.Context, e archive.Entry, put func() (int64, error)) error {
	empty := e
	empty.Size = 0
	if err := w.tar.Put(ctx, empty, bytes.NewReader(nil)); err != nil {
		return err
	}
	n, err := put()
	if err == nil && e.Size != archive.SizeUnknown && n != e.Size {
		err = &archive.EntryError{Op: "write", Name: e.Name, Err: fmt.Errorf("%d bytes where %d were announced: %w", n, e.Size, io.ErrUnexpectedEOF)}
	}
	return err
}

// putRootfs makes an ordinary layer of the root file system diff.
func (w *NativeWriter) putRootfs(ctx context.Context, r io.Reader) (n int64, err error) {
	defer func() {
		if err != nil {
			err = &archive.EntryError{Op: "write", Name: archive.RootfsDiff, Err: err}
		}
	}()
	_, rootfsKey := w.sealers()
	layer, err := newPackedBlob(ctx, w.store, sealing(rootfsKey))
	if err != nil {
		return 0, err
	}
	defer layer.Close() //nolint:errcheck // after Commit there is nothing left to discard
	diff := sha256.New()
	if n, err = io.Copy(io.MultiWriter(layer, diff), archive.ContextReader(ctx, r)); err != nil {
		return n, err
	}
	desc, err := layer.Commit(ctx, w.typed(layerType(archive.Zstd), sealedRootfs))
	if err != nil {
		return n, err
	}
	w.rootfs = &desc
	w.setRootfs(&nativeRootfs{Size: n, DiffID: digest.NewDigest(digest.SHA256, diff)})
	return n, nil
}

// Commit implements [archive.Sink]: packs, index, metadata, config, manifest and then the name.
func (w *NativeWriter) Commit(ctx context.Context) error {
	if w.err != nil {
		return w.err
	}
	w.err = errWriterClosed
	if err := w.commit(ctx); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

var errWriterClosed = errors.New("write checkpoint: already closed")

func (w *NativeWriter) commit(ctx context.Context) error {
	if !w.images {
		return fmt.Errorf("%w: nothing in %s/", archive.ErrNotArchive, archive.CheckpointDir)
	}
	f, err := gather(w.kept)
	if err != nil {
		return err
	}
	ix, err := w.pages.Commit(ctx)
	if err != nil {
		return err
	}
	packs := packDescriptors(ix)
	if err := w.adopt(ctx, packs); err != nil {
		return err
	}
	index, err := w.pushIndex(ctx, ix)
	if err != nil {
		return err
	}
	meta, err := w.commitMeta(ctx)
	if err != nil {
		return err
	}
	w.describe(f, ix)
	rawConfig, err := marshalNative("config", &w.config)
	if err != nil {
		return err
	}
	config, err := pushBytes(ctx, w.store, NativeConfig, rawConfig)
	if err != nil {
		return err
	}
	list := []ocispec.Descriptor{meta, index}
	if keys, err := w.pushKeys(ctx); err != nil {
		return err
	} else if keys != nil {
		list = append(list, *keys)
	}
	if w.rootfs != nil {
		list = append(list, *w.rootfs)
	}
	notes := annotate(f)
	annotateNative(notes, w.parentDigest(), &w.config, w.pages.Stats())
	raw, err := marshalNative("manifest", ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: Type,
		Config:       config,
		Layers:       append(list, packs...),
		Annotations:  notes,
	})
	if err != nil {
		return err
	}
	desc, err := pushBytes(ctx, w.store, ocispec.MediaTypeImageManifest, raw)
	if err != nil {
		return err
	}
	desc.ArtifactType = Type
	if w.opts.Tag != "" {
		if err := w.store.Tag(ctx, desc, w.opts.Tag); err != nil {
			return err
		}
	}
	w.desc = desc
	return nil
}

// commitMeta ends the layer of metadata.
func (w *NativeWriter) commitMeta(ctx context.Context) (ocispec.Descriptor, error) {
	if err := w.tar.Commit(ctx); err != nil {
		return ocispec.Descriptor{}, err
	}
	return w.meta.Commit(ctx, w.typed(nativeMeta, sealedMeta))
}

// describe fills in the config.
func (w *NativeWriter) describe(f *facts, ix *pages.Index) {
	w.config.Created = f.meta.Created.UTC()
	w.config.OS, w.config.Architecture = "linux", f.meta.Host.Architecture
	if w.config.Architecture == "" {
		w.config.Architecture = runtime.GOARCH
	}
	w.config.FullBytes = ix.PackBytes()
	if w.reader != nil {
		w.config.Depth = w.opts.Parent.config.Depth + 1
		w.config.FullBytes = w.opts.Parent.config.FullBytes
	}
}

func (w *NativeWriter) parentDigest() digest.Digest {
	if w.opts.Parent == nil {
		return ""
	}
	return w.opts.Parent.desc.Digest
}

// Descriptor is the manifest, after Commit.
func (w *NativeWriter) Descriptor() ocispec.Descriptor { return w.desc }

// Stats tells what became of the memory, after Commit.
func (w *NativeWriter) Stats() pages.Stats { return w.pages.Stats() }

// Close implements [archive.Sink].
func (w *NativeWriter) Close() error {
	if w.err == nil {
		w.err = errWriterClosed
	}
	var err error
	if w.pages != nil {
		err = w.pages.Close()
	}
	if w.reader != nil {
		err = errors.Join(err, w.reader.Close())
	}
	err = errors.Join(err, w.meta.Close())
	w.meta = nil
	if w.hold != nil {
		err = errors.Join(err, w.hold.Close())
		w.hold = nil
	}
	return err
}
