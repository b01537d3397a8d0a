package artifact

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ckarchive/ckarchive/archive"
)

// What containerd's client wants to know of the container that is to be made.
const (
	ctrDefaultSnapshotter = "overlayfs"
	ctrRuntimePrefix      = "io.containerd."
	ctrRuntimeSuffix      = ".v2"
)

// ContainerdWriter is a [archive.Sink] that makes an index which containerd's client restores: the
// universal image first, for Podman, CRI-O and the CRI, and beside it the parts that
// `ctr containers restore` takes. Its parts are no manifests, so that registries refuse it: it travels
// as a layout in a file.
type ContainerdWriter struct {
	store  Ingester
	image  *Writer
	images *blobTar
	rootfs []ocispec.Descriptor // one, if there are changes
	desc   ocispec.Descriptor
	done   bool
}

var _ archive.Sink = (*ContainerdWriter)(nil)

// NewContainerdWriter begins an index in store, whose garbage collection the caller keeps away. The
// caller closes the writer, also after Commit.
func NewContainerdWriter(ctx context.Context, store Ingester) (*ContainerdWriter, error) {
	image, err := NewWriter(ctx, store, WriterOptions{Compression: archive.Gzip})
	if err != nil {
		return nil, err
	}
	w := &ContainerdWriter{store: store, image: image}
	blob, err := store.Ingest(ctx)
	if err != nil {
		return nil, errors.Join(err, image.Close())
	}
	w.images = &blobTar{blob: blob, tar: tar.NewWriter(blob)}
	return w, nil
}

// blobTar is a tar that becomes a blob.
type blobTar struct {
	blob BlobWriter
	tar  *tar.Writer
}

// Put implements [archive.Sink].
func (w *ContainerdWriter) Put(ctx context.Context, e archive.Entry, r io.Reader) error {
	image, isImage := strings.CutPrefix(e.Name, archive.CheckpointDir+"/")
	switch {
	case e.Kind == archive.KindDir:
		return w.image.Put(ctx, e, r)
	case isImage:
		h := &tar.Header{Typeflag: tar.TypeReg, Name: image, Size: e.Size, Mode: 0o600, ModTime: e.ModTime, Format: tar.FormatPAX}
		if err := w.images.tar.WriteHeader(h); err != nil {
			return &archive.EntryError{Op: "write", Name: e.Name, Err: err}
		}
		return w.image.Put(ctx, e, io.TeeReader(r, w.images.tar))
	case e.Name == archive.RootfsDiff:
		return w.putRootfs(ctx, e, r)
	}
	return w.image.Put(ctx, e, r)
}

// putRootfs makes a layer of the changes. The client takes nothing but gzip.
func (w *ContainerdWriter) putRootfs(ctx context.Context, e archive.Entry, r io.Reader) (err error) {
	blob, err := w.store.Ingest(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := repack(blob, pr)
		pr.CloseWithError(err)
		packed <- err
	}()
	err = w.image.Put(ctx, e, io.TeeReader(r, pw))
	pw.CloseWithError(err)
	if err := errors.Join(err, <-packed); err != nil {
		return &archive.EntryError{Op: "write", Name: e.Name, Err: err}
	}
	layer, err := blob.Commit(ctx, ocispec.MediaTypeImageLayerGzip)
	w.rootfs = []ocispec.Descriptor{layer}
	return err
}

// repack packs what is packed in any way with gzip. It reads r to its end.
func repack(w io.Writer, r io.Reader) error {
	plain, _, err := archive.Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close() //nolint:errcheck // read only
	packer, err := archive.Compress(w, archive.Gzip)
	if err != nil {
		return err
	}
	_, err = io.Copy(packer, plain)
	return errors.Join(err, packer.Close())
}

// Commit implements [archive.Sink]: the blobs, then the index.
func (w *ContainerdWriter) Commit(ctx context.Context) error {
	if w.done {
		return errors.New("write index: already closed")
	}
	spec, f, err := w.facts()
	if err != nil {
		return err
	}
	if f.meta.Base == nil || f.meta.Base.Image == "" {
		return fmt.Errorf("%w: containerd makes the container from an image, and no image is named", archive.ErrNotFound)
	}
	if err := w.image.Commit(ctx); err != nil {
		return err
	}
	if err := w.images.tar.Close(); err != nil {
		return fmt.Errorf("end the images: %w", err)
	}
	images, err := w.images.blob.Commit(ctx, ctrImagesType)
	if err != nil {
		return err
	}
	config, err := proto.Marshal(&anypb.Any{TypeUrl: ctrSpecURL, Value: spec})
	if err != nil {
		return err
	}
	configured, err := pushBytes(ctx, w.store, ctrConfigType, config)
	if err != nil {
		return err
	}
	manifest := w.image.Descriptor()
	arch := f.meta.Host.Architecture
	if arch == "" {
		arch = runtime.GOARCH
	}
	platform := &ocispec.Platform{Architecture: arch, OS: "linux"}
	parts := append([]ocispec.Descriptor{{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: manifest.Size, ArtifactType: Type}}, w.rootfs...)
	parts = append(parts, images, configured)
	for i := range parts {
		parts[i].Platform = platform
	}
	notes := annotate(f)
	maps.Copy(notes, map[string]string{
		ctrRuntime:                ctrRuntimePrefix + notes[podmanRuntimeName] + ctrRuntimeSuffix,
		ctrSnapshotter:            ctrDefaultSnapshotter,
		ocispec.AnnotationRefName: f.meta.Base.Image,
	})
	w.desc, err = w.image.pushJSON(ctx, ocispec.MediaTypeImageIndex, "", ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: parts, Annotations: notes,
	})
	w.done = err == nil
	return err
}

// facts are what the manifest says as well.
func (w *ContainerdWriter) facts() (spec []byte, f *facts, err error) {
	if f, err = gather(w.image.kept); err != nil {
		return nil, nil, err
	}
	return w.image.kept[archive.SpecDump], f, nil
}

// Descriptor is the index, after Commit.
func (w *ContainerdWriter) Descriptor() ocispec.Descriptor { return w.desc }

// Close implements [archive.Sink].
func (w *ContainerdWriter) Close() error {
	err := w.image.Close()
	if w.images != nil {
		err = errors.Join(err, w.images.blob.Close())
		w.images = nil
	}
	w.done = true
	return err
}
