package criu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// requireReal skips a test that needs root, CRIU and runc, and fails it in CI.
func requireReal(t *testing.T) Binary {
	t.Helper()
	skip := func(format string, args ...any) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatalf(format, args...)
		}
		t.Skipf(format, args...)
	}
	if os.Geteuid() != 0 {
		skip("needs root")
	}
	b, err := Find("", "")
	if err != nil {
		skip("needs criu: %v", err)
	}
	if err := b.Check(t.Context()); err != nil {
		skip("needs a criu that works on this kernel: %v", err)
	}
	for _, p := range []string{"runc", "busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			skip("needs %s: %v", p, err)
		}
	}
	return b
}

// container is a container of runc.
type container struct {
	t      *testing.T
	id     string
	root   string // of runc
	bundle string
	spec   *specs.Spec
	pid    int
	out    *bufio.Reader // its standard output
}

// specOption changes a test container's spec.
type specOption func(*specs.Spec)

func withArgs(args ...string) specOption { return func(s *specs.Spec) { s.Process.Args = args } }

const counter = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.05; done"

// newBundle writes a bundle with busybox as its root file system.
func newBundle(t *testing.T, options ...specOption) (bundle string, spec *specs.Spec) {
	t.Helper()
	bundle = t.TempDir()
	rootfs := filepath.Join(bundle, "rootfs")
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, d), 0o755))
	}
	path, err := exec.LookPath("busybox")
	must(t, err)
	b, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(rootfs, "bin/busybox"), b, 0o755))
	for _, name := range []string{"sh", "sleep", "cat", "echo", "ls", "nc", "ip", "tty"} {
		must(t, os.Symlink("busybox", filepath.Join(rootfs, "bin", name)))
	}
	cmd := exec.Command("runc", "spec")
	cmd.Dir = bundle
	run(t, cmd)
	config := filepath.Join(bundle, "config.json")
	b, err = os.ReadFile(config)
	must(t, err)
	spec = &specs.Spec{}
	must(t, json.Unmarshal(b, spec))
	spec.Process.Rlimits = nil // needs CAP_SYS_RESOURCE
	spec.Process.Terminal = false
	spec.Process.Args = []string{"sh", "-c", counter}
	spec.Root.Readonly = false
	for _, o := range options {
		o(spec)
	}
	b, err = json.Marshal(spec)
	must(t, err)
	must(t, os.WriteFile(config, b, 0o600))
	return bundle, spec
}

// withTask makes a mode of testdata/task the first process.
func withTask(t *testing.T, args ...string) specOption {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "task"), "./testdata/task")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	run(t, cmd)
	return func(s *specs.Spec) {
		s.Process.Args = append([]string{"/task/task"}, args...)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/task", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
	}
}

// startContainer starts a container whose standard output is a pipe.
func startContainer(t *testing.T, options ...specOption) *container {
	t.Helper()
	bundle, spec := newBundle(t, options...)
	c := &container{t: t, id: fmt.Sprintf("criutest-%d-%s", os.Getpid(), filepath.Base(t.TempDir())), root: filepath.Join(t.TempDir(), "runc"), bundle: bundle, spec: spec}
	c.id = strings.ReplaceAll(c.id+t.Name(), "/", "-")
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close() })
	cmd := c.runc("run", "-d", "-b", bundle, c.id)
	cmd.Stdout, cmd.Stderr = w, w
	t.Cleanup(func() { c.runc("delete", "-f", c.id).Run() })
	run(t, cmd)
	w.Close()
	c.out = bufio.NewReader(r)
	c.pid = c.state().Pid
	return c
}

func (c *container) runc(args ...string) *exec.Cmd {
	return exec.Command("runc", append([]string{"--root", c.root}, args...)...)
}

func (c *container) state() specs.State {
	c.t.Helper()
	out, err := c.runc("state", c.id).Output()
	must(c.t, err)
	var s specs.State
	must(c.t, json.Unmarshal(out, &s))
	return s
}

func (c *container) options(dir string) DumpOptions {
	return DumpOptions{
		Spec: c.spec, PID: c.pid, Rootfs: filepath.Join(c.bundle, "rootfs"),
		ImagesDir: filepath.Join(dir, "images"), WorkDir: filepath.Join(dir, "work"),
		Descriptors: c.recorded(),
	}
}

// recorded gives what runc noted of the container's standard descriptors.
func (c *container) recorded() []string {
	b, err := os.ReadFile(filepath.Join(c.root, c.id, "state.json"))
	must(c.t, err)
	var st struct {
		D []string `json:"external_descriptors"`
	}
	must(c.t, json.Unmarshal(b, &st))
	return st.D
}

// tick reads output up to the next tick and gives its number.
func tick(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("read output of the container: %v (%q)", err, line)
		}
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "tick "); ok {
			i, err := strconv.Atoi(n)
			must(t, err)
			return i
		}
	}
}

// mustTick checks that the counter goes on without a gap.
func mustTick(t *testing.T, r *bufio.Reader) {
	t.Helper()
	first := tick(t, r)
	for i := 1; i < 5; i++ {
		if got, want := tick(t, r), first+i; got != want {
			t.Fatalf("tick %d, want %d", got, want)
		}
	}
}

// drain gives what is in a pipe whose writers are gone.
func drain(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}

// killTree ends a container that was restored directly.
func killTree(pid int) {
	unix.Kill(pid, unix.SIGKILL)
	var ws syscall.WaitStatus
	syscall.Wait4(pid, &ws, 0, nil)
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if cmd.Stdout != nil {
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		return
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// logOf gives CRIU's log for a failed test.
func logOf(err error) string {
	var e *Error
	if !errors.As(err, &e) || e.LogPath == "" {
		return ""
	}
	b, _ := os.ReadFile(e.LogPath)
	return string(b[max(0, len(b)-6000):])
}
