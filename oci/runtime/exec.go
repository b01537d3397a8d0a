package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// commandTimeout bounds the runtime's quick commands. A restore has the caller's
// deadline.
const commandTimeout = 30 * time.Second

// killDelay is how long a command that was asked to end may take.
const killDelay = 10 * time.Second

// maxStderrLines of a runtime's output are quoted in an error.
const maxStderrLines = 5

// command prepares the runtime with args. It runs in its own session, so that a
// Ctrl-C at the terminal reaches only ckarchive, and with an environment of
// our own: variables such as CRIU_FAULT change what it does.
func (r Runtime) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := command(ctx, r.Path, append([]string{"--root", r.Root}, args...)...)
	runAsUser(cmd, r.Root)
	return cmd
}

// command is one of a program that the operator names. It ends in order when ctx ends, and by no signal of our terminal.
func command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // no shell
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	cmd.Dir = "/"
	return cmd
}

func environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
}

// flag is an option of a runtime's command that is there or not.
type flag struct {
	name string
	set  bool
}

func appendFlags(args []string, flags []flag) []string {
	for _, f := range flags {
		if f.set {
			args = append(args, f.name)
		}
	}
	return args
}

// usePath puts dir first in the command's PATH, so that the runtime takes the criu
// that lies there and not another one of the host.
func usePath(cmd *exec.Cmd, dir string) {
	if dir != "" {
		cmd.Env[0] = "PATH=" + dir + ":" + strings.TrimPrefix(cmd.Env[0], "PATH=")
	}
}

// run executes a quick command and gives its output.
func (r Runtime) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := r.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, r.failure(ctx, args[0], err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// failure names the command and quotes what the runtime said.
func (r Runtime) failure(ctx context.Context, verb string, err error, stderr []byte) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	said := lastLines(string(stderr))
	var exit *exec.ExitError
	if errors.As(err, &exit) && said != "" {
		return fmt.Errorf("%s %s: %s", r.Name, verb, said)
	}
	if said != "" {
		return fmt.Errorf("%s %s: %w: %s", r.Name, verb, err, said)
	}
	return fmt.Errorf("%s %s: %w", r.Name, verb, err)
}

// lastLines gives the end of a runtime's output without its log decoration.
func lastLines(out string) string {
	lines := []string{}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		var entry struct { // runsc's way, with a stack behind the message
			Msg string `json:"msg"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil {
			line, _, _ = strings.Cut(entry.Msg, "\n")
		}
		if _, msg, ok := strings.Cut(line, "msg="); ok {
			msg, _, _ = strings.Cut(msg, `" error=`)
			line = strings.Trim(msg, `"`)
		}
		// runc says this of every failed restore, some times over, and then succeeds.
		if line != "" && !strings.Contains(line, "Failed to remove cgroup (will retry)") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-maxStderrLines):], "; ")
}

// Version is the first line of the runtime's --version.
func (r Runtime) Version(ctx context.Context) (string, error) {
	if r.Name == Direct {
		return "", nil
	}
	said, err := r.aboutItself(ctx)
	line, _, _ := strings.Cut(said, "\n")
	return strings.TrimSpace(line), err
}

// aboutItself is all that the runtime prints for --version.
func (r Runtime) aboutItself(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Path, "--version") //nolint:gosec // the operator names the runtime
	cmd.Env = environment()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", r.Path, err)
	}
	return string(out), nil
}

// fileReader and fileWriter keep a nil *os.File from becoming a non-nil interface.
func fileReader(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

func fileWriter(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}

// runAll runs a command that starts others, such as a runtime that starts CRIU. When it fails it
// returns only after all of them have ended: a CRIU whose runtime was killed gives the container
// back as it found it, and must not do so after somebody else has resumed it. The caller has to be
// the subreaper of its descendants.
func runAll(cmd *exec.Cmd) error {
	err := cmd.Run()
	if err == nil || cmd.Process == nil {
		return err
	}
	return errors.Join(err, reapGroup(cmd.Process.Pid))
}

// reapGroup waits for the end of all processes of a session of ours. After a while they are asked
// to end, and then made to.
func reapGroup(group int) error {
	const step = 5 * time.Millisecond
	began := time.Now()
	signal := syscall.Signal(0)
	for {
		pid, err := syscall.Wait4(-group, nil, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return nil
		case err != nil && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("wait for the processes of session %d: %w", group, err)
		case pid > 0:
			continue
		}
		next := syscall.Signal(0)
		switch waited := time.Since(began); {
		case waited > 2*killDelay:
			next = syscall.SIGKILL
		case waited > killDelay:
			next = syscall.SIGTERM
		}
		if next != signal {
			signal = next
			if err := syscall.Kill(-group, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end the processes of session %d: %w", group, err)
			}
		}
		time.Sleep(step)
	}
}

// subreap makes this process the parent of descendants whose own parent ends.
func subreap() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}
