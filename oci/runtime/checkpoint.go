package runtime

import (
	"cmp"
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
		"--log", o.LogPath, cmp.Or(r.kind.checkpoint, "checkpoint"), "--leave-running",
		"--image-path", o.ImagesDir, "--work-path", o.WorkDir,
	}
	args = appendFlags(args, []flag{
		{"--tcp-established", o.TCPEstablished},
		{"--ext-unix-sk", o.ExtUnixSk},
		{"--shell-job", o.ShellJob},
		{"--file-locks", o.FileLocks},
	})
	cmd := r.command(ctx, append(args, c.ID)...)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	usePath(cmd, o.CRIUPath)
	if err := subreap(); err != nil {
		return err
	}
	if err := runAll(cmd); err != nil {
		said, _ := os.ReadFile(o.LogPath) // the error stands without it
		return r.failure(ctx, "checkpoint", err, said)
	}
	return nil
}
