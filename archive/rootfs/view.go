package rootfs

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// place is a file in one tree.
type place struct {
	tree *tree
	name string
}

// node is a file of a view.
type node struct {
	name   string // clean, "" for the root
	attr   attr
	places []place // a directory of several layers lies in several, the top one first
	data   place   // where a regular file's content lies
}

// view is a file system to compare: one tree, or overlay's layers merged here
// instead of by a mount.
type view struct {
	trees []*tree // the top one first
	marks string  // the prefix of overlay's attributes, "" for a plain tree
}

// openView opens the directories, the top one first. The caller closes the view.
func openView(marks string, paths ...string) (*view, error) {
	v := &view{marks: marks}
	for i, p := range paths {
		t, err := openTree(p)
		if err != nil {
			v.close()
			return nil, err
		}
		t.layer = i
		v.trees = append(v.trees, t)
	}
	return v, nil
}

func (v *view) close() {
	for _, t := range v.trees {
		t.close()
	}
}

// root is the view's top directory; a view without trees has none.
func (v *view) root() *node {
	if len(v.trees) == 0 {
		return nil
	}
	n := &node{attr: v.trees[0].attr}
	for _, t := range v.trees {
		n.places = append(n.places, place{t, ""})
	}
	return n
}

// children gives what is in a directory, in order of the names. For nil, which
// stands for a directory that is not there, it gives nothing.
func (v *view) children(dir *node) ([]*node, error) {
	if dir == nil || !dir.attr.isDir() {
		return nil, nil
	}
	listed := make([]map[string]attr, len(dir.places))
	names := map[string]struct{}{}
	for i, p := range dir.places {
		entries, err := p.tree.list(p.name)
		if err != nil {
			return nil, err
		}
		listed[i] = entries
		for name := range entries {
			names[name] = struct{}{}
		}
	}
	nodes := make([]*node, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n, err := v.merge(dir, name, listed)
		if err != nil {
			return nil, err
		}
		if n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// merge finds what the layers of a directory make of a name, as overlay does: the
// top one wins, directories join those below them, marks end or redirect the
// search. It gives nil for a name that is deleted.
func (v *view) merge(dir *node, name string, listed []map[string]attr) (*node, error) {
	look := func(i int, p place, base string) (attr, bool, error) {
		if listed != nil {
			a, ok := listed[i][base]
			return a, ok, nil
		}
		a, err := p.tree.stat(joinName(p.name, base))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return attr{}, false, nil
		}
		return a, err == nil, err
	}
	var n *node
	bases, base := dir.places, name
	for i := 0; i < len(bases); i++ {
		a, ok, err := look(i, bases[i], base)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		here := place{bases[i].tree, joinName(bases[i].name, base)}
		m, err := v.marksOf(here, a)
		if err != nil {
			return nil, err
		}
		if m.whiteout || (n != nil && n.attr.isDir() != a.isDir()) {
			break
		}
		if n == nil {
			n = &node{name: joinName(dir.name, name), attr: a}
		}
		n.places = append(n.places, here)
		n.data = here
		if m.ends {
			break
		}
		if m.redirect != "" {
			bases, base = v.redirected(bases[i:], m.redirect)
			i, listed = -1, nil
		}
	}
	return n, nil
}

// redirected gives the directories and the name under which the layers below
// bases[0] hold what was renamed in it.
func (v *view) redirected(bases []place, target string) (below []place, base string) {
	if !strings.HasPrefix(target, "/") {
		return bases[1:], target
	}
	dir, base := splitName(strings.TrimPrefix(path.Clean(target), "/"))
	for _, t := range v.trees[bases[0].tree.layer+1:] {
		below = append(below, place{t, dir})
	}
	return below, base
}

// mark is what overlay wrote on a file of a layer.
type mark struct {
	whiteout bool   // the name is deleted
	ends     bool   // nothing below shows through
	opaque   bool   // so says the directory's mark
	indirect bool   // the file is not all there: metacopy or redirect
	redirect string // the name that it has below
}

// marksOf reads overlay's marks at a place. A plain tree has none.
func (v *view) marksOf(p place, a attr) (mark, error) {
	switch {
	case v.marks == "":
		return mark{ends: true}, nil
	case a.isNullDevice():
		return mark{whiteout: true}, nil
	case !a.isDir() && !a.isRegular():
		return mark{ends: true}, nil
	}
	h, err := p.tree.handle(p.name)
	if err != nil {
		return mark{}, err
	}
	defer h.Close() //nolint:errcheck // read only
	read := func(key string) (string, bool) {
		if err != nil {
			return "", false
		}
		value, ok, e := readXattr(int(h.Fd()), v.marks+key)
		err = e
		return value, ok
	}
	var m mark
	if a.isDir() {
		value, _ := read("opaque")
		m.opaque = value == "y"
		m.ends = m.opaque
	} else {
		if a.size == 0 {
			_, m.whiteout = read("whiteout")
		}
		_, m.indirect = read("metacopy")
		m.ends = !m.indirect
	}
	if !m.ends {
		var ok bool
		m.redirect, ok = read("redirect")
		m.indirect = m.indirect || ok
	}
	return m, err
}
