package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/ckarchive/ckarchive/criu"
)

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
	x, err := c.checkpoint(ctx, file)
	if err != nil {
		return exported{}, err
	}
	return x, os.RemoveAll(c.images())
}

// checkpoint writes the images, and a file of them, with these options of runc.
func (c plainContainer) checkpoint(ctx context.Context, file string, options ...string) (exported, error) {
	argv := together(`file=$1 images=$2; shift 2; "$@"; tar --zstd -cf "$file" -C "$images" .; sync "$file"`, file, c.images())
	options = append([]string{"checkpoint", "--image-path", c.images(), "--work-path", c.dir}, options...)
	argv = append(argv, c.runc(append(options, c.id)...)...)
	_, u, err := measure(ctx, argv...)
	if err != nil {
		return exported{}, err
	}
	stats, err := criu.ReadStats(c.dir)
	if err != nil {
		return exported{}, err
	}
	return exported{usage: u, frozen: micros(stats.FrozenTime)}, nil
}

func (c plainContainer) restore(ctx context.Context, file string) (usage, error) {
	_, unpacked, err := measure(ctx, together(`mkdir "$2"; tar --zstd -xf "$1" -C "$2"`, file, c.images())...)
	if err != nil {
		return unpacked, err
	}
	restored, err := c.again(ctx, "")
	return unpacked.and(restored), err
}

func (c plainContainer) publish(ctx context.Context, name string) (p published, err error) {
	file, layout := filepath.Join(c.dir, "images.tar.zst"), filepath.Join(c.dir, "layout")
	if p.export, err = c.checkpoint(ctx, file, "--leave-running"); err != nil {
		return p, err
	}
	began := time.Now()
	if err := writeLayout(layout, file); err != nil {
		return p, err
	}
	made := usage{began: began, wall: time.Since(began)}
	_, p.push, err = measure(ctx, "skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", "oci:"+layout+":"+layoutTag, "docker://"+name)
	p.push = made.and(p.push)
	for _, made := range []string{layout, c.images()} {
		err = errors.Join(err, os.RemoveAll(made))
	}
	return p, err
}

func (c plainContainer) fetch(ctx context.Context, name string) (usage, error) {
	layout := filepath.Join(c.dir, "layout-there")
	_, pulled, err := measure(ctx, "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+name, "oci:"+layout+":"+layoutTag)
	if err != nil {
		return pulled, err
	}
	layer, err := layerOf(layout)
	if err != nil {
		return pulled, err
	}
	restored, err := c.restore(ctx, layer)
	return pulled.and(restored), err
}

// again is CRIU's own time, and what runc adds to it: the images are unpacked already.
func (c plainContainer) again(ctx context.Context, _ string) (usage, error) {
	argv := together(`exec "$@" </dev/null >/dev/null 2>&1`)
	argv = append(argv, c.runc("restore", "--detach", "--bundle", c.dir, "--image-path", c.images(), "--work-path", c.dir, c.id)...)
	_, u, err := measure(ctx, argv...)
	return u, err
}

func (c plainContainer) end(ctx context.Context) error {
	return run(ctx, c.runc("delete", "--force", c.id)...)
}
