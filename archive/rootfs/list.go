package rootfs

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
)

// What a [Listed] name is.
const (
	KindFile     = "file"
	KindDir      = "directory"
	KindLink     = "link"
	KindHardLink = "hard link"
	KindFIFO     = "fifo"
	KindChar     = "character device"
	KindBlock    = "block device"
	KindDeleted  = "deleted" // gone from the base
	KindOpaque   = "opaque"  // a directory of which nothing of the base is left
)

// Listed is an entry of a difference.
type Listed struct {
	Path     string // in the container
	Kind     string // one of the kinds above
	Mode     uint32 // permissions with set-uid, set-gid and sticky
	UID, GID int
	Size     int64             // bytes of content
	Target   string            // of a link; of a hard link a path in the container
	Device   string            // MAJOR:MINOR
	Xattrs   [sha256.Size]byte // of the extended attributes; zeros without any
	Sum      [sha256.Size]byte // SHA-256 of the content of a file
}

// List reads a difference to its end and gives its entries to f in their order. It rejects what [Check] rejects,
// except devices. The caller owns r.
func List(ctx context.Context, r io.Reader, f func(Listed) error) error {
	err := each(ctx, r, func(e entry, s *stream) error {
		l, err := listed(e, s)
		if err != nil {
			return err
		}
		return f(l)
	})
	if err != nil {
		return fmt.Errorf("list root file system difference: %w", err)
	}
	return nil
}

// listed describes an entry, whose content is read from the stream.
func listed(e entry, s *stream) (Listed, error) {
	h := e.header
	l := Listed{Path: containerPath(e.name)}
	switch {
	case e.whiteout:
		l.Kind = KindDeleted
		return l, nil
	case e.opaque:
		l.Kind = KindOpaque
		return l, nil
	}
	l.Mode, l.UID, l.GID, l.Size = uint32(h.Mode)&0o7777, h.Uid, h.Gid, h.Size //nolint:gosec // masked
	l.Xattrs = sumXattrs(e.xattrs)
	switch h.Typeflag {
	case tar.TypeDir:
		l.Kind = KindDir
	case tar.TypeSymlink:
		l.Kind, l.Target, l.Mode = KindLink, h.Linkname, 0 // links have none
	case tar.TypeLink:
		// Its attributes are those of the name that it links to.
		return Listed{Path: l.Path, Kind: KindHardLink, Target: containerPath(e.target)}, nil
	case tar.TypeFifo:
		l.Kind = KindFIFO
	case tar.TypeChar, tar.TypeBlock:
		l.Kind, l.Device = KindChar, fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		if h.Typeflag == tar.TypeBlock {
			l.Kind = KindBlock
		}
	default:
		l.Kind = KindFile
		sum := sha256.New()
		if _, err := io.Copy(sum, s.tr); err != nil {
			return l, s.explain(err)
		}
		sum.Sum(l.Sum[:0])
	}
	return l, nil
}

func sumXattrs(xattrs map[string]string) (sum [sha256.Size]byte) {
	if len(xattrs) == 0 {
		return sum
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		_, _ = fmt.Fprintf(h, "%q=%q\n", name, xattrs[name])
	}
	h.Sum(sum[:0])
	return sum
}
