package rootfs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// change is a name that a difference holds: what is there now, or that it is gone.
type change struct {
	name    string
	deleted bool
}

// changes collects what differs, before anything is written: links between
// files are known only at the end of the walk.
type changes struct {
	skip    map[string]struct{}
	present map[string]struct{} // what is written, without the parents
	deleted map[string]struct{}
	sockets []string
	groups  map[fileID]*linkGroup
}

// linkGroup is the names of one file that has several.
type linkGroup struct {
	names   []string
	changed bool
}

func newChanges(skip map[string]struct{}) *changes {
	return &changes{
		skip: skip, present: map[string]struct{}{}, deleted: map[string]struct{}{},
		groups: map[fileID]*linkGroup{},
	}
}

func (c *changes) skipped(name string) bool {
	_, ok := c.skip[name]
	return ok
}

// add notes that a name is there, and whether it differs from the base, which
// holds something under it if inBase is set.
func (c *changes) add(n *node, changed, inBase bool) {
	if n.attr.kind() == unix.S_IFSOCK || n.attr.isNullDevice() {
		// No tar holds a socket, and a device 0:0 would be a deletion to an overlay.
		c.sockets = append(c.sockets, containerPath(n.name))
		if inBase && changed {
			c.remove(n.name)
		}
		return
	}
	if changed {
		c.present[n.name] = struct{}{}
	}
	if n.attr.isDir() || n.attr.nlink < 2 {
		return
	}
	g := c.groups[n.attr.id]
	if g == nil {
		g = &linkGroup{}
		c.groups[n.attr.id] = g
	}
	g.names = append(g.names, n.name)
	g.changed = g.changed || changed
}

// remove notes that a name is gone.
func (c *changes) remove(name string) {
	if !c.skipped(name) {
		c.deleted[name] = struct{}{}
	}
}

// ordered gives everything to write, parents before what is in them.
func (c *changes) ordered() ([]change, error) {
	for _, g := range c.groups {
		if !g.changed {
			continue
		}
		for _, name := range g.names {
			c.present[name] = struct{}{}
		}
	}
	all := []change{{name: ""}}
	seen := map[string]struct{}{"": {}}
	parents := func(name string) {
		for dir, _ := splitName(name); ; dir, _ = splitName(dir) {
			if _, ok := seen[dir]; ok {
				return
			}
			seen[dir] = struct{}{}
			if _, ok := c.present[dir]; !ok {
				all = append(all, change{name: dir})
			}
		}
	}
	for name := range c.present {
		if name != "" {
			all = append(all, change{name: name})
			parents(name)
		}
	}
	for name := range c.deleted {
		all = append(all, change{name: name, deleted: true})
		parents(name)
	}
	slices.SortFunc(all, func(a, b change) int { return compareNames(a.name, b.name) })
	return all, checkChanges(all)
}

// checkChanges refuses what a reader of the difference would refuse or misread.
func checkChanges(all []change) error {
	if len(all) > MaxEntries {
		return fmt.Errorf("%d changed files, the limit of a difference is %d", len(all), MaxEntries)
	}
	for _, ch := range all {
		if hasWhiteoutPart(ch.name) {
			return fmt.Errorf("%s: a name that begins with %q means a deletion in an archive: rename or remove it",
				archive.QuoteName(containerPath(ch.name)), whiteoutPrefix)
		}
		if _, err := cleanName(ch.name); err != nil {
			return fmt.Errorf("%s: %w", archive.QuoteName(containerPath(ch.name)), err)
		}
	}
	return nil
}

// walkViews compares two views. A base without trees makes everything a change.
func walkViews(ctx context.Context, base, current *view, c *changes) error {
	cmp := newComparison()
	var walk func(was, is *node) error
	walk = func(was, is *node) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		before, err := base.children(was)
		if err != nil {
			return err
		}
		now, err := current.children(is)
		if err != nil {
			return err
		}
		return pair(before, now, func(old, cur *node) error {
			switch {
			case cur == nil:
				c.remove(old.name)
				return nil
			case c.skipped(cur.name), cur.attr.mount != current.trees[0].attr.mount:
				return nil
			}
			changed := true
			if old != nil {
				same, err := cmp.same(ctx, old, cur)
				if err != nil {
					return err
				}
				changed = !same
			}
			c.add(cur, changed, old != nil)
			if !cur.attr.isDir() {
				return nil
			}
			return walk(old, cur)
		})
	}
	return walk(base.root(), current.root())
}

// pair calls f for each name of two sorted lists, with nil where one has no such name.
func pair(before, now []*node, f func(old, cur *node) error) error {
	for len(before) > 0 || len(now) > 0 {
		var old, cur *node
		switch {
		case len(now) == 0 || (len(before) > 0 && before[0].name < now[0].name):
			old = before[0]
		case len(before) == 0 || now[0].name < before[0].name:
			cur = now[0]
		default:
			old, cur = before[0], now[0]
		}
		if old != nil {
			before = before[1:]
		}
		if cur != nil {
			now = now[1:]
		}
		if err := f(old, cur); err != nil {
			return err
		}
	}
	return nil
}

// errIndirect says that an upper layer alone does not hold what changed: files
// were renamed or changed in their attributes only, and their content is below.
var errIndirect = errors.New("the upper layer refers to the layers below it")

// walkUpper reads the changes off overlay's upper layer, with the help of a view
// of the lower ones where it must know what was there.
func walkUpper(ctx context.Context, upper, lower *view, c *changes) error {
	// below is the lower directory at this place; it is hidden when nothing of it shows through.
	var walk func(dir, below *node, hidden bool) error
	walk = func(dir, below *node, hidden bool) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		was, err := lower.children(below)
		if err != nil {
			return err
		}
		is, err := rawChildren(dir)
		if err != nil {
			return err
		}
		return pair(was, is, func(old, cur *node) error {
			if cur == nil {
				if hidden {
					c.remove(old.name)
				}
				return nil
			}
			if c.skipped(cur.name) {
				return nil
			}
			m, err := upper.marksOf(cur.places[0], cur.attr)
			switch {
			case err != nil:
				return err
			case m.indirect:
				return fmt.Errorf("%s: %w", archive.QuoteName(containerPath(cur.name)), errIndirect)
			case m.whiteout:
				if old != nil {
					c.remove(old.name)
				}
				return nil
			}
			c.add(cur, true, old != nil)
			if !cur.attr.isDir() {
				return nil
			}
			return walk(cur, old, hidden || m.opaque)
		})
	}
	return walk(upper.root(), lower.root(), false)
}

// rawChildren gives what is in a directory of one tree, overlay's marks as the files that they are.
func rawChildren(dir *node) ([]*node, error) {
	plain := view{trees: []*tree{dir.places[0].tree}}
	return plain.children(dir)
}
