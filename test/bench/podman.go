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

// podman is Podman with a storage of its own. It is both hosts: Podman restores an image only where its directories
// have the same names as where it was made. What was sent is removed before it is fetched.
type podman struct {
	*scene
	image string
}

var _ tool = podman{}

func newPodman(s *scene) podman { return podman{s, "localhost/ckarchive-bench:base"} }

// importBase makes an image of the base.
func (t podman) importBase(ctx context.Context) error {
	tar := filepath.Join(t.dir, "base.tar")
	if err := run(ctx, "tar", "-cf", tar, "-C", t.base, "."); err != nil {
		return err
	}
	if err := run(ctx, t.podman("import", tar, t.image)...); err != nil {
		return err
	}
	return os.Remove(tar)
}

func (t podman) podman(args ...string) []string {
	storage := t.storage()
	return append([]string{
		"podman", "--root", filepath.Join(storage, "root"), "--runroot", filepath.Join(storage, "run"), "--tmpdir", filepath.Join(storage, "tmp"),
		"--storage-driver", "overlay", "--events-backend", "none", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
	}, args...)
}

// storage is its directory. Podman 4 allows 50 characters for the name of its run directory.
func (t podman) storage() string { return filepath.Join(t.dir, "podman") }

// close removes all that podman keeps, mounts included.
func (t podman) close(ctx context.Context) error {
	return errors.Join(
		run(ctx, t.podman("rm", "--all", "--force", "--time", "0")...),
		run(ctx, t.podman("rmi", "--all", "--force")...),
		run(ctx, "sh", "-c", `cut -d' ' -f5 /proc/self/mountinfo | grep -F "$1/" | sort -r | xargs -r umount`, "sh", t.storage()))
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
	return podmanContainer{t}, run(ctx, t.podman(args...)...)
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
	out, u, err := measure(ctx, c.podman.podman(append(argv, c.id)...)...)
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
	_, u, err := measure(ctx, c.podman.podman("container", "restore", "--import", file)...)
	return u, err
}

func (c podmanContainer) publish(ctx context.Context, name string) (p published, err error) {
	if p.export, err = c.checkpoint(ctx, "--leave-running", "--create-image", name); err != nil {
		return p, err
	}
	if _, p.push, err = measure(ctx, c.podman.podman("push", "--tls-verify=false", name)...); err != nil {
		return p, err
	}
	return p, run(ctx, c.podman.podman("rmi", "--force", name)...)
}

func (c podmanContainer) fetch(ctx context.Context, name string) (usage, error) {
	_, pull, err := measure(ctx, c.podman.podman("pull", "--tls-verify=false", name)...)
	if err != nil {
		return pull, err
	}
	restore, err := c.again(ctx, name)
	return pull.and(restore), err
}

func (c podmanContainer) again(ctx context.Context, name string) (usage, error) {
	_, u, err := measure(ctx, c.podman.podman("container", "restore", name)...)
	return u, err
}

func (c podmanContainer) end(ctx context.Context) error {
	return run(ctx, c.podman.podman("rm", "--force", "--time", "0", "--ignore", c.id)...)
}

// remove leaves the image of the base.
func (c podmanContainer) remove(ctx context.Context) error {
	err := c.end(ctx)
	images, ierr := exec.CommandContext(ctx, "podman", c.podman.podman("images", "--format", "{{.Repository}}:{{.Tag}}")[1:]...).Output()
	err = errors.Join(err, ierr)
	for image := range strings.FieldsSeq(string(images)) {
		if image != c.image {
			err = errors.Join(err, run(ctx, c.podman.podman("rmi", "--force", image)...))
		}
	}
	return err
}
