package artifact

import (
	"archive/tar"
	"context"
	"errors"
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
