package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/cache"
)

// countRules are the flags that are for one container, as rules of a command line with --count.
func (c *restoreCmd) countRules() []rule {
	one := func(given bool, flag string) rule {
		return rule{given, flag + " is for one container, and --count makes several", "leave it out, or restore them one by one"}
	}
	freeing := c.freesImages()
	return []rule{
		{freeing != "", "with auto-dedup in " + freeing + " CRIU frees the images that several containers share", "remove it from there, or restore them one by one"},
		{c.Count < 0, "--count says how many containers are made", "--count 1 and more"},
		{!c.Detach && !c.DryRun, "--count makes several containers, and only one can be in the foreground", "add --detach"},
		one(c.PIDFile != "", "--pid-file"),
		one(c.Log != "", "--log"),
		one(c.ConsoleSocket != "", "--console-socket"),
		one(c.Bundle != "", "--bundle"),
		one(c.Rootfs != "", "--rootfs"),
		one(c.CgroupPath != "", "--cgroup-path"),
		one(len(c.InheritFD) > 0, "--inherit-fd"),
		one(len(c.Veth) > 0, "--veth"),
		one(on(c.TCPEstablished), "--tcp-established"),
		{c.Into != "", "--count and --into exclude each other: Podman restores one at a time", ""},
	}
}

// numbered is what the container number i of several is called.
func numbered(name string, i int) string { return name + "-" + strconv.Itoa(i) }

// several restores --count containers of one checkpoint, which is unpacked once, as is its base image. As with engines that are given
// several containers, one that fails is told of and leaves nothing, and the others live on.
func (c *restoreCmd) several(ctx context.Context, a *app) (err error) {
	m := &restore{cmd: c, app: a}
	defer func() { err = cause(ctx, errors.Join(err, m.closeSource(), m.closeBase())) }()
	if err := m.open(ctx); err != nil {
		return err
	}
	if !m.hasHead() {
		return &usageError{err: fmt.Errorf("the metadata of %s is not at its beginning, and --count needs it there", c.Source), hint: "ckarchive import brings it into the local store, in order"}
	}
	copies, err := m.copies(ctx)
	if err != nil {
		return err
	}
	if c.DryRun {
		copies[0].id += " to " + copies[len(copies)-1].id
		return copies[0].printPlan()
	}
	m.home = a.unnamedHome()
	defer m.release()
	if err := m.claim(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, archive.RemoveTree(m.home)) }()
	p := a.newProgress()
	err = m.unpack(ctx, p, m.unpacked())
	if err == nil {
		err = m.shareBase(ctx, p)
	}
	p.close(err)
	if err != nil {
		return err
	}
	return c.restoreAll(ctx, a, copies)
}

// copies judges all containers before one is made.
func (r *restore) copies(ctx context.Context) ([]*restore, error) {
	if err := r.read(r.head); err != nil {
		return nil, err
	}
	if _, err := r.chooseID(ctx); err != nil {
		return nil, err
	}
	var list []*restore
	for i := range r.cmd.Count {
		cmd := *r.cmd
		cmd.ID = numbered(r.id, i+1)
		if cmd.Name != "" {
			cmd.Name = numbered(cmd.Name, i+1)
		}
		one := &restore{cmd: &cmd, app: r.app, loc: r.loc, head: r.head, base: r.base, template: filepath.Join(r.app.unnamedHome(), "archive")}
		err := one.judge(ctx, r.head)
		r.base = one.base
		if err != nil {
			return nil, err
		}
		if one.options.on("tcp-established") {
			return nil, &usageError{err: errors.New("it was dumped with --tcp-established, and only one container can have its connections"), hint: "add --tcp-close, which closes them in every container"}
		}
		list = append(list, one)
	}
	return list, nil
}

// restoreAll restores one container after the other.
func (c *restoreCmd) restoreAll(ctx context.Context, a *app, copies []*restore) error {
	var results []restoreResult
	var failed []error
	for _, r := range copies {
		if ctx.Err() != nil {
			failed = append(failed, fmt.Errorf("restore container %q: %w", r.id, context.Cause(ctx)))
			continue
		}
		if err := r.run(ctx); err != nil {
			failed = append(failed, err)
			continue
		}
		r.release()
		results = append(results, r.result())
		if !a.cli.JSON {
			if err := a.printResult(r.id, nil); err != nil {
				failed = append(failed, err)
			}
		}
	}
	if a.cli.JSON {
		failed = append(failed, a.printJSON(results))
	}
	failed = append(failed, c.print(a, nil))
	if err := errors.Join(failed...); err != nil {
		return &restoreError{fmt.Errorf("%d of %d containers were restored: %w", len(results), len(copies), err)}
	}
	return nil
}

// share lays out the unpacked archive that several containers have in common.
func (r *restore) share(ctx context.Context, p *progress, dir string) error {
	p.begin("share", 0)
	r.shared = true
	return cache.Share(ctx, dir, r.template)
}
