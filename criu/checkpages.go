package criu

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

// Flags of a page map entry.
const (
	pageInParent = 1 << 0
	pagePresent  = 1 << 2
)

// checkPages compares every pages file with the page maps that describe it. CRIU
// itself reads beyond the end of a short one for ever.
func checkPages(ctx context.Context, dir string, names []string, pageBytes int64) (total int64, err error) {
	want := map[uint32]int64{} // pages by the number of the pages file
	for _, name := range names {
		if !strings.HasPrefix(name, "pagemap-") || !strings.HasSuffix(name, ".img") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		id, pages, err := readPagemap(dir, name, math.MaxInt64/pageBytes)
		if err != nil {
			return 0, err
		}
		if want[id] > math.MaxInt64/pageBytes-pages {
			return 0, imageError(name, "page count overflows")
		}
		want[id] += pages
	}
	for id, pages := range want {
		name := fmt.Sprintf("pages-%d.img", id)
		fi, err := os.Lstat(filepath.Join(dir, name))
		if os.IsNotExist(err) && pages == 0 {
			continue
		}
		if err != nil {
			return 0, missing(name, err)
		}
		if !fi.Mode().IsRegular() {
			return 0, imageError(name, "not a regular file")
		}
		if fi.Size() != pages*pageBytes {
			return 0, imageError(name, "%d bytes, its page maps say %d pages of %d bytes", fi.Size(), pages, pageBytes)
		}
		total += fi.Size()
	}
	return total, nil
}

// readPagemap gives which pages file a page map belongs to and how many pages it
// says are in there, at most limit.
func readPagemap(dir, name string, limit int64) (id uint32, pages int64, err error) {
	f, size, err := openImage(dir, name)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close() //nolint:errcheck // read side
	first := true
	var head pagemap.PagemapHead
	var e pagemap.PagemapEntry
	var end uint64
	err = walkImage(f, name, size, magicPagemap, func(b []byte) error {
		if first {
			first = false
			if err := proto.Unmarshal(b, &head); err != nil {
				return imageError(name, "head: %w", err)
			}
			return nil
		}
		e.Reset()
		if err := proto.Unmarshal(b, &e); err != nil {
			return imageError(name, "entry: %w", err)
		}
		n := e.GetNrPages()
		if e.NrPages == nil {
			n = uint64(e.GetCompatNrPages())
		}
		// Addresses ascend; a span of pages that wraps around is a lie.
		if n > uint64(limit) || e.GetVaddr() < end || e.GetVaddr() > math.MaxUint64-n*4096 { //nolint:gosec // limit is positive
			return imageError(name, "entry at %#x with %d pages: out of order or too many", e.GetVaddr(), n)
		}
		end = e.GetVaddr() + n*4096
		if !inPagesFile(&e) {
			return nil
		}
		if pages > limit-int64(n) { //nolint:gosec // at most limit
			return imageError(name, "page count overflows")
		}
		pages += int64(n) //nolint:gosec // at most limit
		return nil
	})
	if err == nil && first {
		err = imageError(name, "empty image")
	}
	return head.GetPagesId(), pages, err
}

// inPagesFile tells whether the pages of an entry are in the pages file, not in a parent's.
func inPagesFile(e *pagemap.PagemapEntry) bool {
	if e.Flags == nil {
		return !e.GetInParent()
	}
	return e.GetFlags()&pagePresent != 0 && e.GetFlags()&pageInParent == 0
}
