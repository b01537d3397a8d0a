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

// translate tells the deletions of a foreign root file system difference in both dialects.
func (c *converted) translate(ctx context.Context, open OpenFunc) error {
	listed, found, err := c.deletions(ctx, open)
	if err != nil || len(listed)+len(found) == 0 {
		return err
	}
	all := slices.Clone(listed)
	add := []string{} // deletions that the tar lacks
	for _, name := range listed {
		clean := strings.TrimPrefix(path.Clean("/"+name), "/")
		if clean != "" && !strings.HasPrefix(path.Base(clean), whiteoutPrefix) && !slices.Contains(found, clean) {
			add = append(add, clean)
		}
	}
	for _, name := range slices.Concat(found, add) {
		for _, want := range []string{"/" + name, "/" + mark(name)} {
			if !slices.Contains(all, want) {
				all = append(all, want)
			}
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	c.replaced[archive.DeletedFiles] = append(raw, '\n')
	if len(add) == 0 {
		return nil
	}
	return c.prepend(ctx, open, add)
}

// mark is the whiteout of a name.
func mark(name string) string {
	return path.Join(path.Dir(name), whiteoutPrefix+path.Base(name))
}

// deletions reads what deleted.files lists, and which whiteouts are in the tar.
func (c *converted) deletions(ctx context.Context, open OpenFunc) (listed, found []string, err error) {
	err = visit(ctx, open, func(e archive.Entry, r io.Reader) error {
		switch e.Name {
		case archive.DeletedFiles:
			raw, err := io.ReadAll(io.LimitReader(r, archive.MaxJSONBytes+1))
			if err != nil {
				return err
			}
			return archive.DecodeJSON(archive.DeletedFiles, raw, &listed)
		case archive.RootfsDiff:
			found, err = whiteouts(r)
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
		if err := show(e, r); err != nil {
			return &archive.EntryError{Op: "read", Name: e.Name, Err: err}
		}
	}
}

// whiteouts gives the names that a difference deletes. An opaque mark has no counterpart in a list.
func whiteouts(r io.Reader) ([]string, error) {
	plain, _, err := archive.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close() //nolint:errcheck // read only
	found := []string{}
	for t := tar.NewReader(plain); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", archive.ErrRejected, err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		base, ok := strings.CutPrefix(path.Base(name), whiteoutPrefix)
		if !ok || base == "" {
			continue
		}
		if strings.HasPrefix(base, whiteoutPrefix) {
			return nil, fmt.Errorf("%w: %s hides a whole directory: Podman and CRI-O have no word for that", archive.ErrRejected, archive.QuoteName(h.Name))
		}
		if found = append(found, path.Join(path.Dir(name), base)); len(found) > maxWhiteouts {
			return nil, fmt.Errorf("%w: more than %d deletions", archive.ErrRejected, maxWhiteouts)
		}
	}
}

// prepend puts whiteouts before the tar: what is in it afterwards is there again.
func (c *converted) prepend(ctx context.Context, open OpenFunc, names []string) error {
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
		if c.prefix, err = whiteoutTar(names, packing); err != nil {
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

// whiteoutTar is the beginning of a tar.
func whiteoutTar(names []string, c archive.Compression) ([]byte, error) {
	var b bytes.Buffer
	packer, err := archive.Compress(&b, c)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(packer)
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: mark(name), Mode: memberMode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Flush(), packer.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
