package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

// JoinParent makes images whole that were dumped on top of others: pages that had not changed since are copied from the
// images in parent, which CRIU's pre-dump wrote. Those must be whole themselves. It changes pages files and page maps in dir
// and needs neither link nor tasks. What it cannot make whole is a rejection, after which dir is of no use.
func JoinParent(ctx context.Context, dir, parent string) error {
	names, err := listImages(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "pagemap-") || !strings.HasSuffix(name, ".img") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := readMap(dir, name)
		if err != nil {
			return err
		}
		if !m.needsParent {
			continue
		}
		if err := m.join(ctx, dir, parent); err != nil {
			return fmt.Errorf("join %s with the images before it: %w", name, err)
		}
	}
	return nil
}

// pageMap is a page map in memory.
type pageMap struct {
	name        string
	pagesID     uint32
	entries     []*pagemap.PagemapEntry // with their number of pages in NrPages
	needsParent bool

	// Where copyPages is: an entry, and the place of its pages in the pages file.
	next   int
	offset int64
}

func readMap(dir, name string) (*pageMap, error) {
	m := &pageMap{name: name}
	var err error
	m.pagesID, err = walkPagemap(dir, name, math.MaxInt64/pageBytes, func(e *pagemap.PagemapEntry, n uint64) error {
		if len(m.entries) == MaxImageEntries {
			return imageError(name, "more than %d entries", MaxImageEntries)
		}
		kept := &pagemap.PagemapEntry{Vaddr: e.Vaddr, Flags: e.Flags, CompatNrPages: e.CompatNrPages, InParent: e.InParent, NrPages: &n}
		m.needsParent = m.needsParent || inParent(kept)
		m.entries = append(m.entries, kept)
		return nil
	})
	return m, err
}

func inParent(e *pagemap.PagemapEntry) bool {
	return e.GetFlags()&pageInParent != 0 || e.Flags == nil && e.GetInParent()
}

// join writes the pages file anew, with the pages of the parent, and a map in which they are as any other.
func (m *pageMap) join(ctx context.Context, dir, parent string) (err error) {
	before, err := readMap(parent, m.name)
	if err != nil {
		return missing(m.name, err)
	}
	old, _, err := openImage(parent, pagesName(before.pagesID))
	if err != nil {
		return missing(pagesName(before.pagesID), err)
	}
	defer old.Close() //nolint:errcheck // read side
	now, _, err := openImage(dir, pagesName(m.pagesID))
	if errors.Is(err, os.ErrNotExist) {
		now, err = os.Open(os.DevNull) // nothing has changed
	}
	if err != nil {
		return err
	}
	defer now.Close() //nolint:errcheck // read side
	out, err := os.CreateTemp(dir, ".joined-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := bufio.NewWriterSize(out, 1<<20)
	for _, e := range m.entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case inParent(e):
			err = before.copyPages(w, old, e.GetVaddr(), e.GetNrPages())
			e.InParent = nil
			e.Flags = proto.Uint32(e.GetFlags()&^pageInParent | pagePresent)
		case inPagesFile(e):
			_, err = io.CopyN(w, now, int64(e.GetNrPages()*pageBytes)) //nolint:gosec // bounded by walkPagemap
		}
		if err != nil {
			return imageError(m.name, "pages at %#x: %w", e.GetVaddr(), err)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), filepath.Join(dir, pagesName(m.pagesID))); err != nil {
		return err
	}
	return m.write(dir)
}

// copyPages writes n pages from addr on, which may lie in several entries. The addresses of its calls ascend.
func (m *pageMap) copyPages(w io.Writer, pages io.ReaderAt, addr, n uint64) error {
	for n > 0 && m.next < len(m.entries) {
		e := m.entries[m.next]
		begin, end := e.GetVaddr(), e.GetVaddr()+e.GetNrPages()*pageBytes
		if end <= addr {
			if inPagesFile(e) {
				m.offset += int64(end - begin) //nolint:gosec // bounded by walkPagemap
			}
			m.next++
			continue
		}
		if addr < begin || !inPagesFile(e) {
			break
		}
		length := min(n*pageBytes, end-addr)
		piece := io.NewSectionReader(pages, m.offset+int64(addr-begin), int64(length)) //nolint:gosec // bounded by walkPagemap
		if _, err := io.CopyN(w, piece, int64(length)); err != nil {                   //nolint:gosec // likewise
			return err
		}
		addr, n = addr+length, n-length/pageBytes
	}
	if n > 0 {
		return errors.New("they are not in the images before it either")
	}
	return nil
}

// write writes the map in the place of the one that is there.
func (m *pageMap) write(dir string) error {
	out := newImage(magicPagemap)
	messages := []proto.Message{&pagemap.PagemapHead{PagesId: &m.pagesID}}
	for _, e := range m.entries {
		messages = append(messages, e)
	}
	for _, message := range messages {
		b, err := proto.Marshal(message)
		if err != nil {
			return imageError(m.name, "%w", err)
		}
		out = appendEntry(out, b)
	}
	return writeImage(dir, m.name, out)
}
