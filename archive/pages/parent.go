package pages

import (
	"path"
	"slices"
	"sort"
	"strings"
)

// Parent is an earlier checkpoint, whose pages are not stored again.
type Parent struct {
	Reader *Reader    // of its index; it is not closed
	Maps   []*Pagemap // all of its page maps
}

// noPage is the number of a page that is nowhere.
const noPage = -2

// extent is a piece of the parent's memory.
type extent struct {
	addr  uint64
	count int64
	page  int64 // number of the first one, or zeroPages
}

// memory is a checkpoint's pages by the names of their page maps, in ascending order of their addresses.
type memory map[string][]extent

func newMemory(files []File, maps []*Pagemap) memory {
	m := memory{}
	for i := range files {
		f := &files[i]
		if pm := mapOf(maps, f.Name); pm != nil {
			m[pm.Name] = extents(f.Runs, pm.Ranges)
		}
	}
	return m
}

// memory is where the pages of a parent are, of which there may be none.
func (p *Parent) memory() memory {
	if p == nil {
		return memory{}
	}
	return newMemory(p.Reader.index.Files, p.Maps)
}

// mapOf finds the page map of a pages file; nil if there is none. A map of shared memory that
// an earlier dump has left behind may name the file as well.
func mapOf(maps []*Pagemap, name string) *Pagemap {
	var found *Pagemap
	for _, m := range maps {
		shared := strings.HasPrefix(m.Name, "pagemap-shmem-")
		if m.PagesFile() == path.Base(name) && (found == nil || strings.HasPrefix(found.Name, "pagemap-shmem-") && !shared) {
			found = m
		}
	}
	return found
}

// extents joins where the pages of a file are with what their addresses were.
func extents(runs []Run, ranges []Range) []extent {
	var out []extent
	i, used := 0, int64(0) // pages of runs[i] that have had their address
	for _, r := range ranges {
		addr, left := r.Addr, r.Pages
		for left > 0 && i < len(runs) {
			n := min(left, runs[i].Count-used)
			page := runs[i].Page
			if page != zeroPages {
				page += used
			}
			out = append(out, extent{addr, n, page})
			addr += uint64(n) * PageBytes //nolint:gosec // positive
			left -= n
			if used += n; used == runs[i].Count {
				i, used = i+1, 0
			}
		}
	}
	slices.SortStableFunc(out, func(a, b extent) int {
		switch {
		case a.addr < b.addr:
			return -1
		case a.addr > b.addr:
			return 1
		}
		return 0
	})
	return out
}

// addresses are those of a pages file that is being written, and the parent's memory there.
type addresses struct {
	ranges []Range
	starts []int64 // by range, the number of its first page in the file
	old    []extent
}

func newAddresses(m *Pagemap, old memory) *addresses {
	if m == nil {
		return &addresses{}
	}
	a := &addresses{ranges: m.Ranges, starts: make([]int64, len(m.Ranges)), old: old[m.Name]}
	var at int64
	for i, r := range m.Ranges {
		a.starts[i] = at
		at += r.Pages
	}
	return a
}

// lookUp says which pages of the parent had the addresses that the file's pages have from number first on.
func (a *addresses) lookUp(old []int64, first int64) {
	for i := range old {
		old[i] = noPage
	}
	i := sort.Search(len(a.starts), func(i int) bool { return a.starts[i] > first }) - 1
	for ; len(old) > 0 && i >= 0 && i < len(a.ranges); i++ {
		skip := first - a.starts[i]
		n := min(int64(len(old)), a.ranges[i].Pages-skip)
		if n <= 0 {
			return // behind the last range
		}
		a.fill(old[:n], a.ranges[i].Addr+uint64(skip)*PageBytes) //nolint:gosec // positive
		old = old[n:]
		first += n
	}
}

// fill is lookUp for consecutive addresses.
func (a *addresses) fill(old []int64, addr uint64) {
	e := sort.Search(len(a.old), func(i int) bool { return a.old[i].addr > addr }) - 1
	for i := range old {
		at := addr + uint64(i)*PageBytes
		for e+1 < len(a.old) && a.old[e+1].addr <= at {
			e++
		}
		if e < 0 || at-a.old[e].addr >= uint64(a.old[e].count)*PageBytes { //nolint:gosec // positive
			continue
		}
		if old[i] = a.old[e].page; old[i] != zeroPages {
			old[i] += int64((at - a.old[e].addr) / PageBytes) //nolint:gosec // less than the count
		}
	}
}
