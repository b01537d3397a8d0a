package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/criu"
)

// diffSide is what diff knows of one checkpoint.
type diffSide struct {
	summary summary
	images  *criu.Inspection       // nil of a sandbox
	areas   map[uint32][]criu.Area // of the tasks
	memory  *pages.Memory
	files   rootfsFiles
	members []thing

	held map[string][]byte // metadata and small images
	left int64             // bytes that may still be held
}

// readSide reads a checkpoint to its end. The memory of one with an index is left where it is.
func readSide(ctx context.Context, src archive.Source, seed maphash.Seed, t *task) (*diffSide, error) {
	s := &diffSide{memory: pages.NewMemory(seed), held: map[string][]byte{}, left: maxInspectBytes}
	if native, ok := unwrap[indexed](src); ok {
		s.memory = pages.IndexedMemory(seed, native.Pages())
	} else {
		src = archive.NewVerified(src) // its Close would be that of src, which is the caller's
	}
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if e.Kind == archive.KindDir {
			continue
		}
		if err := s.take(ctx, e, r, t); err != nil {
			return nil, &archive.EntryError{Op: "read", Name: e.Name, Err: err}
		}
	}
	return s, s.finish(ctx)
}

// take reads one member.
func (s *diffSide) take(ctx context.Context, e archive.Entry, r io.Reader, t *task) error {
	counted := &countedReader{r: archive.ContextReader(ctx, r), t: t}
	switch {
	case archive.IsPages(e.Name) && path.Base(e.Name) != archive.SandboxPages:
		if s.memory.Indexed() {
			return nil
		}
		return s.memory.AddFile(ctx, e.Name, counted)
	case e.Name == archive.RootfsDiff:
		return rootfs.List(ctx, counted, s.files.add)
	}
	sum := sha256.New()
	var content bytes.Buffer
	into := io.Writer(sum)
	held := isSmallImage(e) && path.Base(e.Name) != archive.SandboxState || slices.Contains([]string{archive.ConfigDump, archive.SpecDump, archive.MetadataFile, archive.DeletedFiles}, e.Name)
	if held {
		into = io.MultiWriter(sum, &content)
		r = io.LimitReader(counted, s.left+1)
	} else {
		r = counted
	}
	n, err := io.Copy(into, r)
	if err != nil {
		return err
	}
	if held {
		if s.left -= n; s.left < 0 {
			return fmt.Errorf("%w: more than %d bytes of images", archive.ErrRejected, maxInspectBytes)
		}
		s.held[e.Name] = content.Bytes()
	}
	if e.Name != archive.MetadataFile { // of which no copy has to have the same bytes
		s.members = append(s.members, thing{name: e.Name, fields: []field{
			{"size", strconv.FormatInt(n, 10)}, {fieldSum, hex.EncodeToString(sum.Sum(nil))},
		}})
	}
	return nil
}

// countedReader shows progress.
type countedReader struct {
	r io.Reader
	t *task
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.t.add(int64(n))
	return n, err
}

// finish decodes what was held.
func (s *diffSide) finish(ctx context.Context) error {
	if err := s.summary.fill(s.held); err != nil {
		return err
	}
	if b, ok := s.held[archive.DeletedFiles]; ok {
		var deleted []string
		if err := json.Unmarshal(b, &deleted); err != nil {
			return &archive.EntryError{Op: "read", Name: archive.DeletedFiles, Err: fmt.Errorf("%w: %w", archive.ErrRejected, err)}
		}
		s.files.addDeleted(deleted)
	}
	if m := s.summary.Metadata; m != nil && m.Format == archive.FormatGVisor {
		return nil
	}
	err := withImages(s.held, func(dir string) (err error) {
		if s.images, err = criu.Inspect(ctx, dir); err != nil {
			return err
		}
		s.areas, err = criu.Areas(ctx, dir)
		return err
	})
	if err != nil {
		return err
	}
	return s.addMaps()
}

// addMaps tells the memory what addresses its pages have. The page map of a task that is no more was left in the
// directory by an earlier dump, as Podman lets it be, and its pages file is another task's by now.
func (s *diffSide) addMaps() error {
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		if !pages.IsPagemap(name) {
			continue
		}
		pm, err := pages.ReadPagemap(name, bytes.NewReader(s.held[name]))
		if err != nil {
			return err
		}
		if pid, ok := taskOf(pm.Name); ok && s.areas[pid] == nil {
			continue
		}
		s.memory.AddMap(pm)
	}
	return nil
}

// taskOf gives the task of a page map; a map of shared memory is of none.
func taskOf(pagemap string) (pid uint32, ok bool) {
	_, err := fmt.Sscanf(pagemap, "pagemap-%d.img", &pid)
	return pid, err == nil
}

// facts are the rows of inspect, without those that tell more of the archive than of the checkpoint.
func (s *diffSide) facts() []thing {
	var all []thing
	for _, row := range s.summary.rows() {
		if row[0] != "size" && row[0] != "digests" {
			all = append(all, thing{name: row[0], fields: []field{{fieldValue, row[1]}}})
		}
	}
	return all
}

func (s *diffSide) environment() []thing {
	var all []thing
	for _, v := range s.summary.environment {
		name, value, _ := strings.Cut(v, "=")
		all = append(all, thing{name: name, fields: []field{{fieldValue, value}}})
	}
	return all
}

// processThings are the processes of a checkpoint and what they have open.
type processThings struct{ tasks, descriptors, sockets []thing }

func (s *diffSide) processes() *processThings {
	all := &processThings{}
	if s.images != nil {
		all.add(s.images.Root, 0)
	}
	return all
}

func (t *processThings) add(p *criu.Process, parent uint32) {
	if p == nil {
		return
	}
	number := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	t.tasks = append(t.tasks, thing{p.PID, p.Comm, []field{
		{"parent", number(parent)},
		{"exe", p.Exe},
		{"state", p.State},
		{"threads", strconv.Itoa(p.Threads)},
		{"owner", number(p.UID) + ":" + number(p.GID)},
		{"group", number(p.PGID)},
		{"session", number(p.SID)},
		{"cwd", p.Cwd},
	}})
	for _, f := range p.Files {
		t.descriptors = append(t.descriptors, thing{p.PID, number(f.FD), []field{
			{"type", f.Type},
			{"path", f.Path},
			{"position", strconv.FormatUint(f.Pos, 10)},
			{"size", strconv.FormatUint(f.Size, 10)},
		}})
	}
	for _, k := range p.Sockets {
		t.sockets = append(t.sockets, thing{p.PID, number(k.FD), []field{
			{"protocol", k.Protocol},
			{"state", k.State},
			{"source", k.Source},
			{"destination", k.Destination},
		}})
	}
	for _, child := range p.Children {
		t.add(child, p.PID)
	}
}

func (s *diffSide) mounts() []thing {
	var all []thing
	if s.images == nil {
		return nil
	}
	for _, m := range s.images.Mounts {
		all = append(all, thing{name: m.Mountpoint, fields: []field{
			{"type", m.Type},
			{"source", m.Source},
			{"root", m.Root},
			{"key", m.Key},
		}})
	}
	return all
}

// origins tells f of what pages are: of which task, in which mapping, how many.
func (s *diffSide) origins(d pages.Difference, f func(pid uint32, name string, n int64)) {
	pid, ok := taskOf(d.Map)
	if !ok {
		id := strings.TrimSuffix(strings.TrimPrefix(d.Map, "pagemap-shmem-"), ".img")
		f(0, "[shared "+id+"]", d.Pages)
		return
	}
	areas := s.areas[pid]
	at, end := d.Addr, d.Addr+uint64(d.Pages)*pages.PageBytes //nolint:gosec // positive
	i, _ := slices.BinarySearchFunc(areas, at, func(a criu.Area, at uint64) int {
		if a.End <= at {
			return -1
		}
		return 1
	})
	for ; at < end; i++ {
		name, to := "[unmapped]", end
		switch {
		case i < len(areas) && areas[i].Start <= at:
			name, to = areas[i].Name, min(end, areas[i].End)
		case i < len(areas):
			to = min(end, areas[i].Start)
			i-- // it is the next one's turn
		}
		n := int64((to - at + pages.PageBytes - 1) / pages.PageBytes) //nolint:gosec // of a difference
		f(pid, name, n)
		at += uint64(n) * pages.PageBytes //nolint:gosec // positive
	}
}
