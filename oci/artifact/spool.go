package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ckarchive/ckarchive/archive"
)

// spooled is content in a file that has no name any more.
type spooled struct {
	*os.File
	size int64
}

// Size is the length in bytes.
func (s *spooled) Size() int64 { return s.size }

// spool reads r to its end, for random access. The caller closes the blob.
func spool(ctx context.Context, r io.Reader) (_ archive.Blob, err error) {
	f, err := os.CreateTemp("", "ckarchive-*")
	if err != nil {
		return nil, err
	}
	if err = os.Remove(f.Name()); err == nil {
		var n int64
		if n, err = io.Copy(f, archive.ContextReader(ctx, r)); err == nil {
			return &spooled{f, n}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("spool: %w", err), f.Close())
}
