package criu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// The magic numbers of those images that are read here. An image of version
// 1.1 begins with one of the first two, then comes that of its kind.
const (
	magicCommon    uint32 = 0x54564319
	magicService   uint32 = 0x55105940
	magicInventory uint32 = 1479618838
	magicPstree    uint32 = 1344745520
	magicCore      uint32 = 1426405447
	magicMM        uint32 = 1464412192
	magicPagemap   uint32 = 1443381285
	magicMounts    uint32 = 1431714088
	magicCgroup    uint32 = 1496855344
	magicIDs       uint32 = 1413685296
	magicFdinfo    uint32 = 1445017394
	magicFiles     uint32 = 1445998904
	magicFS        uint32 = 1363163410
	magicStats     uint32 = 1460220678
	magicNetNS     uint32 = 1435711314
	magicPIDNS     uint32 = 1628795686
	magicCPUInfo   uint32 = 0x61404013
	magicSeccomp   uint32 = 1681993801
	magicUserns    uint32 = 1430735110
	magicGhost     uint32 = 1381512709
	magicRemaps    uint32 = 0x59133954
)

// Limits of images that are parsed. Memory is taken for what a file holds, never for what it claims.
const (
	// MaxImageEntryBytes is the length of one entry of an image.
	MaxImageEntryBytes = 32 << 20
	// MaxImageEntries is the number of entries that are kept of one image.
	MaxImageEntries = 1 << 18
	// MaxImageBytes is the size of an image that is parsed, other than a page map.
	MaxImageBytes = 64 << 20
)

// imageError is input that is damaged or unsafe; it names the file and the rule.
func imageError(name, format string, args ...any) error {
	return &archive.EntryError{
		Op: "check", Name: archive.Image(name),
		Err: fmt.Errorf("%w: %w", archive.ErrRejected, fmt.Errorf(format, args...)),
	}
}

// openImage opens a file of an image directory for reading: a regular file,
// no link, inside the directory. The caller closes it.
func openImage(dir, name string) (*os.File, int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, 0, err
	}
	defer root.Close() //nolint:errcheck // read side
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = imageError(name, "not a regular file")
	}
	if err != nil {
		f.Close() //nolint:errcheck // read side
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// readImageFile reads a small file of an image directory whole.
func readImageFile(dir, name string) ([]byte, error) {
	f, size, err := openImage(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read side
	if size > MaxImageBytes {
		return nil, imageError(name, "%d bytes, the limit is %d", size, MaxImageBytes)
	}
	return io.ReadAll(io.LimitReader(f, size))
}

// walkImage reads an image of size bytes and gives its entries to f one after
// another; the slice is f's until it returns. r is read to its end.
func walkImage(r io.Reader, name string, size int64, magic uint32, f func(entry []byte) error) error {
	br := bufio.NewReaderSize(r, 64<<10)
	var word [4]byte
	next := func() (uint32, error) {
		if _, err := io.ReadFull(br, word[:]); err != nil {
			return 0, err
		}
		size -= 4
		return binary.LittleEndian.Uint32(word[:]), nil
	}
	got, err := next()
	if err == nil && (got == magicCommon || got == magicService) {
		got, err = next()
	}
	if err != nil {
		return imageError(name, "no image: shorter than its magic number")
	}
	if got != magic {
		return imageError(name, "magic number %#x, want %#x", got, magic)
	}
	var buf []byte
	for {
		length, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return imageError(name, "cut within the size of an entry")
		}
		if int64(length) > size || length > MaxImageEntryBytes {
			return imageError(name, "entry of %d bytes where %d are left, the limit is %d", length, max(size, 0), MaxImageEntryBytes)
		}
		if uint32(cap(buf)) < length { //nolint:gosec // cap is at most the limit above
			buf = make([]byte, length)
		}
		buf = buf[:length]
		if _, err := io.ReadFull(br, buf); err != nil {
			return imageError(name, "cut within an entry")
		}
		size -= int64(length)
		if err := f(buf); err != nil {
			return err
		}
	}
}

// message is a pointer to a protobuf message of type T.
type message[T any] interface {
	*T
	proto.Message
}

// readEntries reads an image whole.
func readEntries[T any, P message[T]](dir, name string, magic uint32) ([]P, error) {
	f, size, err := openImage(dir, name)
	if err != nil {
		return nil, missing(name, err)
	}
	defer f.Close() //nolint:errcheck // read side
	if size > MaxImageBytes {
		return nil, imageError(name, "%d bytes, the limit is %d", size, MaxImageBytes)
	}
	var entries []P
	err = walkImage(f, name, size, magic, func(b []byte) error {
		if len(entries) == MaxImageEntries {
			return imageError(name, "more than %d entries", MaxImageEntries)
		}
		p := P(new(T))
		if err := proto.Unmarshal(b, p); err != nil {
			return imageError(name, "entry %d: %w", len(entries), err)
		}
		entries = append(entries, p)
		return nil
	})
	return entries, err
}

// readEntry reads an image that must have an entry, and gives the first.
func readEntry[T any, P message[T]](dir, name string, magic uint32) (P, error) {
	entries, err := readEntries[T, P](dir, name, magic)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, imageError(name, "empty image")
	}
	return entries[0], nil
}

// missing makes the absence of an image a rejection that still is an [os.ErrNotExist].
func missing(name string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return imageError(name, "image is missing: %w", os.ErrNotExist)
	}
	return err
}

// listImages gives the names of the files in an image directory, sorted. Apart from the links
// that are named it may hold nothing but files and directories.
func listImages(dir string, links ...string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	if len(entries) > archive.MaxEntries {
		return nil, fmt.Errorf("%w: %d images, the limit is %d", archive.ErrRejected, len(entries), archive.MaxEntries)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !e.Type().IsRegular() && !e.IsDir() && !slices.Contains(links, e.Name()) {
			return nil, imageError(e.Name(), "not a regular file")
		}
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
