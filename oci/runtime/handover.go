package runtime

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// PodmanEngine is the Podman of this host, which takes checkpoints over.
type PodmanEngine struct {
	path string
	// global are the flags before its verb, as --root DIR.
	global []string
}

// LookupPodman finds Podman. global are its global flags: an [ErrNoRuntime] if it is not installed.
func LookupPodman(global []string) (*PodmanEngine, error) {
	path, err := lookPath("podman")
	if err != nil {
		return nil, fmt.Errorf("podman: %w: %w", ErrNoRuntime, err)
	}
	return &PodmanEngine{path: path, global: slices.Clone(global)}, nil
}

// ImageID gives the ID of an image in Podman's storage, or "" if it has none of that name.
func (p *PodmanEngine) ImageID(ctx context.Context, name string) (string, error) {
	out, err := p.run(ctx, "image", "inspect", "--format", "{{.Id}}", "--", name)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", nil
	}
	return out, err
}

// PodmanImport are the options of [PodmanEngine.Import].
type PodmanImport struct {
	File  string   // the checkpoint, as a tar
	Name  string   // of the container; empty for its own
	Flags []string // of podman container restore, as --tcp-established
}

// Import restores a checkpoint as a container of Podman's and gives its ID. What Podman says when
// it cannot is in the error. It runs as long as ctx lets it: a restore takes its time.
func (p *PodmanEngine) Import(ctx context.Context, opts PodmanImport) (string, error) {
	args := append([]string{"container", "restore", "--import", opts.File}, opts.Flags...)
	if opts.Name != "" {
		args = append(args, "--name", opts.Name)
	}
	out, err := p.run(ctx, args...)
	lines := strings.Split(out, "\n")
	return lines[len(lines)-1], err
}

// run executes one command of Podman in a session of its own.
func (p *PodmanEngine) run(ctx context.Context, args ...string) (string, error) {
	cmd := command(ctx, p.path, append(slices.Clone(p.global), args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", fmt.Errorf("podman %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, lastLines(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}
