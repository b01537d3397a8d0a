package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// podman is Podman with a storage of its own.
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
	return run(ctx, t.podman("import", tar, t.image)...)
}

func (t podman) podman(args ...string) []string {
	storage := filepath.Join(t.dir, "podman")
	return append([]string{
		"podman", "--root", filepath.Join(storage, "root"), "--runroot", filepath.Join(storage, "run"), "--tmpdir", filepath.Join(storage, "tmp"),
		"--storage-driver", "overlay", "--events-backend", "none", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
	}, args...)
}

// close removes all that podman keeps, mounts included.
func (t podman) close(ctx context.Context) error {
	return errors.Join(
		run(ctx, t.podman("rm", "--all", "--force", "--time", "0")...),
		run(ctx, t.podman("rmi", "--all", "--force")...),
		run(ctx, "sh", "-c", `cut -d' ' -f5 /proc/self/mountinfo | grep -F "$1/" | sort -r | xargs -r umount`, "sh", filepath.Join(t.dir, "podman")))
}

func (t podman) start(ctx context.Context) (container, error) {
	args := []string{
		"run", "--detach", "--name", t.id, "--network", "host", "--volume", t.out + ":/out",
		// A container's default limits are higher than a caller without CAP_SYS_RESOURCE may set.
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", t.image,
	}
	return podmanContainer{t}, run(ctx, t.podman(append(args, t.command()...)...)...)
}

type podmanContainer struct{ podman }

func (c podmanContainer) export(ctx context.Context, file string) (exported, error) {
	out, u, err := measure(ctx, c.podman.podman("container", "checkpoint", "--print-stats", "--compress", "zstd", "--export", file, c.id)...)
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
	return exported{usage: u, frozen: micros(said.Containers[0].CRIU.Frozen)}, c.remove(ctx)
}

func (c podmanContainer) restore(ctx context.Context, file string) (usage, error) {
	_, u, err := measure(ctx, c.podman.podman("container", "restore", "--import", file)...)
	return u, err
}

func (c podmanContainer) remove(ctx context.Context) error {
	return run(ctx, c.podman.podman("rm", "--force", "--time", "0", "--ignore", c.id)...)
}
