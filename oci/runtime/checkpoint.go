package runtime

import (
	"context"
	"fmt"
	"os"
	"syscall"
)

// CheckpointOptions are what a runtime's checkpoint command takes. The container
// always keeps its processes: ending it is the caller's, after the archive is durable.
type CheckpointOptions struct {
	ImagesDir, WorkDir string // absolute; both exist
	LogPath            string // the runtime's own log
	CRIUPath           string // directory of the criu to use, put first in PATH; or empty
	TCPEstablished     bool
	ExtUnixSk          bool
	ShellJob           bool
	FileLocks          bool
}

// Checkpoint makes the runtime dump the container into ImagesDir.
func (c *Container) Checkpoint(ctx context.Context, o CheckpointOptions) error {
	r := c.Runtime
	if r.Name == Direct {
		return fmt.Errorf("dump container %q: it has no runtime: use --engine direct", c.ID)
	}
	args := []string{
		"--log", o.LogPath, "checkpoint", "--leave-running",
		"--image-path", o.ImagesDir, "--work-path", o.WorkDir,
	}
	for _, f := range []struct {
		set  bool
		flag string
	}{
		{o.TCPEstablished, "--tcp-established"},
		{o.ExtUnixSk, "--ext-unix-sk"},
		{o.ShellJob, "--shell-job"},
		{o.FileLocks, "--file-locks"},
	} {
		if f.set {
			args = append(args, f.flag)
		}
	}
	cmd := r.command(ctx, append(args, c.ID)...)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	usePath(cmd, o.CRIUPath)
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(o.LogPath) // the error stands without it
		return r.failure(ctx, "checkpoint", err, said)
	}
	return nil
}
