package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"

	"github.com/xlab/treeprint"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
)

// diffCmd compares two checkpoints.
type diffCmd struct {
	A           string `arg:"" name:"a" predictor:"checkpoint" help:"The first checkpoint, usually the older one."`
	B           string `arg:"" name:"b" predictor:"checkpoint" help:"The second checkpoint."`
	Format      string `help:"Form of the output: ${enum}." enum:"table,json,tree" default:"table"`
	ExitCode    bool   `help:"Exit with status 1 if they differ."`
	ShowSecrets bool   `help:"Do not mask what may be a secret in the environment."`
	Pull        string `help:"When a registry is asked: ${enum}." enum:"missing,always,never" default:"missing"`
	remoteFlags
}

// Help is the long help text.
func (diffCmd) Help() string {
	return `Compares what is known of the containers, processes, descriptors, sockets, mounts, memory page by page, the files that each has changed in its root file system, and the other members. Nothing is printed of equal ones. Of two checkpoints in the native form, pages that they share are not fetched.`
}

// errDiffer is the end of diff --exit-code when there are differences.
var errDiffer = errors.New("the checkpoints differ")

// Run implements the command.
func (c *diffCmd) Run(ctx context.Context, a *app) error {
	if c.A == "-" && c.B == "-" {
		return usagef("only one of the checkpoints can come from standard input")
	}
	p := a.newProgress()
	rep, err := c.compare(ctx, a, p.begin("compare", 0))
	p.close(err)
	if err != nil {
		return cause(ctx, err)
	}
	switch {
	case a.cli.JSON || c.Format == "json":
		err = a.printJSON(rep)
	case c.Format == "tree":
		_, err = io.WriteString(a.stdout, rep.tree())
		err = unread(err)
	default:
		err = a.printDifferences(rep)
	}
	if err == nil && c.ExitCode && !rep.Equal {
		err = errDiffer
	}
	return err
}

// compare reads both checkpoints.
func (c *diffCmd) compare(ctx context.Context, a *app, t *task) (_ *diffReport, err error) {
	seed := maphash.MakeSeed()
	var sides [2]*diffSide
	for i, name := range []string{c.A, c.B} {
		loc, err := parseLocation(name)
		if err != nil {
			return nil, err
		}
		src, err := a.openSource(ctx, loc, sourceOptions{Pull: c.Pull, Stream: true, Remote: c.remoteFlags})
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", name, err)
		}
		// The memory of a native one is read when both are known.
		defer func() { err = errors.Join(err, src.Close()) }()
		if sides[i], err = readSide(ctx, src, seed, t); err != nil {
			return nil, fmt.Errorf("compare %s: %w", name, err)
		}
	}
	rep := &diffReport{A: c.A, B: c.B}
	rep.fill(sides[0], sides[1], c.ShowSecrets)
	if rep.Memory, err = compareMemory(ctx, sides[0], sides[1]); err != nil {
		return nil, fmt.Errorf("compare the memory of %s and %s: %w", c.A, c.B, err)
	}
	rep.Equal = len(rep.Memory.Mappings) == 0
	for _, s := range rep.sections() {
		rep.Equal = rep.Equal && len(s.list) == 0
	}
	return rep, nil
}

// diffReport is what diff prints with --json; docs/schemas/diff.json describes it.
type diffReport struct {
	A           string       `json:"a"`
	B           string       `json:"b"`
	Equal       bool         `json:"equal"`
	Checkpoint  []difference `json:"checkpoint"` // engine, runtime, image, host, options, times
	Environment []difference `json:"environment"`
	Processes   []difference `json:"processes"`
	Descriptors []difference `json:"descriptors"`
	Sockets     []difference `json:"sockets"`
	Mounts      []difference `json:"mounts"`
	Memory      memoryDiff   `json:"memory"`
	Files       []difference `json:"files"`   // of the root file system
	Members     []difference `json:"members"` // of the archive
}

// diffSection is the differences in one regard.
type diffSection struct {
	name string // of one thing
	list []difference
}

// sectionMember is the section of the archive's members.
const sectionMember = "member"

func (r *diffReport) sections() []diffSection {
	return []diffSection{
		{"checkpoint", r.Checkpoint},
		{"environment", r.Environment},
		{"process", r.Processes},
		{"descriptor", r.Descriptors},
		{"socket", r.Sockets},
		{"mount", r.Mounts},
		{"file", r.Files},
		{sectionMember, r.Members},
	}
}

// fill compares all but the memory.
func (r *diffReport) fill(a, b *diffSide, secrets bool) {
	r.Checkpoint = compareThings(a.facts(), b.facts())
	r.Environment = compareThings(a.environment(), b.environment())
	if !secrets {
		maskDifferences(r.Environment)
	}
	pa, pb := a.processes(), b.processes()
	r.Processes = compareThings(pa.tasks, pb.tasks)
	r.Descriptors = compareThings(pa.descriptors, pb.descriptors)
	r.Sockets = compareThings(pa.sockets, pb.sockets)
	r.Mounts = compareThings(a.mounts(), b.mounts())
	r.Files = compareThings(a.files.things(), b.files.things())
	r.Members = compareThings(a.members, b.members)
}

// maskDifferences hides what may be secrets, of which still is told that they differ.
func maskDifferences(list []difference) {
	for i := range list {
		for j := range list[i].Fields {
			f := &list[i].Fields[j]
			f.A, f.B = maskValue(list[i].Name, f.A), maskValue(list[i].Name, f.B)
		}
	}
}

// printDifferences prints a line for each difference.
func (a *app) printDifferences(r *diffReport) error {
	return a.columns(func(w io.Writer) {
		images := map[string]int{}
		for _, s := range r.sections() {
			for _, d := range s.list {
				if s.name == sectionMember && strings.HasPrefix(d.Name, archive.CheckpointDir+"/") {
					images[d.Change]++ // what matters of them was told above
					continue
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Change, s.name, oneLine(d.label()), oneLine(strings.Join(d.texts(), ", ")))
			}
		}
		for _, m := range r.Memory.Mappings {
			fmt.Fprintf(w, "%s\tmemory\t%s\t%s\n", changeChanged, oneLine(m.label()), m.text())
		}
		for _, change := range []string{changeChanged, changeAdded, changeRemoved} {
			if images[change] > 0 {
				fmt.Fprintf(w, "%s\t%s\t%s/\t%d images\n", change, sectionMember, archive.CheckpointDir, images[change])
			}
		}
	})
}

// tree draws the differences by what they are of.
func (r *diffReport) tree() string {
	top := treeprint.NewWithRoot(oneLine(r.A + " -> " + r.B))
	for _, s := range r.sections() {
		if len(s.list) == 0 {
			continue
		}
		branch := top.AddBranch(fmt.Sprintf("%s: %d", s.name, len(s.list)))
		for _, d := range s.list {
			node := branch.AddBranch(oneLine(d.Change + " " + d.label()))
			for _, text := range d.texts() {
				node.AddNode(oneLine(text))
			}
		}
	}
	if m := r.Memory; len(m.Mappings) > 0 {
		branch := top.AddBranch("memory: " + m.pageCounts.text())
		for _, mapping := range m.Mappings {
			branch.AddNode(oneLine(mapping.label() + ": " + mapping.text()))
		}
	}
	return top.String()
}

// unwrap finds what can do T in a source or in what it is made of.
func unwrap[T any](src archive.Source) (T, bool) {
	for {
		if t, ok := src.(T); ok {
			return t, true
		}
		u, ok := src.(interface{ Unwrap() archive.Source })
		if !ok {
			var none T
			return none, false
		}
		src = u.Unwrap()
	}
}

// indexed is a checkpoint whose memory can be read by page.
type indexed interface{ Pages() *pages.Reader }

// pageCounts are numbers of pages of 4096 bytes.
type pageCounts struct {
	Same    int64 `json:"same"`
	Changed int64 `json:"changed"`
	Added   int64 `json:"added"`
	Removed int64 `json:"removed"`
}

// add counts n pages.
func (c *pageCounts) add(change pages.Change, n int64) {
	switch change {
	case pages.Same:
		c.Same += n
	case pages.Changed:
		c.Changed += n
	case pages.Added:
		c.Added += n
	case pages.Removed:
		c.Removed += n
	}
}

func (c pageCounts) text() string {
	parts := []string{}
	for _, p := range []struct {
		n    int64
		what string
	}{{c.Changed, "changed"}, {c.Added, "added"}, {c.Removed, "removed"}, {c.Same, "the same"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d pages %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}

// memoryDiff is what became of the memory.
type memoryDiff struct {
	pageCounts
	Mappings []mappingDiff `json:"mappings"` // those that differ
}

// mappingDiff is what became of a task's memory that has one origin.
type mappingDiff struct {
	PID  uint32 `json:"pid,omitempty"` // missing for memory that tasks share
	Name string `json:"name"`          // as inspect names it
	pageCounts
}

func (m mappingDiff) label() string { return label(m.PID, m.Name) }

// compareMemory compares page by page and sums up by mapping.
func compareMemory(ctx context.Context, a, b *diffSide) (memoryDiff, error) {
	type key struct {
		pid  uint32
		name string
	}
	out, found := memoryDiff{Mappings: []mappingDiff{}}, map[key]*pageCounts{}
	err := pages.Diff(ctx, a.memory, b.memory, func(d pages.Difference) {
		side := b
		if d.Change == pages.Removed {
			side = a
		}
		out.add(d.Change, d.Pages)
		side.origins(d, func(pid uint32, name string, n int64) {
			k := key{pid, name}
			if found[k] == nil {
				found[k] = &pageCounts{}
			}
			found[k].add(d.Change, n)
		})
	})
	if err != nil {
		return out, err
	}
	for k, counts := range found {
		if counts.Changed+counts.Added+counts.Removed > 0 {
			out.Mappings = append(out.Mappings, mappingDiff{k.pid, k.name, *counts})
		}
	}
	slices.SortFunc(out.Mappings, func(x, y mappingDiff) int { return compareLabels(x.PID, x.Name, y.PID, y.Name) })
	return out, nil
}
