package registry

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2"
)

// maxTarMembers is the number of members of a layout in a tar.
const maxTarMembers = 200_000

// StoreArchive is an OCI image layout in a tar file, to be read. It may be used concurrently.
type StoreArchive struct {
	f     *os.File
	index *ocispec.Index
	blobs map[digest.Digest]section
}

// section is where the content of a member is.
type section struct{ off, size int64 }

var _ oras.ReadOnlyTarget = (*StoreArchive)(nil)

// OpenStoreArchive opens an uncompressed tar that holds an OCI image layout. Only the
// headers, oci-layout and index.json are read. The caller closes the archive.
func OpenStoreArchive(ctx context.Context, file string) (*StoreArchive, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "open", Reference: file, Err: err}
	}
	a := &StoreArchive{f: f, blobs: map[digest.Digest]section{}}
	if err := a.scan(ctx); err != nil {
		_ = f.Close()
		return nil, opError("open", file, err)
	}
	return a, nil
}

// Close closes the file.
func (a *StoreArchive) Close() error { return a.f.Close() }

func (a *StoreArchive) scan(ctx context.Context) error {
	info, err := a.f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("not a regular file; only a file can be read in any order")
	}
	files := map[string]section{}
	tr := tar.NewReader(a.f)
	for members := 0; ; members++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return contentf("no uncompressed tar: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if members == maxTarMembers {
			return contentf("more than %d members", maxTarMembers)
		}
		if hdr.Typeflag != tar.TypeReg || isSparse(hdr) {
			continue
		}
		// The tar reader has read the header and nothing behind it.
		off, err := a.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if off+hdr.Size > info.Size() {
			return contentf("file ends within member %s", quoteName(hdr.Name))
		}
		files[path.Clean(hdr.Name)] = section{off, hdr.Size}
	}
	return a.load(files)
}

func isSparse(hdr *tar.Header) bool {
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// load makes sense of the members: what is not called like a part of a layout is ignored.
func (a *StoreArchive) load(files map[string]section) error {
	for name, sec := range files {
		alg, encoded, ok := strings.Cut(strings.TrimPrefix(name, ocispec.ImageBlobsDir+"/"), "/")
		if d := digest.NewDigestFromEncoded(digest.Algorithm(alg), encoded); ok && checkDigest(d) == nil {
			a.blobs[d] = sec
		}
	}
	layout, ok := files[ocispec.ImageLayoutFile]
	if !ok {
		return contentf("the tar holds no OCI image layout: no %s", ocispec.ImageLayoutFile)
	}
	raw, err := a.small(layout, maxErrorBody)
	if err != nil {
		return err
	}
	if err := checkLayoutFile(raw); err != nil {
		return err
	}
	if raw, err = a.small(files[ocispec.ImageIndexFile], MaxIndexBytes); err != nil {
		return err
	}
	a.index, err = parseIndex(raw)
	return err
}

func (a *StoreArchive) small(sec section, limit int64) ([]byte, error) {
	if sec.size > limit {
		return nil, contentf("metadata of %d bytes, the limit is %d", sec.size, limit)
	}
	return io.ReadAll(io.NewSectionReader(a.f, sec.off, sec.size))
}

// Resolve finds what a name leads to, as [Store.Resolve] does.
func (a *StoreArchive) Resolve(_ context.Context, name string) (ocispec.Descriptor, error) {
	desc, err := lookup(a.index, name)
	if d := digest.Digest(name); errors.Is(err, ErrNotFound) && checkDigest(d) == nil {
		if sec, ok := a.blobs[d]; ok {
			var raw []byte
			if raw, err = a.small(sec, MaxManifestBytes); err == nil {
				desc, err = describeManifest(d, raw)
			}
		}
	}
	return desc, opError("resolve in "+a.f.Name(), name, err)
}

// List tells all names, as [Store.List] does.
func (a *StoreArchive) List(ctx context.Context) ([]Named, error) {
	return describeAll(ctx, a, a.index), nil
}

// Exists tells whether a blob of this digest and size is there.
func (a *StoreArchive) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	sec, ok := a.blobs[desc.Digest]
	return ok && sec.size == desc.Size, nil
}

// Fetch opens a blob. The reader, which the caller closes, says io.EOF only if the content matches its digest.
func (a *StoreArchive) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := a.section(desc)
	if err != nil {
		return nil, err
	}
	return newVerifiedReader(io.NopCloser(r), desc), nil
}

// FetchFrom opens a blob at off, in bytes, without checking it against its digest.
func (a *StoreArchive) FetchFrom(_ context.Context, desc ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	r, err := a.section(desc)
	if err != nil {
		return nil, err
	}
	if _, err := r.Seek(off, io.SeekStart); err != nil {
		return nil, opError("read", a.f.Name(), err)
	}
	return io.NopCloser(r), nil
}

// OpenBlob opens a blob for random access, without checking it against its
// digest. It is good until the archive is closed.
func (a *StoreArchive) OpenBlob(_ context.Context, desc ocispec.Descriptor) (Blob, error) {
	r, err := a.section(desc)
	if err != nil {
		return nil, err
	}
	return sectionBlob{r}, nil
}

func (a *StoreArchive) section(desc ocispec.Descriptor) (*io.SectionReader, error) {
	sec, ok := a.blobs[desc.Digest]
	if !ok {
		return nil, &Error{Op: "read", Reference: a.f.Name(), Err: fmt.Errorf("%w: blob %s", ErrNotFound, desc.Digest)}
	}
	if sec.size != desc.Size {
		return nil, &Error{Op: "read", Reference: a.f.Name(), Err: contentf("blob %s: %d bytes, its descriptor says %d", desc.Digest, sec.size, desc.Size)}
	}
	return io.NewSectionReader(a.f, sec.off, sec.size), nil
}

// sectionBlob is a part of a file that somebody else closes.
type sectionBlob struct{ *io.SectionReader }

// Close does nothing.
func (sectionBlob) Close() error { return nil }

// WriteStoreArchive writes what ref leads to as an OCI image layout in a tar to w: the same content
// gives the same bytes. name is the name in the archive; empty for none. Every
// blob is checked while it is written; an error leaves w without a valid archive.
func WriteStoreArchive(ctx context.Context, w io.Writer, src oras.ReadOnlyTarget, ref, name string) (ocispec.Descriptor, error) {
	desc, err := src.Resolve(ctx, ref)
	if err != nil {
		return desc, err
	}
	return desc, opError("archive", ref, writeStoreArchive(ctx, w, src, desc, name))
}

func writeStoreArchive(ctx context.Context, w io.Writer, src oras.ReadOnlyTarget, desc ocispec.Descriptor, name string) error {
	all, err := graph(ctx, src, desc)
	if err != nil {
		return err
	}
	entry := plain(desc)
	entry.ArtifactType = desc.ArtifactType
	if name != "" {
		if err := CheckName(name); err != nil {
			return err
		}
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	}
	index, err := marshalIndex(&ocispec.Index{Manifests: []ocispec.Descriptor{entry}})
	if err != nil {
		return err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	if err := errors.Join(tarBytes(tw, ocispec.ImageLayoutFile, layout), tarBytes(tw, ocispec.ImageIndexFile, index)); err != nil {
		return err
	}
	blobs := all.blobs
	for _, m := range all.manifests {
		blobs = append(blobs, m.desc)
	}
	slices.SortFunc(blobs, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	for _, b := range blobs {
		if err := tarBlob(ctx, tw, src, b); err != nil {
			return err
		}
	}
	return tw.Close()
}

func tarHeader(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

func tarBytes(tw *tar.Writer, name string, raw []byte) error {
	if err := tw.WriteHeader(tarHeader(name, int64(len(raw)))); err != nil {
		return err
	}
	_, err := tw.Write(raw)
	return err
}

func tarBlob(ctx context.Context, tw *tar.Writer, src oras.ReadOnlyTarget, desc ocispec.Descriptor) error {
	rc, err := src.Fetch(ctx, desc)
	if err != nil {
		return missing(desc, err)
	}
	defer rc.Close() //nolint:errcheck // read side
	name := path.Join(ocispec.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded())
	if err := tw.WriteHeader(tarHeader(name, desc.Size)); err != nil {
		return err
	}
	_, err = io.Copy(tw, newVerifiedReader(io.NopCloser(contextReader{ctx, rc}), desc))
	return err
}
