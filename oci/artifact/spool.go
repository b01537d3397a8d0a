package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ckarchive/ckarchive/archive"
)

// spooled is content in a file that has no name.
type spooled struct {
	*os.File
	size int64
}

// Size is the length in bytes.
func (s *spooled) Size() int64 { return s.size }

// spool reads r to its end, for random access. The caller closes the blob.
func spool(ctx context.Context, r io.Reader) (archive.Blob, error) {
	f, err := archive.CreateUnnamed("")
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, archive.ContextReader(ctx, r))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %w", err), f.Close())
	}
	return &spooled{f, n}, nil
}
