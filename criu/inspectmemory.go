package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"golang.org/x/sys/unix"
)

// Mapping is what of a task's memory has one origin: a file, or none.
type Mapping struct {
	// Name is the path of the file, or what the memory is for: [heap], [stack], [anonymous],
	// [shared], [memfd], [sysv], [vdso], [socket], [aio].
	Name  string `json:"name"`
	Areas int    `json:"areas"` // entries of the task's maps
	Bytes uint64 `json:"bytes"` // of addresses
	// Dumped is how many bytes of it are in the pages files. Memory shared between tasks is not
	// counted here; what is not dumped comes from the file.
	Dumped uint64 `json:"dumped"`
}

// Bits of the status of an area (criu/include/image.h).
const (
	vmaStack       = 1 << 1
	vmaVsyscall    = 1 << 2
	vmaVDSO        = 1 << 3
	vmaHeap        = 1 << 5
	vmaFilePrivate = 1 << 6
	vmaFileShared  = 1 << 7
	vmaAnonShared  = 1 << 8
	vmaSysVIPC     = 1 << 10
	vmaSocket      = 1 << 11
	vmaVVAR        = 1 << 12
	vmaAIORing     = 1 << 13
	vmaMemFD       = 1 << 14
)

// Area is an entry of a task's maps.
type Area struct {
	Start, End uint64 // addresses
	Name       string // as that of a [Mapping]
}

// Areas gives the areas of all tasks in a directory of images by their PIDs, in ascending order.
func Areas(ctx context.Context, dir string) (map[uint32][]Area, error) {
	tasks, err := readTree(dir)
	if err != nil {
		return nil, err
	}
	files, err := readFiles(dir)
	if err != nil {
		return nil, err
	}
	all := make(map[uint32][]Area, len(tasks))
	for _, t := range tasks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		mms, err := optional(readEntries[mm.MmEntry](dir, mmName(t.GetPid()), magicMM))
		if err != nil {
			return nil, err
		}
		if len(mms) == 0 {
			continue // a zombie has no memory
		}
		if all[t.GetPid()], err = areasOf(t.GetPid(), mms[0], files); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func mmName(pid uint32) string { return fmt.Sprintf("mm-%d.img", pid) }

// areasOf gives the areas of a task in ascending order.
func areasOf(pid uint32, m *mm.MmEntry, files map[uint32]*fdinfo.FileEntry) ([]Area, error) {
	areas := make([]Area, 0, len(m.GetVmas()))
	for _, v := range m.GetVmas() {
		if v.GetEnd() < v.GetStart() {
			return nil, imageError(mmName(pid), "an area ends at %#x, before it begins", v.GetEnd())
		}
		areas = append(areas, Area{v.GetStart(), v.GetEnd(), areaName(v, files)})
	}
	slices.SortFunc(areas, func(a, b Area) int { return cmp.Compare(a.Start, b.Start) })
	return areas, nil
}

// inspectMemory sums up the memory of a task, the most first.
func inspectMemory(dir string, pid uint32, m *mm.MmEntry, files map[uint32]*fdinfo.FileEntry) ([]Mapping, error) {
	areas, err := areasOf(pid, m, files)
	if err != nil {
		return nil, err
	}
	byName := map[string]*Mapping{}
	for _, a := range areas {
		if byName[a.Name] == nil {
			byName[a.Name] = &Mapping{Name: a.Name}
		}
		byName[a.Name].Areas++
		byName[a.Name].Bytes += a.End - a.Start
	}
	next := 0
	_, err = walkPagemap(dir, fmt.Sprintf("pagemap-%d.img", pid), math.MaxInt64/pageBytes, func(e *pagemap.PagemapEntry, n uint64) error {
		if !inPagesFile(e) {
			return nil
		}
		// An entry may go on in the next area, which may have another origin.
		begin, end := e.GetVaddr(), e.GetVaddr()+n*pageBytes
		for next < len(areas) && areas[next].End <= begin {
			next++
		}
		for i := next; i < len(areas) && areas[i].Start < end; i++ {
			byName[areas[i].Name].Dumped += min(end, areas[i].End) - max(begin, areas[i].Start)
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	all := make([]Mapping, 0, len(byName))
	for _, m := range byName {
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b Mapping) int {
		return cmp.Or(cmp.Compare(b.Dumped, a.Dumped), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// pageBytes is the unit of page maps that are read without regard to the host.
const pageBytes = 4096

// areaName tells what an area is of.
func areaName(v *vma.VmaEntry, files map[uint32]*fdinfo.FileEntry) string {
	status := v.GetStatus()
	if v.GetFlags()&unix.MAP_GROWSDOWN != 0 {
		status |= vmaStack
	}
	for _, kind := range []struct {
		bit  uint32
		name string
	}{
		{vmaHeap, "[heap]"},
		{vmaStack, "[stack]"},
		{vmaVDSO | vmaVVAR | vmaVsyscall, "[vdso]"},
		{vmaMemFD, "[memfd]"},
		{vmaSysVIPC, "[sysv]"},
		{vmaSocket, "[socket]"},
		{vmaAIORing, "[aio]"},
		{vmaAnonShared, "[shared]"},
	} {
		if status&kind.bit != 0 {
			return kind.name
		}
	}
	if status&(vmaFilePrivate|vmaFileShared) == 0 || v.GetShmid() > math.MaxUint32 {
		return "[anonymous]"
	}
	id := uint32(v.GetShmid()) //nolint:gosec // compared above
	return cmp.Or(files[id].GetReg().GetName(), fmt.Sprintf("[file %d]", id))
}
