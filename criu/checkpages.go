package criu

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

// Flags of a page map entry.
const (
	pageInParent = 1 << 0
	pagePresent  = 1 << 2
)

// checkPages compares pages files with the page maps that describe them. CRIU
// itself reads beyond the end of a short one for ever. Page maps of tasks that
// are not in the tree are leftovers of an earlier dump into the same directory;
// they are never read.
func checkPages(ctx context.Context, dir string, names []string, pids map[uint32]bool, pageBytes int64, taken map[string]int64) (total int64, err error) {
	counted := map[uint32]bool{} // pages files
	for _, exact := range []bool{true, false} {
		for _, name := range names {
			if isTaskPagemap(name, pids) != exact || !exact && !isSharedPagemap(name) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			id, pages, err := readPagemap(dir, name, math.MaxInt64/pageBytes)
			if err != nil {
				return 0, err
			}
			size, err := pagesSize(dir, id, pages, taken)
			if err != nil {
				return 0, err
			}
			// A leftover map of shared memory may name the pages file of another.
			if size < pages*pageBytes || size > pages*pageBytes && (exact || !counted[id]) {
				return 0, imageError(pagesName(id), "%d bytes, %s says %d pages of %d bytes", size, name, pages, pageBytes)
			}
			if !counted[id] {
				counted[id] = true
				total += size
			}
		}
	}
	return total, nil
}

func pagesName(id uint32) string { return fmt.Sprintf("pages-%d.img", id) }

// pagesSize gives the size of a pages file in bytes. It may be missing when nothing is in it.
func pagesSize(dir string, id uint32, pages int64, taken map[string]int64) (int64, error) {
	name := pagesName(id)
	if size, ok := taken[name]; ok {
		return size, nil
	}
	fi, err := os.Lstat(filepath.Join(dir, name))
	switch {
	case os.IsNotExist(err) && pages == 0:
		return 0, nil
	case err != nil:
		return 0, missing(name, err)
	case !fi.Mode().IsRegular():
		return 0, imageError(name, "not a regular file")
	default:
		return fi.Size(), nil
	}
}

func isSharedPagemap(name string) bool {
	return strings.HasPrefix(name, "pagemap-shmem-") && strings.HasSuffix(name, ".img")
}

// isTaskPagemap tells whether an image is the page map of one of the tasks.
func isTaskPagemap(name string, pids map[uint32]bool) bool {
	s, ok := strings.CutPrefix(name, "pagemap-")
	if !ok {
		return false
	}
	pid, err := strconv.ParseUint(strings.TrimSuffix(s, ".img"), 10, 32)
	return err == nil && strings.HasSuffix(s, ".img") && pids[uint32(pid)]
}

// readPagemap gives which pages file a page map belongs to and how many pages it
// says are in there, at most limit.
func readPagemap(dir, name string, limit int64) (id uint32, pages int64, err error) {
	id, err = walkPagemap(dir, name, limit, func(e *pagemap.PagemapEntry, n uint64) error {
		if !inPagesFile(e) {
			return nil
		}
		if pages > limit-int64(n) { //nolint:gosec // at most limit
			return imageError(name, "page count overflows")
		}
		pages += int64(n) //nolint:gosec // at most limit
		return nil
	})
	return id, pages, err
}

// walkPagemap gives the entries of a page map to f, each with its number of pages, at most limit. An
// entry is f's until it returns. It gives which pages file the map belongs to.
func walkPagemap(dir, name string, limit int64, f func(e *pagemap.PagemapEntry, pages uint64) error) (id uint32, err error) {
	file, size, err := openImage(dir, name)
	if err != nil {
		return 0, err
	}
	defer file.Close() //nolint:errcheck // read side
	first := true
	var head pagemap.PagemapHead
	var e pagemap.PagemapEntry
	var end uint64
	err = walkImage(file, name, size, magicPagemap, func(b []byte) error {
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
		return f(&e, n)
	})
	if err == nil && first {
		err = imageError(name, "empty image")
	}
	return head.GetPagesId(), err
}

// inPagesFile tells whether the pages of an entry are in the pages file, not in a parent's.
func inPagesFile(e *pagemap.PagemapEntry) bool {
	if e.Flags == nil {
		return !e.GetInParent()
	}
	return e.GetFlags()&pagePresent != 0 && e.GetFlags()&pageInParent == 0
}
