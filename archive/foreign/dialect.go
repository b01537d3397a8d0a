package foreign

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// Podman and CRI-O list deletions in deleted.files and know no whiteouts; containerd has whiteouts
// in the tar and knows no list. Told in both ways, and with the whiteouts themselves in the list,
// each of them restores the same tree: see docs/formats.md.
const whiteoutPrefix = ".wh."

// maxWhiteouts bounds the deletions that are translated.
const maxWhiteouts = 1_000_000

// maxDirectories bounds those that are noted of a root file system's changes.
const maxDirectories = 1_000_000

// opaqueMark is the whiteout of everything in its directory.
const opaqueMark = whiteoutPrefix + whiteoutPrefix + ".opq"

// translate tells the deletions of a foreign root file system difference in both dialects, and in it the permissions of
// the root directory where they are known.
func (c *converted) translate(ctx context.Context, open OpenFunc, opts ConvertOptions) error {
	// containerd's client makes of a whiteout a node of an overlay, in which nothing can be made.
	overlay := opts.Target == ForClient
	listed, seen, err := c.deletions(ctx, open, overlay)
	if err != nil {
		return err
	}
	root := opts.RootMode
	if seen.root {
		root = 0 // it is told already
	}
	add, err := c.deleted(listed, seen.whiteouts)
	if err != nil || len(add) == 0 && root == 0 {
		return err
	}
	opaque := func(name string) bool { return overlay && seen.dirs[name] }
	return c.prepend(ctx, open, func(packing archive.Compression) ([]byte, error) { return beginning(root, add, opaque, packing) })
}

// deleted lists all deletions in deleted.files and gives those that the tar lacks.
func (c *converted) deleted(listed, found []string) ([]string, error) {
	if len(listed)+len(found) == 0 {
		return nil, nil
	}
	if len(listed) > 2*maxWhiteouts { // with their whiteouts
		return nil, tooMany()
	}
	inTar := setOf(found)
	add := []string{} // deletions that the tar lacks
	for _, name := range listed {
		clean := strings.TrimPrefix(path.Clean("/"+name), "/")
		if clean != "" && !strings.HasPrefix(path.Base(clean), whiteoutPrefix) && !inTar[clean] {
			add = append(add, clean)
		}
	}
	all := slices.Clone(listed)
	told := setOf(listed)
	for _, name := range slices.Concat(found, add) {
		for _, want := range []string{"/" + name, "/" + mark(name)} {
			if !told[want] {
				all = append(all, want)
				told[want] = true
			}
		}
	}
	raw, err := json.Marshal(all)
	c.replaced[archive.DeletedFiles] = append(raw, '\n')
	return add, err
}

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

func tooMany() error {
	return fmt.Errorf("%w: more than %d deletions", archive.ErrRejected, maxWhiteouts)
}

// mark is the whiteout of a name.
func mark(name string) string {
	return path.Join(path.Dir(name), whiteoutPrefix+path.Base(name))
}

// seen is what a difference of a root file system tells.
type seen struct {
	whiteouts []string        // the names that it deletes
	root      bool            // the root directory is in it, as an entry that engines apply
	dirs      map[string]bool // the directories that are in it or have something in it
}

// note takes an entry for a directory that is there, or in one.
func (s *seen) note(name string, kind byte) error {
	if kind != tar.TypeDir {
		name = path.Dir(name)
	}
	for ; s.dirs != nil && name != "." && !s.dirs[name]; name = path.Dir(name) {
		if s.dirs[name] = true; len(s.dirs) > maxDirectories {
			return fmt.Errorf("%w: more than %d directories", archive.ErrRejected, maxDirectories)
		}
	}
	return nil
}

// deletions reads what deleted.files lists, and what is in the tar; dirs says that its directories are wanted.
func (c *converted) deletions(ctx context.Context, open OpenFunc, dirs bool) (listed []string, found seen, err error) {
	err = visit(ctx, open, func(e archive.Entry, r io.Reader) error {
		switch e.Name {
		case archive.DeletedFiles:
			raw, err := io.ReadAll(io.LimitReader(r, archive.MaxJSONBytes+1))
			if err != nil {
				return err
			}
			return archive.DecodeJSON(archive.DeletedFiles, raw, &listed)
		case archive.RootfsDiff:
			found, err = look(ctx, r, dirs)
			return err
		}
		return nil
	})
	return listed, found, err
}

// visit shows the entries of a source.
func visit(ctx context.Context, open OpenFunc, show func(archive.Entry, io.Reader) error) (err error) {
	src, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := show(e, archive.ContextReader(ctx, r)); err != nil {
			return &archive.EntryError{Op: "read", Name: e.Name, Err: err}
		}
	}
}

// look reads a difference, and notes its directories if they are wanted. An opaque mark has no counterpart in a list.
func look(ctx context.Context, r io.Reader, dirs bool) (found seen, err error) {
	if dirs {
		found.dirs = map[string]bool{}
	}
	plain, _, err := archive.Decompress(r)
	if err != nil {
		return found, err
	}
	defer plain.Close() //nolint:errcheck // read only
	for t := tar.NewReader(archive.ContextReader(ctx, plain)); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if ctx.Err() != nil {
			return found, context.Cause(ctx)
		}
		if err != nil {
			return found, fmt.Errorf("%w: %w", archive.ErrRejected, err)
		}
		found.root = found.root || h.Name == rootEntry
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		base, ok := strings.CutPrefix(path.Base(name), whiteoutPrefix)
		if !ok || base == "" {
			if err := found.note(path.Clean(name), h.Typeflag); err != nil {
				return found, err
			}
			continue
		}
		if strings.HasPrefix(base, whiteoutPrefix) {
			return found, fmt.Errorf("%w: %s hides a whole directory: Podman and CRI-O have no word for that", archive.ErrRejected, archive.QuoteName(h.Name))
		}
		if found.whiteouts = append(found.whiteouts, path.Join(path.Dir(name), base)); len(found.whiteouts) > maxWhiteouts {
			return found, tooMany()
		}
	}
}

// rootEntry is the name under which containers/storage applies the root directory: "." it passes over.
const rootEntry = "/"

// prepend puts a beginning before the tar, which is packed as it is.
func (c *converted) prepend(ctx context.Context, open OpenFunc, begin func(archive.Compression) ([]byte, error)) error {
	return visit(ctx, open, func(e archive.Entry, r io.Reader) error {
		if e.Name != archive.RootfsDiff {
			return nil
		}
		first := make([]byte, sniffBytes)
		n, err := io.ReadFull(r, first)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		packing, err := archive.Sniff(first[:n])
		if err != nil {
			return err
		}
		if c.prefix, err = begin(packing); err != nil {
			return err
		}
		sum := sha256.New()
		size, err := io.Copy(sum, io.MultiReader(bytes.NewReader(c.prefix), bytes.NewReader(first[:n]), r))
		if err != nil {
			return err
		}
		c.list(archive.Member{Name: e.Name, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))})
		return nil
	})
}

// sniffBytes tell a compression.
const sniffBytes = 32

// beginning is that of a tar, with the root directory, unless its permissions are 0, and whiteouts: what is in the tar afterwards
// is there again. An opaque name is a directory again, of which only what is in the tar is there.
func beginning(root fs.FileMode, names []string, opaque func(name string) bool, c archive.Compression) ([]byte, error) {
	var b bytes.Buffer
	packer, err := archive.Compress(&b, c)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(packer)
	put := func(kind byte, name string, mode fs.FileMode) error {
		return w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Mode: int64(mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	}
	if root != 0 {
		err = put(tar.TypeDir, rootEntry, root)
	}
	for _, name := range names {
		if opaque(name) {
			err = errors.Join(err, put(tar.TypeDir, name+"/", 0o755), put(tar.TypeReg, path.Join(name, opaqueMark), memberMode))
		} else {
			err = errors.Join(err, put(tar.TypeReg, mark(name), memberMode))
		}
	}
	if err := errors.Join(err, w.Flush(), packer.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
