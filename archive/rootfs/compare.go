package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// comparison tells whether files of two views are the same.
type comparison struct {
	bufA, bufB []byte
	pairs      map[fileID]fileID // hard-linked files: base to current
	back       map[fileID]fileID // and the other way
}

func newComparison() *comparison {
	return &comparison{pairs: map[fileID]fileID{}, back: map[fileID]fileID{}}
}

// same tells whether nothing that a difference can carry has changed between two
// nodes. For directories the time does not count, for what changes in them
// is seen in their entries; for files it decides whether content is read.
func (c *comparison) same(ctx context.Context, base, current *node) (bool, error) {
	a, b := base.attr, current.attr
	if a.mode != b.mode || a.uid != b.uid || a.gid != b.gid {
		return false, nil
	}
	if ok, err := sameXattrs(base.places[0], current.places[0]); err != nil || !ok {
		return false, err
	}
	switch a.kind() {
	case unix.S_IFDIR:
		return true, nil
	case unix.S_IFCHR, unix.S_IFBLK:
		return a.major == b.major && a.minor == b.minor && c.sameLinks(a, b), nil
	case unix.S_IFLNK:
		ta, err := base.places[0].tree.readlink(base.places[0].name)
		if err != nil {
			return false, err
		}
		tb, err := current.places[0].tree.readlink(current.places[0].name)
		return ta == tb && c.sameLinks(a, b), err
	case unix.S_IFREG:
		if a.size != b.size || !c.sameLinks(a, b) {
			return false, nil
		}
		if a.mtime.Equal(b.mtime) {
			return true, nil
		}
		return c.sameContent(ctx, base, current)
	}
	return c.sameLinks(a, b), nil
}

// sameLinks tells whether two files belong to the same group of hard links as far
// as was seen: names that shared a file must share one still, and no others.
func (c *comparison) sameLinks(base, current attr) bool {
	if base.nlink < 2 && current.nlink < 2 {
		return true
	}
	other, ok := c.pairs[base.id]
	if !ok {
		c.pairs[base.id] = current.id
		other = current.id
	}
	origin, ok := c.back[current.id]
	if !ok {
		c.back[current.id] = base.id
		origin = base.id
	}
	return other == current.id && origin == base.id
}

func sameXattrs(a, b place) (bool, error) {
	xa, err := a.tree.xattrs(a.name)
	if err != nil {
		return false, err
	}
	xb, err := b.tree.xattrs(b.name)
	return maps.Equal(xa, xb), err
}

// sameContent compares two regular files of one size byte by byte.
func (c *comparison) sameContent(ctx context.Context, base, current *node) (bool, error) {
	if c.bufA == nil {
		c.bufA, c.bufB = make([]byte, copyBufferBytes), make([]byte, copyBufferBytes)
	}
	fa, err := base.data.tree.open(base.data.name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer fa.Close() //nolint:errcheck // read only
	fb, err := current.data.tree.open(current.data.name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer fb.Close() //nolint:errcheck // read only
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		na, endA, err := readFull(fa, c.bufA)
		if err != nil {
			return false, fmt.Errorf("compare %s: %w", archive.QuoteName(containerPath(base.name)), err)
		}
		nb, endB, err := readFull(fb, c.bufB)
		if err != nil {
			return false, fmt.Errorf("compare %s: %w", archive.QuoteName(containerPath(base.name)), err)
		}
		if !bytes.Equal(c.bufA[:na], c.bufB[:nb]) || endA != endB {
			return false, nil
		}
		if endA {
			return true, nil
		}
	}
}

// readFull fills buf or reaches the end.
func readFull(f *os.File, buf []byte) (n int, end bool, err error) {
	n, err = io.ReadFull(f, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, true, nil
	}
	return n, false, err
}
