package signature

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
)

// FileSuffix is what the name of a file's signature has behind the name of the file.
const FileSuffix = ".sig"

// SignFile gives the signature of the file path.
func SignFile(ctx context.Context, path string, key *PrivateKey) ([]byte, error) {
	sum, err := hashFile(ctx, path)
	if err != nil {
		return nil, err
	}
	text, err := key.sign(sum)
	return []byte(text + "\n"), err
}

// VerifyFile compares the file path with its signature, which lies beside it, and gives the key of keys that made
// it. Without one it is an [ErrUnsigned].
func VerifyFile(ctx context.Context, path string, keys []*PublicKey) (*PublicKey, error) {
	raw, err := readFile(path + FileSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%q: %w: there is no %q", path, ErrUnsigned, path+FileSuffix)
	}
	if err != nil {
		return nil, err
	}
	sum, err := hashFile(ctx, path)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if key.verify(sum, strings.TrimSpace(string(raw))) {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%q: %w: %q is a signature of another key or of another file", path, ErrUnsigned, path+FileSuffix)
}

func hashFile(ctx context.Context, path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return sum, fmt.Errorf("open %q: %w", path, archive.ErrNotFound)
	}
	if err != nil {
		return sum, err
	}
	defer f.Close() //nolint:errcheck // read only
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return sum, errors.Join(err, fmt.Errorf("%q is no regular file: only those have signatures beside them", path))
	}
	const piece = 16 << 20
	for h := sha256.New(); ; {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		_, err := io.CopyN(h, f, piece)
		if errors.Is(err, io.EOF) {
			return [sha256.Size]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}
