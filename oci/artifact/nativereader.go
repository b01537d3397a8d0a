package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// Checkpoint is a checkpoint in a store or registry, whatever its form: an *[Image] or a *[Native].
type Checkpoint interface {
	archive.Source
	// Descriptor is the manifest.
	Descriptor() ocispec.Descriptor
	// Annotations are those of the manifest. They were written by whoever made it.
	Annotations() map[string]string
}

var (
	_ Checkpoint = (*Image)(nil)
	_ Checkpoint = (*Native)(nil)
)

// OpenOptions are the options of [OpenCheckpoint] and [OpenNative]. The zero value reads checkpoints in plain form.
type OpenOptions struct {
	// Decrypt opens an encrypted checkpoint. Nil: such a one is an archive.ErrEncrypted.
	Decrypt archive.Decrypter
	// Head opens a native one for who reads no memory: the page index, which grows with the memory, is not fetched. Pages files
	// have an unknown size and cannot be read.
	Head bool
}

// OpenCheckpoint opens what desc leads to, in the form that it has: see [Open] and [OpenNative].
func OpenCheckpoint(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, opts OpenOptions) (Checkpoint, error) {
	desc, m, err := resolve(ctx, fetcher, desc, 0)
	if err != nil {
		return nil, err
	}
	if m.Config.MediaType == NativeConfig {
		return newNative(ctx, fetcher, desc, m, opts)
	}
	return newImage(ctx, fetcher, desc, m)
}

// Native is a native artifact as an [archive.Source] and [archive.Opener]. What is read is checked:
// metadata and root file system against their digests when they have been read to their end,
// memory by frame and by file. A member that is left unread is not fetched and not checked.
type Native struct {
	fetcher  content.Fetcher
	desc     ocispec.Descriptor
	manifest *ocispec.Manifest
	config   *nativeConfig
	layers   *layers
	keys     *nativeKeys            // nil: it is not encrypted
	index    *pages.Index           // nil of a head
	files    map[string]*pages.File // of the index
	pages    *pages.Reader

	meta   *layerStream
	source *archive.Reader
	member io.Closer // the one at hand, if it is not in the metadata
	seen   int       // members that have their content elsewhere
	err    error

	mu      sync.Mutex
	members map[string]*metaMember
	entries []archive.Entry
}

var (
	_ archive.Opener = (*Native)(nil)
	_ foreign.Told   = (*Native)(nil)
)

// OpenNative reads the manifest, the config and the page index that desc leads to. An index leads
// to its manifest for this machine. What is no native checkpoint is an archive.ErrNotArchive. ctx is for
// all reading of memory. The caller closes the checkpoint; fetcher must outlive it.
func OpenNative(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, opts OpenOptions) (*Native, error) {
	desc, m, err := resolve(ctx, fetcher, desc, 0)
	if err != nil {
		return nil, err
	}
	return newNative(ctx, fetcher, desc, m, opts)
}

func newNative(ctx context.Context, fetcher content.Fetcher, desc ocispec.Descriptor, m *ocispec.Manifest, opts OpenOptions) (_ *Native, err error) {
	n := &Native{fetcher: fetcher, desc: desc, manifest: m}
	if err := n.open(ctx, opts); err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", desc.Digest, err)
	}
	if opts.Head {
		return n, nil
	}
	n.files = make(map[string]*pages.File, len(n.index.Files))
	for i := range n.index.Files {
		n.files[n.index.Files[i].Name] = &n.index.Files[i]
	}
	n.pages, err = n.newReader(ctx)
	return n, err
}

func (n *Native) open(ctx context.Context, opts OpenOptions) (err error) {
	if n.manifest.ArtifactType != Type || n.manifest.Config.MediaType != NativeConfig {
		return notCheckpoint(n.manifest.Config.MediaType)
	}
	if n.layers, err = sortLayers(n.manifest); err != nil {
		return err
	}
	raw, err := fetchJSON(ctx, n.fetcher, n.manifest.Config, "config")
	if err != nil {
		return err
	}
	if n.config, err = parseNativeConfig(raw); err != nil {
		return err
	}
	if err := n.readKeys(ctx, opts.Decrypt); err != nil {
		return err
	}
	if (n.config.Rootfs != nil) != (n.layers.rootfs != nil) {
		return rejectf("config and layers do not agree on whether there is a root file system")
	}
	if opts.Head {
		return nil
	}
	if n.index, err = n.readIndex(ctx); err != nil {
		return err
	}
	return n.layers.check(n.index)
}

// Descriptor is the manifest.
func (n *Native) Descriptor() ocispec.Descriptor { return n.desc }

// Annotations are those of the manifest. They were written by whoever made it.
func (n *Native) Annotations() map[string]string { return n.manifest.Annotations }

// Known implements [foreign.Told].
func (n *Native) Known() foreign.Known { return foreign.Known{Annotations: n.Annotations()} }

// Index is the page index, which is not to be changed.
func (n *Native) Index() *pages.Index { return n.index }

// Pages is the reader of the memory, which the checkpoint closes.
func (n *Native) Pages() *pages.Reader { return n.pages }

// Depth is how many checkpoints in a row were written as children, this one among them: 0 for a whole one.
func (n *Native) Depth() int { return n.config.Depth }

// Rebase tells whether a checkpoint with this one as its parent is to be written whole, because the
// row of children is long enough or too much of what they need is no longer used.
func (n *Native) Rebase() bool {
	return n.config.Depth >= MaxDepth || n.index.PackBytes()*100 > n.config.FullBytes*rebasePercent
}

// Next implements [archive.Source].
func (n *Native) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	if n.err == nil && ctx.Err() != nil {
		n.err = context.Cause(ctx)
	}
	if n.err != nil {
		return archive.Entry{}, nil, n.err
	}
	e, r, err := n.next(ctx)
	n.err = err
	return e, r, err
}

func (n *Native) next(ctx context.Context) (archive.Entry, io.Reader, error) {
	n.endMember()
	if n.source == nil {
		var err error
		if n.meta, n.source, err = n.openMeta(ctx); err != nil {
			return archive.Entry{}, nil, err
		}
	}
	e, r, err := n.source.Next(ctx)
	if errors.Is(err, io.EOF) {
		return archive.Entry{}, nil, n.end()
	}
	if err != nil {
		return archive.Entry{}, nil, err
	}
	elsewhere, err := n.substitute(&e)
	if err != nil || !elsewhere {
		return e, r, err
	}
	n.seen++
	content, err := n.openElsewhere(ctx, e.Name)
	if err != nil {
		return archive.Entry{}, nil, err
	}
	n.member = content
	return e, content, nil
}

// substitute tells whether the content of a member is in layers of its own, and gives it its size.
func (n *Native) substitute(e *archive.Entry) (bool, error) {
	f := n.files[e.Name]
	if n.index == nil && e.Size == 0 && archive.IsPages(e.Name) {
		f = &pages.File{Size: archive.SizeUnknown}
	}
	rootfs := e.Name == archive.RootfsDiff && n.config.Rootfs != nil
	if f == nil && !rootfs {
		return false, nil
	}
	if e.Kind != archive.KindFile || e.Size != 0 || f != nil && rootfs {
		return false, &archive.EntryError{Op: "read", Name: e.Name, Err: rejectf("it has content in two places")}
	}
	if rootfs {
		e.Size = n.config.Rootfs.Size
	} else {
		e.Size = f.Size
	}
	return true, nil
}

// elsewhere is how many members have their content in layers of their own.
func (n *Native) elsewhere() int {
	count := len(n.index.Files)
	if n.config.Rootfs != nil {
		count++
	}
	return count
}

// openElsewhere gives the content of such a member in order.
func (n *Native) openElsewhere(ctx context.Context, name string) (io.ReadCloser, error) {
	if name == archive.RootfsDiff {
		return n.openRootfs(ctx)
	}
	if n.index == nil {
		return unread{}, nil
	}
	return n.pages.Stream(ctx, name)
}

// unread is memory of a checkpoint that was opened for its head.
type unread struct{}

// Read implements [io.Reader].
func (unread) Read([]byte) (int, error) {
	return 0, errors.New("the checkpoint was opened without its memory")
}

// Close implements [io.Closer].
func (unread) Close() error { return nil }

// openMeta begins to read the metadata.
func (n *Native) openMeta(ctx context.Context) (*layerStream, *archive.Reader, error) {
	open, _ := n.openers()
	l, err := openLayer(ctx, n.fetcher, n.layers.meta, open)
	if err != nil {
		return nil, nil, err
	}
	source, err := archive.NewReader(l, archive.ReaderOptions{})
	if err == nil && (l.compression != archive.Zstd || source.Compression() != archive.Uncompressed) {
		_ = source.Close() // the error below is the one to tell
		err = rejectf("the metadata is not a tar packed with zstd, once")
	}
	if err != nil {
		l.close()
		return nil, nil, err
	}
	return l, source, nil
}

// end proves the metadata and gives io.EOF.
func (n *Native) end() error {
	if err := n.meta.verify(""); err != nil {
		return err
	}
	if n.index != nil && n.seen != n.elsewhere() {
		return rejectf("%d members have their content in layers of their own, the metadata names %d of them", n.elsewhere(), n.seen)
	}
	return io.EOF
}

func (n *Native) endMember() {
	if n.member != nil {
		_ = n.member.Close() // nothing was written
		n.member = nil
	}
}

// Close implements [archive.Source]. It also closes what Open gave.
func (n *Native) Close() error {
	n.endMember()
	if n.source != nil {
		_ = n.source.Close() // nothing was written, and what failed to be read was told by Next
		n.meta.close()
		n.source = nil
	}
	if n.err == nil || errors.Is(n.err, io.EOF) {
		n.err = errors.New("read checkpoint: already closed")
	}
	if n.pages == nil {
		return nil
	}
	return n.pages.Close()
}

// rootfs is the root file system diff, which says io.EOF only if it is what the digests promise.
type rootfs struct {
	*layerStream
	want *nativeRootfs
	n    int64
}

func (n *Native) openRootfs(ctx context.Context) (io.ReadCloser, error) {
	_, open := n.openers()
	l, err := openLayer(ctx, n.fetcher, *n.layers.rootfs, open)
	if err != nil {
		return nil, err
	}
	if open == nil && layerType(l.compression) != l.desc.MediaType {
		l.close()
		return nil, rejectf("layer of type %s holds %s data", archive.QuoteName(l.desc.MediaType), l.compression)
	}
	return &rootfs{layerStream: l, want: n.config.Rootfs}, nil
}

// Read implements [io.Reader].
func (r *rootfs) Read(p []byte) (int, error) {
	got, err := r.layerStream.Read(p)
	r.n += int64(got)
	switch {
	case r.n > r.want.Size:
		err = rejectf("more than the %d bytes that the config says", r.want.Size)
	case errors.Is(err, io.EOF):
		if verr := r.verify(r.want.DiffID); verr != nil {
			err = verr
		} else if r.n != r.want.Size {
			err = rejectf("%d bytes, the config says %d", r.n, r.want.Size)
		}
	}
	return got, err
}

// Close implements [io.Closer].
func (r *rootfs) Close() error {
	r.close()
	return nil
}
