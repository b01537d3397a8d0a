package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

// The media types and annotations of containerd's client, as `ctr containers checkpoint` writes
// them (containerd, core/images/mediatypes.go and client/container_checkpoint_opts.go).
const (
	ctrImagesType  = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
	ctrConfigType  = "application/vnd.containerd.container.checkpoint.config.v1+proto"
	ctrOptionsType = "application/vnd.containerd.container.checkpoint.options.v1+proto"
	ctrRuntime     = "io.containerd.checkpoint.runtime"
	ctrSnapshotter = "io.containerd.checkpoint.snapshotter"

	// ctrSpecURL is the type of the message in the config: a runtime spec as JSON.
	ctrSpecURL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
)

// ctrOptionsMember carries the options of containerd's dump, which nothing here reads.
const ctrOptionsMember = "containerd-options.pb"

// ErrContainerd marks an index of containerd's client: [OpenContainerd] reads it.
var ErrContainerd = errors.New("a checkpoint of containerd's client")

// isContainerd tells whether an index is one, and is not also an image of ours.
func isContainerd(index *ocispec.Index) bool {
	if slices.ContainsFunc(recognise(), func(key string) bool { return index.Annotations[key] != "" }) {
		return false
	}
	_, ok := ofType(index, ctrImagesType)
	return ok
}

func ofType(index *ocispec.Index, mediaType string) (ocispec.Descriptor, bool) {
	at := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.MediaType == mediaType })
	if at < 0 {
		return ocispec.Descriptor{}, false
	}
	return index.Manifests[at], true
}

// Containerd is an index of containerd's client as a [archive.Source]: the runtime spec, CRIU's
// images, and the changes of the root file system if they were taken. Each blob is checked against
// its digest before what follows it.
type Containerd struct {
	fetcher content.Fetcher
	index   ocispec.Index
	known   foreign.Known
	parts   []func(context.Context) (archive.Entry, io.Reader, error) // those that are left
	closes  []io.Closer
	blob    *content.VerifyReader
	images  *archive.Reader
	err     error
}

var (
	_ archive.Source = (*Containerd)(nil)
	_ foreign.Told   = (*Containerd)(nil)
	_ foreign.Told   = (*Image)(nil)
)

// Known implements [foreign.Told].
func (i *Image) Known() foreign.Known { return foreign.Known{Annotations: i.Annotations()} }

// OpenContainerd reads the index that desc leads to, and the runtime spec in it. The caller closes
// the source; fetcher must outlive it.
func OpenContainerd(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor) (*Containerd, error) {
	raw, err := fetchJSON(ctx, fetcher, desc, "index")
	if err != nil {
		return nil, err
	}
	c := &Containerd{fetcher: fetcher}
	if err := decode("index", raw, &c.index); err != nil {
		return nil, err
	}
	if !isContainerd(&c.index) {
		return nil, notCheckpoint(desc.MediaType)
	}
	spec, err := c.spec(ctx)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	c.known = foreign.Known{
		Engine: foreign.Containerd, Runtime: c.index.Annotations[ctrRuntime], Spec: spec,
		Base: c.base(ctx),
	}
	c.parts = append(c.parts, c.beginImages)
	if d, ok := ofType(&c.index, ocispec.MediaTypeImageLayerGzip); ok {
		c.parts = append(c.parts, c.whole(archive.RootfsDiff, d))
	}
	if d, ok := ofType(&c.index, ctrOptionsType); ok {
		c.parts = append(c.parts, c.whole(ctrOptionsMember, d))
	}
	return c, nil
}

// Known implements [foreign.Told]: containerd notes neither ID nor name of the container.
func (c *Containerd) Known() foreign.Known { return c.known }

// spec unwraps the runtime spec.
func (c *Containerd) spec(ctx context.Context) ([]byte, error) {
	d, ok := ofType(&c.index, ctrConfigType)
	if !ok {
		return nil, rejectf("it holds no configuration of the container")
	}
	raw, err := fetchJSON(ctx, c.fetcher, d, "configuration")
	if err != nil {
		return nil, err
	}
	var message anypb.Any
	if err := proto.Unmarshal(raw, &message); err != nil {
		return nil, rejectf("configuration %s: %w", d.Digest, err)
	}
	if message.GetTypeUrl() != ctrSpecURL {
		return nil, rejectf("configuration of type %s, want %s", archive.QuoteName(message.GetTypeUrl()), ctrSpecURL)
	}
	return message.GetValue(), nil
}

// base is the image that the container was made from, whose manifest stands beside the images with
// --image. What of it is not there stays unknown.
func (c *Containerd) base(ctx context.Context) archive.Base {
	b := archive.Base{Image: c.index.Annotations[ocispec.AnnotationRefName]}
	d, err := fitting(&c.index)
	if err != nil {
		return b
	}
	b.Manifest = d.Digest.String()
	if _, m, err := resolve(ctx, c.fetcher, d, 1); err == nil {
		b.ImageID = strings.TrimPrefix(m.Config.Digest.String(), "sha256:")
	}
	return b
}

// fetch begins a blob.
func (c *Containerd) fetch(ctx context.Context, d ocispec.Descriptor) error {
	if d.Size < 0 || d.Size > archive.MaxTotalBytes {
		return rejectf("blob of %d bytes", d.Size)
	}
	rc, err := c.fetcher.Fetch(ctx, d)
	if err != nil {
		return err
	}
	c.closes = append(c.closes, rc)
	c.blob = content.NewVerifyReader(rc, d)
	return nil
}

// endBlob proves the blob that was begun last.
func (c *Containerd) endBlob() error {
	if c.blob == nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, layerReader{c.blob}); err != nil {
		return err
	}
	err := c.blob.Verify()
	c.blob = nil
	if err != nil {
		return rejectf("%w", err)
	}
	return c.closeAll()
}

func (c *Containerd) closeAll() error {
	var err error
	for n := len(c.closes) - 1; n >= 0; n-- {
		err = errors.Join(err, c.closes[n].Close())
	}
	c.closes = nil
	return err
}

// whole gives a blob as one member.
func (c *Containerd) whole(name string, d ocispec.Descriptor) func(context.Context) (archive.Entry, io.Reader, error) {
	return func(ctx context.Context) (archive.Entry, io.Reader, error) {
		err := c.fetch(ctx, d)
		return archive.Entry{Name: name, Size: d.Size, Mode: 0o600}, layerReader{c.blob}, err
	}
}

// beginImages opens the tar of CRIU's images.
func (c *Containerd) beginImages(ctx context.Context) (archive.Entry, io.Reader, error) {
	d, _ := ofType(&c.index, ctrImagesType)
	if err := c.fetch(ctx, d); err != nil {
		return archive.Entry{}, nil, err
	}
	images, err := archive.NewReader(layerReader{c.blob}, archive.ReaderOptions{})
	if err != nil {
		return archive.Entry{}, nil, err
	}
	c.images = images
	c.closes = append(c.closes, images)
	return archive.Entry{Name: archive.CheckpointDir, Kind: archive.KindDir, Mode: 0o700}, nil, nil
}

// Next implements [archive.Source].
func (c *Containerd) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	if c.err != nil {
		return archive.Entry{}, nil, c.err
	}
	e, r, err := c.step(ctx)
	c.err = err
	return e, r, err
}

func (c *Containerd) step(ctx context.Context) (archive.Entry, io.Reader, error) {
	if ctx.Err() != nil {
		return archive.Entry{}, nil, context.Cause(ctx)
	}
	if c.images != nil {
		e, r, err := c.images.Next(ctx)
		if err == nil {
			e.Name, err = archive.CleanName(archive.Image(e.Name))
			return e, r, err
		}
		if !errors.Is(err, io.EOF) {
			return e, nil, err
		}
		c.images = nil
	}
	if err := c.endBlob(); err != nil {
		return archive.Entry{}, nil, err
	}
	if len(c.parts) == 0 {
		return archive.Entry{}, nil, io.EOF
	}
	part := c.parts[0]
	c.parts = c.parts[1:]
	return part(ctx)
}

// Close implements [archive.Source].
func (c *Containerd) Close() error {
	if c.err == nil {
		c.err = errors.New("read checkpoint of containerd: already closed")
	}
	_ = c.closeAll() // nothing was written, and what failed to be read was told by Next
	return nil
}
