package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// tool is one way to carry a container.
type tool interface {
	// start runs the load in a container.
	start(ctx context.Context) (container, error)
}

// container is a load that runs, or did.
type container interface {
	// export writes the archive and ends the container.
	export(ctx context.Context, file string) (exported, error)
	// restore brings it back from the archive and returns when the command has.
	restore(ctx context.Context, file string) (usage, error)
	// publish makes a checkpoint of the container, which goes on, and sends it to a registry under a name.
	publish(ctx context.Context, name string) (published, error)
	// fetch restores on another host what publish has sent. The container here has ended.
	fetch(ctx context.Context, name string) (usage, error)
	// again does so once more, on the same host.
	again(ctx context.Context, name string) (usage, error)
	// end ends what runs. What was fetched stays.
	end(ctx context.Context) error
	// remove ends it and everything that was made for it.
	remove(ctx context.Context) error
}

// exported is what an export took.
type exported struct {
	usage
	frozen time.Duration // by CRIU
	paused time.Duration // with what the tool did while the container stood still; 0 if unknown
}

// published is what sending a checkpoint to a registry took.
type published struct {
	export exported // to where it is pushed from: a store, an image or a file
	push   usage
}

// and is one usage after another.
func (u usage) and(next usage) usage {
	return usage{
		began: u.began, wall: u.wall + next.wall, cpu: u.cpu + next.cpu,
		peak: max(u.peak, next.peak), peakAll: max(u.peakAll, next.peakAll),
	}
}

func micros[T int64 | uint64](n T) time.Duration {
	return time.Duration(n) * time.Microsecond //nolint:gosec // a duration of a dump
}

// runcBundle starts the load by runc in a new bundle.
type runcBundle struct {
	*scene
	dir string
}

// prepare makes the bundle. The network is the host's, as it is for podman.
func (b runcBundle) prepare(ctx context.Context) error {
	if err := run(ctx, "rm", "-rf", "--one-file-system", b.dir); err != nil {
		return err
	}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return err
	}
	if err := run(ctx, "runc", "spec", "--bundle", b.dir); err != nil {
		return err
	}
	path := filepath.Join(b.dir, "config.json")
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	spec := specs.Spec{}
	if err := json.Unmarshal(content, &spec); err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	spec.Process.Terminal, spec.Process.Args, spec.Root.Readonly = false, b.load.command(), false
	spec.Process.Env = append(spec.Process.Env, b.load.env()...)
	namespaces := []specs.LinuxNamespace{}
	for _, n := range spec.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace {
			namespaces = append(namespaces, n)
		}
	}
	spec.Linux.Namespaces = namespaces
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: b.out, Options: []string{"bind", "rw"}})
	if content, err = json.Marshal(spec); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	return run(ctx, "cp", "-a", b.base, filepath.Join(b.dir, "rootfs"))
}

func (b runcBundle) runc(args ...string) []string {
	return append([]string{"runc", "--root", filepath.Join(b.scene.dir, "runc"), "--log", b.log()}, args...)
}

func (b runcBundle) log() string { return filepath.Join(b.scene.dir, "runc.log") }

func (b runcBundle) start(ctx context.Context) error {
	if err := b.prepare(ctx); err != nil {
		return err
	}
	return launch(ctx, b.log(), b.runc("run", "--detach", "--bundle", b.dir, b.id)...)
}

func (b runcBundle) remove(ctx context.Context) error {
	return errors.Join(
		run(ctx, b.runc("delete", "--force", b.id)...),
		run(ctx, "rm", "-rf", "--one-file-system", b.dir))
}

// ours is ckarchive with a container of runc.
type ours struct{ *scene }

var _ tool = ours{}

func (t ours) start(ctx context.Context) (container, error) {
	c := oursContainer{runcBundle{t.scene, filepath.Join(t.dir, "bundle")}}
	return c, c.runcBundle.start(ctx)
}

type oursContainer struct{ runcBundle }

// ckarchive is its command line, on this host or, with another store, the other one.
func (c oursContainer) ckarchive(store, verb string, args ...string) []string {
	dir := c.scene.dir
	argv := []string{c.binary, "--root", filepath.Join(dir, store), "--run-dir", filepath.Join(dir, "run-"+store), "--json", "--quiet", verb}
	if verb == "export" || verb == "restore" {
		argv = append(argv, "--runtime", "runc", "--runtime-root", filepath.Join(dir, "runc"), "--base", c.base)
	}
	if verb == "restore" {
		// The other host has not made the checkpoint itself, and trusts nobody's.
		argv = append(argv, "--detach", "--map-mount", "/out="+c.out, "--allow", "host:network")
	}
	return append(argv, args...)
}

// The stores of two hosts.
const (
	hereStore  = "store"
	thereStore = "store-there"
)

func (c oursContainer) export(ctx context.Context, file string) (exported, error) {
	x, err := c.dump(ctx, c.id, file)
	if err != nil {
		return exported{}, err
	}
	return x, c.end(ctx)
}

// dump exports with these arguments.
func (c oursContainer) dump(ctx context.Context, args ...string) (exported, error) {
	out, u, err := measure(ctx, c.ckarchive(hereStore, "export", args...)...)
	if err != nil {
		return exported{}, err
	}
	var said struct {
		Stats archive.Stats `json:"stats"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return exported{}, fmt.Errorf("read what ckarchive export printed: %w", err)
	}
	return exported{u, micros(said.Stats.FrozenTime), micros(said.Stats.PausedTime)}, nil
}

func (c oursContainer) restore(ctx context.Context, file string) (usage, error) {
	_, u, err := measure(ctx, c.ckarchive(hereStore, "restore", file)...)
	return u, err
}

func (c oursContainer) publish(ctx context.Context, name string) (p published, err error) {
	if p.export, err = c.dump(ctx, "--leave-running", c.id, name); err != nil {
		return p, err
	}
	_, p.push, err = measure(ctx, c.ckarchive(hereStore, "push", "--plain-http", name, name)...)
	return p, err
}

func (c oursContainer) fetch(ctx context.Context, name string) (usage, error) {
	_, u, err := measure(ctx, c.ckarchive(thereStore, "restore", "--plain-http", name)...)
	return u, err
}

func (c oursContainer) again(ctx context.Context, name string) (usage, error) {
	_, u, err := measure(ctx, c.ckarchive(thereStore, "restore", "--pull", "never", name)...)
	return u, err
}

func (c oursContainer) end(ctx context.Context) error {
	return run(ctx, c.runc("delete", "--force", c.id)...)
}

func (c oursContainer) remove(ctx context.Context) error {
	err := c.runcBundle.remove(ctx)
	for _, store := range []string{hereStore, thereStore} {
		err = errors.Join(err, run(ctx, "rm", "-rf", "--one-file-system", filepath.Join(c.scene.dir, store)))
	}
	return err
}
