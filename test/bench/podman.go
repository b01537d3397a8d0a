package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// podman is Podman with the storages of two hosts.
type podman struct {
	*scene
	image string
}

var _ tool = podman{}

func newPodman(s *scene) podman { return podman{s, "localhost/ckarchive-bench:base"} }

// The storages of two hosts. Podman 4 allows 50 characters for the name of its run directory.
const (
	here  = "p1"
	there = "p2"
)

// importBase makes an image of the base on both hosts, with the same ID: only that one is restored on.
func (t podman) importBase(ctx context.Context) error {
	tar, image := filepath.Join(t.dir, "base.tar"), filepath.Join(t.dir, "base-image.tar")
	if err := run(ctx, "tar", "-cf", tar, "-C", t.base, "."); err != nil {
		return err
	}
	for _, argv := range [][]string{t.podman(here, "import", tar, t.image), t.podman(here, "save", "--output", image, t.image), t.podman(there, "load", "--input", image)} {
		if err := run(ctx, argv...); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(tar), os.Remove(image))
}

func (t podman) podman(host string, args ...string) []string {
	storage := filepath.Join(t.dir, host)
	return append([]string{
		"podman", "--root", filepath.Join(storage, "root"), "--runroot", filepath.Join(storage, "run"), "--tmpdir", filepath.Join(storage, "tmp"),
		"--storage-driver", "overlay", "--events-backend", "none", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
	}, args...)
}

// close removes all that podman keeps, mounts included.
func (t podman) close(ctx context.Context) (err error) {
	for _, host := range []string{here, there} {
		err = errors.Join(err,
			run(ctx, t.podman(host, "rm", "--all", "--force", "--time", "0")...),
			run(ctx, t.podman(host, "rmi", "--all", "--force")...),
			run(ctx, "sh", "-c", `cut -d' ' -f5 /proc/self/mountinfo | grep -F "$1/" | sort -r | xargs -r umount`, "sh", filepath.Join(t.dir, host)))
	}
	return err
}

func (t podman) start(ctx context.Context) (container, error) {
	args := []string{
		"run", "--detach", "--name", t.id, "--network", "host", "--volume", t.out + ":/out",
		// A container's default limits are higher than a caller without CAP_SYS_RESOURCE may set.
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
	}
	for _, e := range t.load.env() {
		args = append(args, "--env", e)
	}
	args = append(append(args, t.image), t.load.command()...)
	return podmanContainer{t}, run(ctx, t.podman(here, args...)...)
}

type podmanContainer struct{ podman }

func (c podmanContainer) export(ctx context.Context, file string) (exported, error) {
	x, err := c.checkpoint(ctx, "--compress", "zstd", "--export", file)
	if err != nil {
		return exported{}, err
	}
	return x, c.end(ctx)
}

// checkpoint makes one with these options.
func (c podmanContainer) checkpoint(ctx context.Context, options ...string) (exported, error) {
	argv := append([]string{"container", "checkpoint", "--print-stats"}, options...)
	out, u, err := measure(ctx, c.podman.podman(here, append(argv, c.id)...)...)
	if err != nil {
		return exported{}, err
	}
	var said struct {
		Containers []struct {
			CRIU struct {
				Frozen int64 `json:"frozen_time"`
			} `json:"criu_statistics"`
		} `json:"container_statistics"`
	}
	// The ID of the container may stand before the statistics.
	text := string(out)
	if err := json.Unmarshal([]byte(text[max(0, strings.IndexByte(text, '{')):]), &said); err != nil || len(said.Containers) != 1 {
		return exported{}, fmt.Errorf("read what podman printed, %q: %w", out, err)
	}
	return exported{usage: u, frozen: micros(said.Containers[0].CRIU.Frozen)}, nil
}

// exportFile implements [fileExporter].
func (c podmanContainer) exportFile(ctx context.Context, file string) (exported, error) {
	return c.checkpoint(ctx, "--leave-running", "--compress", "zstd", "--export", file)
}

func (c podmanContainer) restore(ctx context.Context, file string) (usage, error) {
	_, u, err := measure(ctx, c.podman.podman(here, "container", "restore", "--import", file)...)
	return u, err
}

func (c podmanContainer) publish(ctx context.Context, name string) (p published, err error) {
	// An image of the same name would be kept, without a name.
	if p.export, err = c.checkpoint(ctx, "--leave-running", "--create-image", name); err != nil {
		return p, err
	}
	if _, p.push, err = measure(ctx, c.podman.podman(here, "push", "--tls-verify=false", name)...); err != nil {
		return p, err
	}
	return p, run(ctx, c.podman.podman(here, "rmi", "--force", name)...)
}

func (c podmanContainer) fetch(ctx context.Context, name string) (usage, error) {
	_, pull, err := measure(ctx, c.podman.podman(there, "pull", "--tls-verify=false", name)...)
	if err != nil {
		return pull, err
	}
	restore, err := c.again(ctx, name)
	return pull.and(restore), err
}

func (c podmanContainer) again(ctx context.Context, name string) (usage, error) {
	_, u, err := measure(ctx, c.podman.podman(there, "container", "restore", name)...)
	return u, err
}

func (c podmanContainer) end(ctx context.Context) (err error) {
	for _, host := range []string{here, there} {
		err = errors.Join(err, run(ctx, c.podman.podman(host, "rm", "--force", "--time", "0", "--ignore", c.id)...))
	}
	return err
}

// remove leaves the image of the base.
func (c podmanContainer) remove(ctx context.Context) error {
	err := c.end(ctx)
	for _, host := range []string{here, there} {
		images, ierr := exec.CommandContext(ctx, "podman", c.podman.podman(host, "images", "--format", "{{.Repository}}:{{.Tag}}")[1:]...).Output()
		err = errors.Join(err, ierr)
		for image := range strings.FieldsSeq(string(images)) {
			if image != c.image {
				err = errors.Join(err, run(ctx, c.podman.podman(host, "rmi", "--force", image)...))
			}
		}
	}
	return err
}
