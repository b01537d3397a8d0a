package criu

import (
	"cmp"
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

// inspectMemory sums up the memory of a task, the most first.
func inspectMemory(dir string, pid uint32, m *mm.MmEntry, files map[uint32]*fdinfo.FileEntry) ([]Mapping, error) {
	byName := map[string]*Mapping{}
	areas := slices.Clone(m.GetVmas())
	slices.SortFunc(areas, func(a, b *vma.VmaEntry) int { return cmp.Compare(a.GetStart(), b.GetStart()) })
	for _, v := range areas {
		if v.GetEnd() < v.GetStart() {
			return nil, imageError(fmt.Sprintf("mm-%d.img", pid), "an area ends at %#x, before it begins", v.GetEnd())
		}
		name := areaName(v, files)
		if byName[name] == nil {
			byName[name] = &Mapping{Name: name}
		}
		byName[name].Areas++
		byName[name].Bytes += v.GetEnd() - v.GetStart()
	}
	next := 0
	_, err := walkPagemap(dir, fmt.Sprintf("pagemap-%d.img", pid), math.MaxInt64/pageBytes, func(e *pagemap.PagemapEntry, n uint64) error {
		if !inPagesFile(e) {
			return nil
		}
		// An entry may go on in the next area, which may have another origin.
		begin, end := e.GetVaddr(), e.GetVaddr()+n*pageBytes
		for next < len(areas) && areas[next].GetEnd() <= begin {
			next++
		}
		for i := next; i < len(areas) && areas[i].GetStart() < end; i++ {
			from, to := max(begin, areas[i].GetStart()), min(end, areas[i].GetEnd())
			byName[areaName(areas[i], files)].Dumped += to - from
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
