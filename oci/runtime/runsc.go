package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// The names of runsc's state files: ID_sandbox:SANDBOX.state.
const (
	sandboxMark  = "_sandbox:"
	sandboxState = ".state"
)

// loadSandbox completes a container of runsc with what its state file says of the sandbox. Its PID is
// that of the sandbox: its own processes are not the host's.
func (c *Container) loadSandbox() error {
	states := glob(c.Runtime.Root, c.ID+sandboxMark+"*"+sandboxState) // what CheckID allows is no pattern
	if len(states) == 0 {
		return fmt.Errorf("%w: %s has no %q in %s", ErrNotFound, c.Runtime.Name, c.ID, c.Runtime.Root)
	}
	var st struct {
		Created time.Time `json:"createdAt"`
		Sandbox struct {
			Metadata struct {
				Network  string `json:"network"`
				Overlay  string `json:"overlay"`
				Platform string `json:"platform"`
			} `json:"metricMetadata"`
		} `json:"sandbox"`
	}
	if err := readJSON(states[0], &st); err != nil {
		return fmt.Errorf("container %q: %w", c.ID, err)
	}
	c.Created = st.Created
	m := st.Sandbox.Metadata
	c.Sandbox = &archive.Sandbox{Network: m.Network, Overlay: m.Overlay, Platform: m.Platform}
	_, suffix, _ := strings.Cut(filepath.Base(states[0]), sandboxMark)
	c.sandboxID = strings.TrimSuffix(suffix, sandboxState)
	for _, path := range glob(c.Runtime.Root, "*"+sandboxMark+suffix) {
		if id, _, _ := strings.Cut(filepath.Base(path), sandboxMark); id != c.ID {
			c.neighbours = append(c.neighbours, id)
		}
	}
	if !alive(c.PID) {
		// runsc goes on to call a container paused whose sandbox was killed.
		c.Status, c.PID = Stopped, 0
	}
	return nil
}

// checkApart tells whether runsc could tell a container of that ID from the others: it takes an ID for the
// beginning of longer ones too, and then acts on none.
func (r Runtime) checkApart(id string) error {
	for _, path := range glob(r.Root, "*"+sandboxMark+"*"+sandboxState) {
		other, _, _ := strings.Cut(filepath.Base(path), sandboxMark)
		if strings.HasPrefix(other, id) || strings.HasPrefix(id, other) {
			return fmt.Errorf("%w: %s could not tell %q from %q, which is in %s", ErrExists, r.Name, id, other, r.Root)
		}
	}
	return nil
}

// SandboxFiles are the files that runsc itself keeps in the root file system, from its root on: no
// part of the container.
func (c *Container) SandboxFiles() []string {
	if c.Sandbox == nil {
		return nil
	}
	return []string{"/.gvisor.filestore." + c.sandboxID}
}

// SandboxProcesses counts the processes of a container of runsc, paused or not.
func (c *Container) SandboxProcesses(ctx context.Context) (int, error) {
	out, err := c.Runtime.run(ctx, "ps", "-format", "json", c.ID)
	if err != nil {
		return 0, err
	}
	var pids []int
	if err := json.Unmarshal(out, &pids); err != nil {
		return 0, fmt.Errorf("%s ps %s: %w", c.Runtime.Name, c.ID, err)
	}
	return len(pids), nil
}

// sandboxStdin are the numbers that versions of runsc give to the standard input of the container among the
// sandbox's descriptors; output and error follow it. Source: startingStdioFD in runsc/boot/loader.go.
func sandboxStdin() []int { return []int{253, 256} }

// SandboxOutput are the regular files of the host that the container has as standard output and error:
// the sandbox writes to a position of its own in them, so that a restored one needs files again.
func (c *Container) SandboxOutput() ([]archive.External, error) {
	dir := fmt.Sprintf("/proc/%d", c.PID)
	files := []archive.External{}
	for _, first := range sandboxStdin() {
		if _, err := os.Stat(fmt.Sprintf("%s/fd/%d", dir, first+2)); err != nil {
			continue
		}
		for fd := 1; fd <= 2; fd++ {
			e, err := outputFile(dir, first+fd)
			if err != nil {
				return nil, fmt.Errorf("look for the output of container %q: %w", c.ID, err)
			}
			if e.FD = fd; e.Mode&unix.S_IFMT == unix.S_IFREG {
				files = append(files, e)
			}
		}
		break
	}
	return files, nil
}

// outputFile describes a descriptor of the process in dir.
func outputFile(dir string, number int) (archive.External, error) {
	e := archive.External{Kind: "file"}
	path := fmt.Sprintf("%s/fd/%d", dir, number)
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if err != nil {
		return e, err
	}
	e.Mode, e.Size = st.Mode, st.Size
	if e.Path, err = os.Readlink(path); err != nil {
		return e, err
	}
	_, err = fmt.Sscanf(keyValues(fmt.Sprintf("%s/fdinfo/%d", dir, number), ":")["flags"], "%o", &e.Flags)
	return e, err
}

// SaveSandbox makes runsc write its images of the container into the directory dir, which exists.
// The sandbox goes on as it was found: one that was paused stays so, also when this fails.
func (c *Container) SaveSandbox(ctx context.Context, dir string) error {
	return c.Runtime.runToEnd(ctx, c.Runtime.command(ctx, "checkpoint", "--leave-running", "--image-path", dir, c.ID), "checkpoint")
}

// SandboxRestoreOptions are what runsc's restore takes.
type SandboxRestoreOptions struct {
	ID        string
	Bundle    string // absolute
	ImagesDir string // absolute
	WorkDir   string // absolute: files of the restore itself
	// ConsoleSocket takes the terminal of a container that has one.
	ConsoleSocket string
	// Flags are runsc's global ones for the new sandbox, without their dashes, as network=none.
	Flags []string
	// Stdin, Stdout and Stderr become the container's; nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
}

// sandboxAnnotations tell runsc the name of a container, and of which sandbox it becomes a part.
func sandboxAnnotations() []string {
	return []string{
		criContainerName, "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id",
		crioType, "io.kubernetes.cri-o.SandboxID",
	}
}

// Prepare changes a runtime configuration to one with which runsc restores the images: the container gets
// the name that it has there, and a sandbox of its own whatever the configuration says.
func (i SandboxImages) Prepare(spec *specs.Spec) {
	for _, key := range sandboxAnnotations() {
		delete(spec.Annotations, key)
	}
	if strings.HasPrefix(i.Name, "__no_name_") {
		return // runsc calls it so again
	}
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	spec.Annotations[criContainerName] = i.Name
}

func (o SandboxRestoreOptions) args(log, pidFile string) []string {
	args := []string{"--log", log}
	for _, f := range o.Flags {
		args = append(args, "--"+f)
	}
	args = append(args, "restore", "--detach", "--image-path", o.ImagesDir, "--bundle", o.Bundle, "--pid-file", pidFile)
	if o.ConsoleSocket != "" {
		args = append(args, "--console-socket", o.ConsoleSocket)
	}
	return append(args, o.ID)
}

// RestoreSandbox makes runsc restore a container and gives the pid of its sandbox, which is a child of
// this process or of its subreaper, ends with the container and has its exit status. When it returns
// all memory has been read. Whatever it fails at, nothing of the ID is left in the runtime.
func (r Runtime) RestoreSandbox(ctx context.Context, o SandboxRestoreOptions) (int, error) {
	if err := r.CheckRestore(ctx, archive.FormatGVisor); err != nil {
		return 0, err
	}
	if err := r.CheckFree(o.ID); err != nil {
		return 0, err
	}
	log, pidFile := filepath.Join(o.WorkDir, "runtime.log"), filepath.Join(o.WorkDir, "pid")
	cmd := r.command(ctx, o.args(log, pidFile)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = fileReader(o.Stdin), fileWriter(o.Stdout), fileWriter(o.Stderr)
	return r.restored(ctx, cmd, o.ID, log, pidFile)
}

// runToEnd runs a command that may outlast commandTimeout, and quotes what it said when it failed.
func (r Runtime) runToEnd(ctx context.Context, cmd *exec.Cmd, verb string) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := subreap(); err != nil {
		return err
	}
	if err := runAll(cmd); err != nil {
		return r.failure(ctx, verb, err, said.Bytes())
	}
	return nil
}
