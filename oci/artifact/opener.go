package artifact

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
)

// blob is content with random access.
type blob = interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// blobOpener is a fetcher that gives random access.
type blobOpener interface {
	OpenBlob(ctx context.Context, desc ocispec.Descriptor) (blob, error)
}

// Opener gives access to members by name, without reading the layer: only
// where that is uncompressed and the fetcher gives random access. Else ok is
// false and reading in order is the way. What it gives cannot be checked against
// the digest of the layer; who must be sure reads all with Next. ctx is for all
// reads; the caller closes the opener.
func (i *Image) Opener(ctx context.Context) (_ *Opener, ok bool, err error) {
	from, ok := i.fetcher.(blobOpener)
	if !ok || i.Layer().MediaType != ocispec.MediaTypeImageLayer {
		return nil, false, nil
	}
	b, err := from.OpenBlob(ctx, i.Layer())
	if err != nil {
		return nil, true, err
	}
	o := &Opener{layer: b, places: map[string]int64{}}
	if err := o.scan(ctx); err != nil {
		return nil, true, errors.Join(fmt.Errorf("image %s: %w", i.desc.Digest, err), b.Close())
	}
	return o, true, nil
}

// Opener is random access to an uncompressed layer.
type Opener struct {
	layer   blob
	entries []archive.Entry
	places  map[string]int64 // where the content of a file begins
}

var _ archive.Opener = (*Opener)(nil)

// scan reads the headers and jumps over the content.
func (o *Opener) scan(ctx context.Context) error {
	w := newWalker(io.NewSectionReader(o.layer, 0, o.layer.Size()))
	for {
		e, err := w.next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// archive/tar has read the header and nothing behind it.
		if o.places[e.Name], err = w.layer.Seek(0, io.SeekCurrent); err != nil {
			return err
		}
		o.entries = append(o.entries, e)
	}
}

// walker goes from header to header of an uncompressed layer.
type walker struct {
	layer io.ReadSeeker
	tar   *tar.Reader // jumps over what is not read of a member
	names map[string]bool
}

func newWalker(layer io.ReadSeeker) *walker {
	return &walker{layer: layer, tar: tar.NewReader(layer), names: map[string]bool{}}
}

// next gives the next member, whose content the tar reader is at.
func (w *walker) next(ctx context.Context) (archive.Entry, error) {
	var e archive.Entry
	for {
		if ctx.Err() != nil {
			return e, context.Cause(ctx)
		}
		h, err := w.tar.Next()
		if errors.Is(err, io.EOF) {
			return e, io.EOF
		}
		if err != nil {
			return e, headerError(err)
		}
		if h.Typeflag == tar.TypeDir && (h.Name == "./" || h.Name == ".") {
			continue
		}
		e = archive.Entry{Kind: archive.KindFile, Size: h.Size, Mode: h.FileInfo().Mode().Perm(), ModTime: h.ModTime}
		if e.Name, err = archive.CleanName(h.Name); err != nil {
			return e, err
		}
		switch {
		case h.Typeflag == tar.TypeDir:
			e.Kind, e.Size = archive.KindDir, 0
		case h.Typeflag != tar.TypeReg || sparse(h):
			return e, rejectf("%s: only regular files and directories are allowed", archive.QuoteName(e.Name))
		}
		if w.names[e.Name] || len(w.names) == archive.MaxEntries {
			return e, rejectf("%s: the name occurs twice, or there are more than %d", archive.QuoteName(e.Name), archive.MaxEntries)
		}
		w.names[e.Name] = true
		return e, nil
	}
}

// headerError tells a damaged layer from one that cannot be read.
func headerError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return rejectf("tar: %w", err)
	}
	return err
}

func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Entries implements [archive.Opener].
func (o *Opener) Entries(context.Context) ([]archive.Entry, error) {
	return append([]archive.Entry(nil), o.entries...), nil
}

// Open implements [archive.Opener]. The blob is good until the opener is closed.
func (o *Opener) Open(_ context.Context, name string) (archive.Blob, error) {
	for _, e := range o.entries {
		if e.Name == name && e.Kind == archive.KindFile {
			return member{io.NewSectionReader(o.layer, o.places[name], e.Size)}, nil
		}
	}
	return nil, &archive.EntryError{Op: "open", Name: name, Err: archive.ErrNotFound}
}

// Close releases the layer.
func (o *Opener) Close() error { return o.layer.Close() }

// member is a part of the layer.
type member struct{ *io.SectionReader }

// Close does nothing: the layer belongs to the opener.
func (member) Close() error { return nil }
