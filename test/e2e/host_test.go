package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// host is what one machine would have: a store, locks, state of runc, containers. Two
// of them on this machine are two hosts.
type host struct {
	t       *testing.T
	built   built
	dir     string
	token   string // in the ID of every container
	root    string // of the store
	runDir  string
	runtime string // state of runc
	tmp     string
	extra   []string // of the environment
}

var hosts atomic.Int64

// newHost makes a host and checks at the end of the test that nothing is left.
func newHost(t *testing.T, programs ...string) *host {
	t.Helper()
	b := need(t, programs...)
	dir := t.TempDir()
	h := &host{
		t: t, built: b, dir: dir, token: fmt.Sprintf("e2e%d-%d", os.Getpid(), hosts.Add(1)),
		root: filepath.Join(dir, "store"), runDir: filepath.Join(dir, "run"), runtime: filepath.Join(dir, "runc"), tmp: filepath.Join(dir, "tmp"),
	}
	for _, d := range []string{h.runtime, h.tmp} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		leaks(t, h.dir, h.token)
		if left := entries(t, h.tmp); len(left) > 0 {
			t.Errorf("left in the temporary directory: %q", left)
		}
		h.checkSpool()
	})
	return h
}

// checkSpool sees that no capture left its images.
func (h *host) checkSpool() {
	h.t.Helper()
	if left := entries(h.t, filepath.Join(h.root, "spool")); len(left) > 0 {
		h.t.Errorf("left in the spool: %q", left)
	}
}

// path is a path in the host's directory.
func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

// id names a container.
func (h *host) id(name string) string { return h.token + "-" + name }

func (h *host) environ() []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "TMPDIR=" + h.tmp, "LC_ALL=C",
		"CKARCHIVE_ROOT=" + h.root, "CKARCHIVE_RUN=" + h.runDir, "CKARCHIVE_RUNTIME_ROOT=" + h.runtime,
	}, h.extra...)
}

// outcome is how a command ended.
type outcome struct {
	t              *testing.T
	args           []string
	status         int
	stdout, stderr string
}

// command prepares ckarchive with the host's directories.
func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.built.ckarchive, args...) //nolint:noctx // some tests send their own signals
	cmd.Env = h.environ()
	cmd.Dir = h.dir
	return cmd
}

// run runs ckarchive to its end.
func (h *host) run(args ...string) outcome {
	h.t.Helper()
	return h.end(h.command(args...), nil)
}

// runAs is run with something on standard input.
func (h *host) runWith(stdin string, args ...string) outcome {
	h.t.Helper()
	cmd := h.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	return h.end(cmd, nil)
}

func (h *host) end(cmd *exec.Cmd, credential *syscall.Credential) outcome {
	h.t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	if credential != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s: %v", cmd, err)
	}
	return outcome{h.t, cmd.Args[1:], statusOf(cmd.ProcessState), stdout.String(), stderr.String()}
}

// statusOf is the exit status as a shell gives it.
func statusOf(p *os.ProcessState) int {
	if ws, ok := p.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ExitCode()
}

// ok runs ckarchive and fails the test unless it succeeds.
func (h *host) ok(args ...string) outcome {
	h.t.Helper()
	return h.run(args...).want(0)
}

func (o outcome) String() string {
	return fmt.Sprintf("ckarchive %s: status %d\nstdout: %s\nstderr: %s", strings.Join(o.args, " "), o.status, o.stdout, o.stderr)
}

// want fails the test unless the status is that one and everything that says is on stderr.
func (o outcome) want(status int, says ...string) outcome {
	o.t.Helper()
	if o.status != status {
		o.t.Fatalf("status %d, want %d: %s", o.status, status, o)
	}
	for _, s := range says {
		if !strings.Contains(o.stderr, s) {
			o.t.Fatalf("standard error does not say %q: %s", s, o)
		}
	}
	return o
}

// refused is want for an error that has a reason and a hint in the house's form.
func (o outcome) refused(status int, says ...string) outcome {
	o.t.Helper()
	o.want(status, append([]string{"ckarchive: error: "}, says...)...)
	if o.stdout != "" {
		o.t.Errorf("a failed command printed a result: %s", o)
	}
	return o
}

// line is what a command printed, one line.
func (o outcome) line() string {
	o.t.Helper()
	text, found := strings.CutSuffix(o.stdout, "\n")
	if !found || text == "" || strings.Contains(text, "\n") {
		o.t.Fatalf("not one line on standard output: %s", o)
	}
	return text
}

// decode reads what --json printed.
func decode[T any](o outcome) T {
	o.t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(o.stdout))
	if err := d.Decode(&v); err != nil {
		o.t.Fatalf("%v: %s", err, o)
	}
	if d.More() {
		o.t.Fatalf("more than one JSON value: %s", o)
	}
	return v
}
