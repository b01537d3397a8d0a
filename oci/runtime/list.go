package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// List gives the containers of the runtime. One that cannot be read is left out and
// part of the error; the others are given all the same.
func (r Runtime) List(ctx context.Context) ([]*Container, error) {
	s := newSurvey(Host{}.here())
	sighted, err := s.sight(place{runtime: r, root: r.Root, user: rootUser(r.Root)})
	if err == nil && len(s.unread) > 0 {
		err = fs.ErrPermission
	}
	if err != nil {
		return nil, fmt.Errorf("list the containers of %s in %q: %w", r.Name, r.Root, err)
	}
	return s.askAll(ctx, sighted)
}

// Sighted gives the containers of all runtimes and engines as their state directories and files name them, without a
// Status and a PID: it asks no runtime, and leaves out what it cannot read.
func Sighted(opts FindOptions) []*Container {
	tiers, err := opts.places()
	if err != nil {
		return nil
	}
	s := newSurvey(opts.Host.here())
	var sighted []*Container
	for _, tier := range tiers {
		for _, p := range tier {
			list, _ := s.sight(p)
			sighted = append(sighted, list...)
		}
	}
	return sighted
}

// All gives the containers of all runtimes and engines. Those that cannot be read are left
// out and part of the error; the others are given all the same.
func All(ctx context.Context, opts FindOptions) ([]*Container, error) {
	tiers, err := opts.places()
	if err != nil {
		return nil, err
	}
	s := newSurvey(opts.Host.here())
	var sighted []*Container
	var errs error
	for _, tier := range tiers {
		for _, p := range tier {
			list, err := s.sight(p)
			errs = errors.Join(errs, err)
			sighted = append(sighted, list...)
		}
	}
	if len(s.unread) > 0 {
		errs = errors.Join(errs, fmt.Errorf("look for containers in %s: %w", strings.Join(s.unread, ", "), fs.ErrPermission))
	}
	all, err := s.askAll(ctx, sighted)
	return all, errors.Join(errs, err)
}

// askAll completes the containers that are still there.
func (s *survey) askAll(ctx context.Context, sighted []*Container) ([]*Container, error) {
	var list []*Container
	var errs error
	for _, c := range sighted {
		now, err := s.ask(ctx, c)
		switch {
		case errors.Is(err, ErrNotFound): // it went meanwhile
		case err != nil:
			errs = errors.Join(errs, err)
		default:
			list = append(list, now)
		}
	}
	return list, errs
}
