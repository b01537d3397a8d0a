package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// play measures one scene and prints its table.
func (o options) play(ctx context.Context, name string) error {
	p := performance{name: name, mib: o.mib, runs: 1}
	switch name {
	case fileScene:
		p.runs, p.choose, p.title = o.runs, mixedOf(o.mib), mixedTitle(o.mib)
	case registryScene:
		p.runs, p.choose, p.title, p.changes = o.runs, mixedOf(o.mib), mixedTitle(o.mib), perCent(1)
	case redisScene:
		p.choose = func(string) (workload, error) { return newRedis(ctx, o.mib) }
		p.title, p.changes = "Redis; so many of its keys are set anew", perCent(1, 5, 20)
	case nodeScene:
		p.choose = func(string) (workload, error) { return newNode(ctx, o.mib) }
		p.title, p.changes = "Node.js; so many entries of its map are made anew", perCent(1, 20)
	case jvmScene:
		p.choose = func(string) (workload, error) { return newJVM(ctx, o.mib) }
		p.title, p.changes = "A Java virtual machine; so many entries of its map are made anew", perCent(1, 20)
	default:
		return o.grow(ctx, name)
	}
	return o.perform(ctx, &p)
}

func mixedTitle(mib int) string {
	return fmt.Sprintf("%d MiB of memory: 1/4 zeros, 1/3 text, the rest random; a change rewrites a quarter of a page", mib)
}

// mixedOf chooses the block of memory.
func mixedOf(mib int) func(string) (workload, error) {
	return func(out string) (workload, error) { return mixed{out, mib}, nil }
}

// change is how much is changed between two checkpoints.
type change struct {
	percent float64
	when    string // as the rows after it say
}

func perCent(percents ...float64) []change {
	list := make([]change, len(percents))
	for i, p := range percents {
		list[i] = change{p, fmt.Sprintf("after %g %%", p)}
	}
	return list
}

// performance is a scene with its numbers.
type performance struct {
	name, title string
	mib, runs   int
	changes     []change // none: by a file
	choose      func(out string) (workload, error)
	results     results
}

func (o options) perform(ctx context.Context, p *performance) (err error) {
	p.results = results{}
	o.measured[p.name] = p.results
	dir := filepath.Join(o.dir, p.name)
	cleanUp := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, run(cleanUp, "rm", "-rf", "--one-file-system", dir)) }()
	s, err := newScene(ctx, dir, o.binary, o.tree, p.mib, p.choose)
	if err != nil {
		return err
	}
	tools := map[string]tool{oursName: ours{s}, plainName: plain{s}}
	if slices.Contains(o.tools, podmanName) {
		pod := newPodman(s)
		defer func() { err = errors.Join(err, pod.close(cleanUp)) }()
		if err := pod.importBase(ctx); err != nil {
			return err
		}
		tools[podmanName] = pod
	}
	quantities, measureOnce := fileQuantities(), byFile
	if len(p.changes) > 0 {
		quantities = registryQuantities(s, p.changes)
		measureOnce = func(ctx context.Context, s *scene, t tool, add recorder, restore bool) error {
			return byRegistry(ctx, s, t, add, p.changes, restore)
		}
	}
	for n := range p.runs {
		// Every tool comes first now and then.
		for _, name := range rotated(o.tools, n) {
			fmt.Fprintf(os.Stderr, "%s, run %d of %d: %s\n", p.name, n+1, p.runs, name)
			add := func(q string, v float64) { p.results.add(name, q, v) }
			if err := measureOnce(ctx, s, tools[name], add, slices.Contains(o.steps, restoreStep)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	fmt.Printf("\n%s: %s; %s\n", p.name, p.title, times(p.runs))
	return p.results.print(os.Stdout, quantities, o.tools, oursName, podmanName)
}

func times(runs int) string {
	if runs == 1 {
		return "one run each"
	}
	return fmt.Sprintf("%d runs each, in turn", runs)
}

// grow measures the block of memory at three sizes, of which the same amount changes, and compares
// them with each other.
func (o options) grow(ctx context.Context, name string) error {
	const when = "after the same change"
	growth, sizes := results{}, []string{}
	for _, mib := range []int{max(1, o.mib/4), o.mib, 4 * o.mib} {
		size := fmt.Sprintf("%d MiB", mib)
		sizes = append(sizes, size)
		if done := o.measured[registryScene]; mib == o.mib && done != nil {
			growth[size] = renamed(done[oursName], perCent(1)[0].when, when) // it is the same
			continue
		}
		p := performance{
			name: fmt.Sprintf("%s-%d", name, mib), title: mixedTitle(mib), mib: mib, runs: 1, choose: mixedOf(mib),
			// A hundredth of the middle size.
			changes: []change{{float64(o.mib) / float64(mib), when}},
		}
		if err := o.perform(ctx, &p); err != nil {
			return err
		}
		growth[size] = p.results[oursName]
	}
	fmt.Printf("\n%s: %s at three sizes, of which the same %d pages change\n", name, oursName, o.mib<<20/100/4096)
	return growth.print(os.Stdout, []quantity{
		{name: frozenTime},
		{name: publishWall("first")},
		{name: pushBytes("first")},
		{name: publishWall(when)},
		{name: pushWall(when)},
		{name: pushBytes(when)},
		{name: fetchTick},
		{name: againTick},
	}, sizes, "", "")
}

// renamed are samples of quantities with another word in their names.
func renamed(all map[string]samples, old, now string) map[string]samples {
	other := map[string]samples{}
	for name, s := range all {
		other[strings.ReplaceAll(name, old, now)] = s
	}
	return other
}
