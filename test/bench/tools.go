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
	"github.com/ckarchive/ckarchive/criu"
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
	// remove ends it and everything that was made for it.
	remove(ctx context.Context) error
}

// exported is what an export took.
type exported struct {
	usage
	frozen time.Duration // by CRIU
	paused time.Duration // with what the tool did while the container stood still; 0 if unknown
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
	spec.Process.Terminal, spec.Process.Args, spec.Root.Readonly = false, b.command(), false
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

func (c oursContainer) ckarchive(verb string, args ...string) []string {
	dir := c.scene.dir
	return append([]string{
		c.binary, "--root", filepath.Join(dir, "store"), "--run-dir", filepath.Join(dir, "run"), "--json", "--quiet", verb,
		"--runtime", "runc", "--runtime-root", filepath.Join(dir, "runc"), "--base", c.base,
	}, args...)
}

func (c oursContainer) export(ctx context.Context, file string) (exported, error) {
	out, u, err := measure(ctx, c.ckarchive("export", c.id, file)...)
	if err != nil {
		return exported{}, err
	}
	var said struct {
		Stats archive.Stats `json:"stats"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return exported{}, fmt.Errorf("read what ckarchive export printed: %w", err)
	}
	if err := run(ctx, c.runc("delete", "--force", c.id)...); err != nil {
		return exported{}, err
	}
	return exported{u, micros(said.Stats.FrozenTime), micros(said.Stats.PausedTime)}, nil
}

func (c oursContainer) restore(ctx context.Context, file string) (usage, error) {
	_, u, err := measure(ctx, c.ckarchive("restore", "--detach", "--map-mount", "/out="+c.out, file)...)
	return u, err
}

// plain is runc's own checkpoint, packed by tar and zstd. It carries no root file system.
type plain struct{ *scene }

var _ tool = plain{}

func (t plain) start(ctx context.Context) (container, error) {
	c := plainContainer{runcBundle{t.scene, filepath.Join(t.dir, "bundle")}}
	return c, c.runcBundle.start(ctx)
}

type plainContainer struct{ runcBundle }

// together makes one command of several, so that they are measured as one.
func together(script string, args ...string) []string {
	return append([]string{"sh", "-euc", script, "sh"}, args...)
}

func (c plainContainer) images() string { return filepath.Join(c.dir, "images") }

func (c plainContainer) export(ctx context.Context, file string) (exported, error) {
	argv := together(`file=$1 images=$2; shift 2; "$@"; tar --zstd -cf "$file" -C "$images" .; sync "$file"`, file, c.images())
	argv = append(argv, c.runc("checkpoint", "--image-path", c.images(), "--work-path", c.dir, c.id)...)
	_, u, err := measure(ctx, argv...)
	if err != nil {
		return exported{}, err
	}
	stats, err := criu.ReadStats(c.dir)
	if err != nil {
		return exported{}, err
	}
	return exported{usage: u, frozen: micros(stats.FrozenTime)}, os.RemoveAll(c.images())
}

func (c plainContainer) restore(ctx context.Context, file string) (usage, error) {
	argv := together(`file=$1 images=$2; shift 2; mkdir "$images"; tar --zstd -xf "$file" -C "$images"; exec "$@" </dev/null >/dev/null 2>&1`, file, c.images())
	argv = append(argv, c.runc("restore", "--detach", "--bundle", c.dir, "--image-path", c.images(), "--work-path", c.dir, c.id)...)
	_, u, err := measure(ctx, argv...)
	return u, err
}
