package env

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// patience is how long anything is waited for. Tests that go well never see it.
const patience = 60 * time.Second

// ShortTemp is where directories are made whose path has to be short: the name of a socket may have 107 bytes, Podman's run root
// 50. The temporary directory of the environment may be anywhere.
const ShortTemp = "/tmp"

// Container is a container of a runtime.
type Container struct {
	ID      string
	Runtime string // the program's name, or [Direct]
	Root    string // the runtime's state directory
	Bundle  string
	PID     int    // of its first process (of runsc: of the sandbox), on the host
	Log     string // the file that has its output
	// Shared is the directory of the host that has the workload's status file, for a container
	// that has its own beside the host's kernel. Empty is /tmp in the container.
	Shared string

	started string // when its first process did, in the kernel's words
}

// Status is what the workload says about itself; see test/workload.
type Status struct {
	Tick       uint64   `json:"tick"`
	PID        int      `json:"pid"` // inside
	Request    string   `json:"request"`
	MemoryOK   bool     `json:"memory_ok"`
	ChildrenOK bool     `json:"children_ok"`
	TmpfsOK    bool     `json:"tmpfs_ok"`
	DeletedOK  bool     `json:"deleted_ok"`
	VolumeOK   bool     `json:"volume_ok"`
	TCPOK      bool     `json:"tcp_ok"`
	Errors     []string `json:"errors"`
}

// OK says whether everything the workload checks is right.
func (s Status) OK() bool {
	return s.MemoryOK && s.ChildrenOK && s.TmpfsOK && s.DeletedOK && s.VolumeOK && s.TCPOK && len(s.Errors) == 0
}

// Run starts a container with `RUNTIME --root root run --detach`. Its output
// goes through a pipe (or its terminal, if it has one) into a log file:
// a container whose output is a file of the host is a special case of dumping.
// When the test ends, the container is killed and deleted.
func Run(tb testing.TB, runtime, root, id, bundle string) *Container {
	tb.Helper()
	return start(tb, runtime, root, id, bundle, "run", "--detach")
}

// RunRunc is [Run] with runc.
func RunRunc(tb testing.TB, root, id, bundle string) *Container {
	tb.Helper()
	return Run(tb, "runc", root, id, bundle)
}

// RestoreRunc is [RunRunc] with `runc restore` from the images in a directory,
// and further arguments of runc restore.
func RestoreRunc(tb testing.TB, root, id, bundle, images string, args ...string) *Container {
	tb.Helper()
	return start(tb, "runc", root, id, bundle, append([]string{"restore", "--detach", "--image-path", images, "--work-path", tb.TempDir()}, args...)...)
}

func start(tb testing.TB, runtime, root, id, bundle string, verb ...string) *Container {
	tb.Helper()
	program := Program(tb, runtime)
	dir := tb.TempDir()
	c := &Container{ID: id, Runtime: runtime, Root: root, Bundle: bundle, Log: filepath.Join(dir, "output")}
	log := filepath.Join(dir, "runtime.log")
	args := append(globalFlags(runtime, root), "--log", log)
	args = append(append(args, verb...), "--bundle", bundle, "--pid-file", filepath.Join(dir, "pid"))
	output, err := os.Create(c.Log)
	if err != nil {
		tb.Fatalf("run container %s: %v", id, err)
	}
	if hasTerminal(tb, bundle) {
		args = append(args, "--console-socket", console(tb, output))
	}
	// Registered before the container's end, and so run after it: the pipe
	// comes to its end when the last process that writes to it is gone.
	writer := drain(tb, output)
	tb.Cleanup(func() { c.remove(tb) })

	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(args, id)...)
	cmd.Stdout, cmd.Stderr = writer, writer
	err = cmd.Run()
	if closeErr := writer.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s%s", runtime, strings.Join(cmd.Args[1:], " "), err, read(log), read(c.Log))
	}
	c.PID, err = strconv.Atoi(strings.TrimSpace(read(filepath.Join(dir, "pid"))))
	if err != nil {
		tb.Fatalf("read pid of container %s: %v", id, err)
	}
	c.noteStart()
	return c
}

// noteStart remembers which process has the container's PID.
func (c *Container) noteStart() {
	if fields := processFields(c.PID); len(fields) > 19 {
		c.started = fields[19]
	}
}

// read is the content of a file for a message, or the reason why there is none.
func read(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// State asks the runtime for the container's state.
func (c *Container) State(tb testing.TB) specs.State {
	tb.Helper()
	var state specs.State
	if err := json.Unmarshal([]byte(c.Command(tb, "state", c.ID)), &state); err != nil {
		tb.Fatalf("decode state of container %s: %v", c.ID, err)
	}
	return state
}

// Command runs the container's runtime with its state directory and returns what it
// prints; the test ends when it fails.
func (c *Container) Command(tb testing.TB, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, Program(tb, c.Runtime), append(globalFlags(c.Runtime, c.Root), args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", c.Runtime, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// Path is where a file of the container is found on the host while it runs.
func (c *Container) Path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(c.PID), "root", name)
}

// work is where a file of the workload, which is in /tmp there, is found on the host.
func (c *Container) work(name string) string {
	if c.Shared != "" {
		return filepath.Join(c.Shared, name)
	}
	return c.Path(filepath.Join("/tmp", name))
}

// Status is what the workload in the container says about itself.
func (c *Container) Status(tb testing.TB) Status {
	tb.Helper()
	status, err := c.readStatus("status")
	if err != nil {
		tb.Fatalf("read status of container %s: %v\n%s", c.ID, err, read(c.Log))
	}
	return status
}

func (c *Container) readStatus(name string) (Status, error) {
	var status Status
	content, err := os.ReadFile(c.work(name))
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal(content, &status)
}

// WaitTick waits until the workload has come to a tick, and returns its status.
func (c *Container) WaitTick(tb testing.TB, tick uint64) Status {
	tb.Helper()
	var status Status
	c.wait(tb, fmt.Sprintf("tick %d", tick), func() (bool, error) {
		var err error
		status, err = c.readStatus("status")
		return err == nil && (status.Tick >= tick || len(status.Errors) > 0), err
	})
	if status.Tick < tick || !status.OK() {
		tb.Fatalf("container %s is not well: %+v", c.ID, status)
	}
	return status
}

// Verify has the workload verify everything and ends the test when it finds
// anything wrong.
func (c *Container) Verify(tb testing.TB) Status {
	tb.Helper()
	request := strconv.FormatInt(time.Now().UnixNano(), 36)
	// Written aside and renamed: the workload must not see half a request.
	aside := c.work(".verify-request")
	if err := os.WriteFile(aside, []byte(request), 0o644); err != nil {
		tb.Fatalf("ask container %s to verify: %v", c.ID, err)
	}
	if err := os.Rename(aside, c.work("verify-request")); err != nil {
		tb.Fatalf("ask container %s to verify: %v", c.ID, err)
	}
	var status Status
	c.wait(tb, "its verification", func() (bool, error) {
		var err error
		status, err = c.readStatus("verify-result")
		return err == nil && status.Request == request, err
	})
	if !status.OK() {
		tb.Fatalf("container %s is not well: %+v", c.ID, status)
	}
	return status
}

// wait looks again and again until done; the process's end, patience's end and
// errors other than a file that is not there yet end the test.
func (c *Container) wait(tb testing.TB, what string, done func() (bool, error)) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		ok, err := done()
		if ok {
			return
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			tb.Fatalf("wait for container %s, %s: %v\n%s", c.ID, what, err, read(c.Log))
		}
		if !alive(c.PID, c.started) {
			tb.Fatalf("container %s ended before %s:\n%s", c.ID, what, read(c.Log))
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("container %s did not come to %s (last: %v):\n%s", c.ID, what, err, read(c.Log))
		case <-look.C:
		}
	}
}

// WaitEnd waits until the container's first process is gone.
func (c *Container) WaitEnd(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), patience)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for alive(c.PID, c.started) {
		select {
		case <-ctx.Done():
			tb.Fatalf("container %s did not end", c.ID)
		case <-look.C:
		}
	}
}

// alive says whether the process of that number is still the one that started
// then: a zombie, which waits for its parent, is not.
func alive(pid int, started string) bool {
	fields := processFields(pid)
	return len(fields) > 19 && fields[0] != "Z" && fields[0] != "X" && fields[19] == started
}

// processFields are those of /proc/PID/stat from the state on: 0 is the state,
// 19 the time of start. It is nil when there is no such process.
func processFields(pid int) []string {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}
