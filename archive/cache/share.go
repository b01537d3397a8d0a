package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// Share makes the directory dst with all that the unpacked checkpoint src holds. What a restore only
// reads, memory and tar files, is one file in both: a copy, even one that shares its blocks, would have a page
// cache of its own. Everything else is copied, because a restore changes images before CRIU reads
// them. So memory in dst must not be freed while it is restored.
func Share(ctx context.Context, dst, src string) error {
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, name)
		switch {
		case d.IsDir():
			return os.Mkdir(to, 0o700)
		case !d.Type().IsRegular():
			return fmt.Errorf("%w: %s is no regular file", archive.ErrRejected, archive.QuoteName(name))
		case onlyRead(name) && os.Link(path, to) == nil: //nolint:gosec // both directories are their owner's alone
			return nil
		}
		return copyFile(to, path)
	})
	if err != nil {
		return fmt.Errorf("share %q as %q: %w", src, dst, err)
	}
	return nil
}

// onlyRead tells whether no restore changes the member.
func onlyRead(name string) bool {
	return archive.IsPages(filepath.ToSlash(name)) || strings.Contains(filepath.Base(name), ".tar")
}

// copyFile copies a file with its time; on file systems that can, without its blocks.
func copyFile(dst, src string) (err error) {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // read only
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
	}
	return os.Chtimes(dst, info.ModTime(), info.ModTime())
}
