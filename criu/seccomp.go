package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	seccompImage = "seccomp.img"
	// filterBytes is the size of the kernel's struct sock_filter, one instruction.
	filterBytes = 8
	// maxFilters is the number of filters of an image; the kernel keeps fewer on a task.
	maxFilters = 1 << 16
)

// filterSet are the system call filters of the images. Tasks name one, and each names the one that was
// there before it.
type filterSet []*seccomp.SeccompFilter

// readFilters reads seccomp.img, which is missing when no task has a filter, and checks it: every
// filter is a program, and every chain of them ends.
func readFilters(dir string) (filterSet, error) {
	entries, err := readEntries[seccomp.SeccompEntry](dir, seccompImage, magicSeccomp)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(entries) != 1 {
		return nil, imageError(seccompImage, "%d entries, want one", len(entries))
	}
	filters := filterSet(entries[0].GetSeccompFilters())
	if len(filters) > maxFilters {
		return nil, imageError(seccompImage, "%d filters, the limit is %d", len(filters), maxFilters)
	}
	// What notifies another process about calls would wait for one that is not there.
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	for i, f := range filters {
		switch n := len(f.GetFilter()); {
		case n == 0 || n%filterBytes != 0 || n > unix.BPF_MAXINSNS*filterBytes:
			return nil, imageError(seccompImage, "filter %d of %d bytes is no program", i, n)
		case f.GetFlags()&^flags != 0:
			return nil, imageError(seccompImage, "filter %d has the flags %#x", i, f.GetFlags())
		case f.Prev != nil && int64(f.GetPrev()) >= int64(len(filters)):
			return nil, imageError(seccompImage, "filter %d stands on filter %d, which is missing", i, f.GetPrev())
		}
	}
	ends := make([]bool, len(filters))
	for i := range filters {
		var path []int
		for at := i; !ends[at]; at = int(filters[at].GetPrev()) {
			if path = append(path, at); len(path) > len(filters) {
				return nil, imageError(seccompImage, "filter %d stands on itself", i)
			}
			if filters[at].Prev == nil {
				break
			}
		}
		for _, at := range path {
			ends[at] = true
		}
	}
	return filters, nil
}

// check wants the filter that an image names.
func (s filterSet) check(name string, filter uint32) error {
	if int64(filter) >= int64(len(s)) {
		return imageError(name, "system call filter %d is missing", filter)
	}
	return nil
}

// any tells whether a filter, or one that it stands on, is one that f is true for.
func (s filterSet) any(filter uint32, f func(*seccomp.SeccompFilter) bool) bool {
	for {
		at := s[filter]
		if f(at) {
			return true
		}
		if at.Prev == nil {
			return false
		}
		filter = at.GetPrev()
	}
}

// shared tells whether CRIU puts the filters of the first thread of a task on its other threads as
// well. Where all have the same, CRIU writes only those of the first, with this flag.
func (s filterSet) shared(leader *criu_core.CoreEntry) bool {
	mode, filter := seccompOf(leader)
	if mode != criu_core.SeccompMode_filter || int64(filter) >= int64(len(s)) {
		return false
	}
	return leader.Tc != nil && leader.Tc.OldSeccompFilter != nil || s.any(filter, isShared)
}

func isShared(f *seccomp.SeccompFilter) bool {
	return f.GetFlags()&unix.SECCOMP_FILTER_FLAG_TSYNC != 0
}

// seccompOf gives mode and filter of a thread. What old versions of CRIU wrote for the whole task
// goes first, as it does for CRIU.
func seccompOf(core *criu_core.CoreEntry) (mode criu_core.SeccompMode, filter uint32) {
	mode, filter = core.GetThreadCore().GetSeccompMode(), core.GetThreadCore().GetSeccompFilter()
	if tc := core.GetTc(); tc != nil && tc.OldSeccompMode != nil {
		mode = tc.GetOldSeccompMode()
	}
	if tc := core.GetTc(); tc != nil && tc.OldSeccompFilter != nil {
		filter = tc.GetOldSeccompFilter()
	}
	return mode, filter
}

// Confine changes images of any origin: it puts a system call filter, a program in the form of the kernel's
// struct sock_filter, on every thread in addition to those that it has, and lets no task
// be spared when the kernel runs out of memory. Doing it again changes nothing. Images that it cannot
// read are an [archive.ErrRejected].
func Confine(ctx context.Context, dir string, program []byte) error {
	if len(program) == 0 || len(program)%filterBytes != 0 {
		return fmt.Errorf("confine images: a filter of %d bytes is no program", len(program))
	}
	tasks, err := readTree(dir)
	if err != nil {
		return err
	}
	filters, err := readFilters(dir)
	if err != nil {
		return err
	}
	c := confiner{dir: dir, program: program, filters: filters, added: map[addition]uint32{}}
	for _, t := range tasks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.task(t); err != nil {
			return fmt.Errorf("confine images: %w", err)
		}
	}
	if len(c.filters) == len(filters) {
		return nil
	}
	return replaceImage(dir, seccompImage, magicSeccomp, &seccomp.SeccompEntry{SeccompFilters: c.filters})
}

// confiner adds one program to filters.
type confiner struct {
	dir     string
	program []byte
	filters filterSet
	added   map[addition]uint32 // the new filters
}

// addition says what the program was put on: a filter, or nothing.
type addition struct {
	alone  bool
	on     uint32
	shared bool
}

func (c *confiner) read(name string) (*criu_core.CoreEntry, error) {
	core, err := readEntry[criu_core.CoreEntry](c.dir, name, magicCore)
	switch {
	case err != nil:
		return nil, err
	case core.GetTc() != nil && !isAlive(core):
		return core, nil
	case core.GetThreadCore() == nil:
		return nil, imageError(name, "not the core of a thread")
	case core.GetTc() != nil && (core.GetTc().OldSeccompMode != nil || core.GetTc().OldSeccompFilter != nil):
		return nil, imageError(name, "system call filters in the form of old versions of CRIU")
	}
	return core, nil
}

// task confines the threads of one task. Threads that have nothing of their own share what the
// first has: separate filters would keep a program from setting one for all its threads later.
func (c *confiner) task(t *pstree.PstreeEntry) error {
	name := coreName(t.GetPid())
	leader, err := c.read(name)
	if err != nil || leader.GetTc() != nil && !isAlive(leader) {
		return err
	}
	threads := map[string]*criu_core.CoreEntry{}
	free := true // no thread has a filter
	for _, tid := range t.GetThreads() {
		if tid == t.GetPid() {
			continue
		}
		core, err := c.read(coreName(tid))
		if err != nil {
			return err
		}
		mode, _ := seccompOf(core)
		free = free && mode == criu_core.SeccompMode_disabled
		threads[coreName(tid)] = core
	}
	mode, _ := seccompOf(leader)
	shared := c.filters.shared(leader) || free && len(threads) > 0 && mode == criu_core.SeccompMode_disabled
	if err := c.thread(name, leader, shared); err != nil {
		return err
	}
	for name, core := range threads {
		if mode, _ := seccompOf(core); shared && mode == criu_core.SeccompMode_disabled {
			continue
		}
		if err := c.thread(name, core, false); err != nil {
			return err
		}
	}
	return nil
}

// thread puts the program on one thread.
func (c *confiner) thread(name string, core *criu_core.CoreEntry, shared bool) error {
	old := proto.CloneOf(core)
	mode, filter := seccompOf(core)
	switch mode {
	case criu_core.SeccompMode_disabled:
		filter = c.add(addition{alone: true, shared: shared})
	case criu_core.SeccompMode_filter:
		if err := c.filters.check(name, filter); err != nil {
			return err
		}
		held := c.filters.any(filter, func(f *seccomp.SeccompFilter) bool {
			return bytes.Equal(f.GetFilter(), c.program) && (isShared(f) || !shared)
		})
		if !held {
			filter = c.add(addition{on: filter, shared: shared})
		}
	default: // strict allows less than any filter
		return nil
	}
	core.ThreadCore.SeccompMode = criu_core.SeccompMode_filter.Enum()
	core.ThreadCore.SeccompFilter = &filter
	if core.GetTc().GetOomScoreAdj() < 0 {
		core.Tc.OomScoreAdj = proto.Int32(0)
	}
	if proto.Equal(old, core) {
		return nil
	}
	return replaceImage(c.dir, name, magicCore, core)
}

// add gives the number of the program on top of a filter.
func (c *confiner) add(a addition) uint32 {
	if n, ok := c.added[a]; ok {
		return n
	}
	f := &seccomp.SeccompFilter{Filter: c.program}
	if !a.alone {
		f.Prev = proto.Uint32(a.on)
	}
	if a.shared {
		f.Flags = proto.Uint32(unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	n := uint32(len(c.filters)) //nolint:gosec // a few times maxFilters at most
	c.filters = append(c.filters, f)
	c.added[a] = n
	return n
}
