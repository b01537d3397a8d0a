package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// FindOptions say where [Find] and [All] look. The zero value looks in the state
// directories of every runtime and every engine.
type FindOptions struct {
	Runtime string // name or path of the only runtime to ask; empty for all
	Root    string // the only state directory; empty for all, or the default one of Runtime
	State   string // the state directory of the direct runtime
	Host    Host   // where the engines' directories are
}

// Runtimes are the installed runtimes that opts allow, with their own state directories.
func (o FindOptions) Runtimes() ([]Runtime, error) {
	if o.Runtime != "" {
		root := o.Root
		if o.Runtime == Direct && root == "" {
			root = o.State
		}
		r, err := Lookup(o.Runtime, root)
		if err != nil {
			return nil, err
		}
		return []Runtime{r}, nil
	}
	all := []Runtime{}
	for _, k := range kinds() {
		if r, err := Lookup(k.name, o.Root); err == nil {
			all = append(all, r)
		}
	}
	if o.State != "" {
		all = append(all, Runtime{Name: Direct, Root: o.State})
	}
	return all, nil
}

// AmbiguousError says that more than one container is meant. It is neither an
// [ErrNotFound] nor an [ErrExists].
type AmbiguousError struct {
	Name       string
	Candidates []*Container
}

// Error lists the candidates and says how to choose.
func (e *AmbiguousError) Error() string {
	list := []string{}
	ids := map[string]bool{}
	for _, c := range e.Candidates {
		ids[c.ID] = true
		list = append(list, c.describe())
	}
	choose := "name one by its full ID"
	if len(ids) < len(e.Candidates) || ids[e.Name] {
		choose = "choose one with --runtime and --runtime-root"
	}
	return fmt.Sprintf("%q names %d containers: %s; %s", e.Name, len(list), strings.Join(list, ", "), choose)
}

// describe names the container for a choice among several.
func (c *Container) describe() string {
	about := []string{}
	if c.Name != "" {
		about = append(about, fmt.Sprintf("%q", c.Name))
	}
	if c.Pod != "" {
		about = append(about, fmt.Sprintf("pod %q", c.Pod))
	}
	if c.Engine != "" {
		about = append(about, c.Engine)
	}
	if c.User != 0 {
		about = append(about, fmt.Sprintf("user %d", c.User))
	}
	about = append(about, c.Runtime.Name+" in "+c.Runtime.Root)
	return c.ID + " (" + strings.Join(about, ", ") + ")"
}

// minPrefix is the least of an ID that can stand for it.
const minPrefix = 3

// Find looks for the container that name means: its ID, what its engine calls it
// (with Kubernetes also POD/NAME and NAMESPACE/POD/NAME), or three or more characters
// that only its ID begins with. More than one is an [AmbiguousError].
func Find(ctx context.Context, name string, opts FindOptions) (*Container, error) {
	tiers, err := opts.places()
	if err != nil {
		return nil, err
	}
	s := newSurvey(opts.Host.here())
	for _, tier := range tiers {
		var sighted []*Container
		for _, p := range tier {
			list, err := s.sight(p)
			if err != nil {
				return nil, err
			}
			sighted = append(sighted, list...)
		}
		switch found := match(sighted, name, opts); len(found) {
		case 0:
		case 1:
			return s.ask(ctx, found[0])
		default:
			return nil, &AmbiguousError{Name: name, Candidates: found}
		}
	}
	return nil, s.missing(name, opts)
}

// match gives the containers that name means.
func match(all []*Container, name string, opts FindOptions) []*Container {
	var ids, exact, prefixes []*Container
	for _, c := range all {
		switch {
		case c.ID == name:
			ids = append(ids, c)
			exact = append(exact, c)
		case name != "" && (c.Name == name || slices.Contains(c.aliases, name)):
			exact = append(exact, c)
		case len(name) >= minPrefix && strings.HasPrefix(c.ID, name):
			prefixes = append(prefixes, c)
		}
	}
	// Who says where to look has been told of the others, and needs a way to the one
	// whose ID is another one's name.
	if len(ids) == 1 && (opts.Runtime != "" || opts.Root != "") {
		return ids
	}
	if len(exact) > 0 {
		return exact
	}
	return prefixes
}

// missing is the error for a name that no runtime knows.
func (s *survey) missing(name string, opts FindOptions) error {
	if opts.Runtime == "" && opts.Root == "" {
		for _, e := range engines() {
			if e.idle == nil {
				continue
			}
			if id := e.idle(s, name); id != "" {
				return fmt.Errorf("%w: %s has %q (%s) and no runtime runs it: start it first", ErrNotRunning, e.name, name, id)
			}
		}
	}
	where := strings.Join(s.looked, ", ")
	if len(s.unread) > 0 {
		where += "; these need root: " + strings.Join(s.unread, ", ")
	}
	if len(name) < minPrefix {
		where += fmt.Sprintf("; the beginning of an ID stands for it from %d characters on", minPrefix)
	}
	return fmt.Errorf("%w: %q; looked in %s", ErrNotFound, name, where)
}

// ask completes a sighted container with what its runtime says now.
func (s *survey) ask(ctx context.Context, c *Container) (*Container, error) {
	r := c.Runtime
	if r.Name != Direct && r.Path == "" {
		var err error
		if r, err = Lookup(r.Name, r.Root); err != nil {
			return nil, fmt.Errorf("container %q is one of %s in %s: %w; name its binary with --runtime and %s with --runtime-root",
				c.ID, c.Runtime.Name, c.Runtime.Root, err, c.Runtime.Root)
		}
	}
	now, err := r.Container(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	now.User = c.User
	s.identify(now)
	if c.User != 0 && c.User != s.host.User && now.PID > 0 {
		if err := belongs(now.PID, c.User); err != nil {
			return nil, fmt.Errorf("container %q in %s: %w", c.ID, r.Root, err)
		}
	}
	return now, nil
}
