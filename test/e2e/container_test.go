package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/test/env"
)

// container is a running container, started by runc or restored by ckarchive.
type container struct {
	t      *testing.T
	h      *host
	id     string
	pid    int
	bundle string
	rootfs string // on the host
	log    string // what it prints
	direct bool   // no runtime knows it
	cached bool   // an earlier restore had unpacked it
}

// counts is the usual workload; more arguments for it follow.
func counts(args ...string) env.BundleOptions {
	return env.BundleOptions{Args: append([]string{"/bin/workload", "--memory", "4", "--tick", "10ms"}, args...)}
}

// with adds mounts.
func with(opts env.BundleOptions, mounts ...specs.Mount) env.BundleOptions {
	opts.Mounts = append(opts.Mounts, mounts...)
	return opts
}

// copyBase copies the pristine root file system.
func (h *host) copyBase(to string) string {
	h.t.Helper()
	command(h.t, "cp", "-a", "--reflink=auto", h.built.base, to)
	return to
}

// start starts a container under runc with a copy of the base, and waits until it counts.
func (h *host) start(name string, opts env.BundleOptions) *container {
	h.t.Helper()
	c := h.launch(name, opts)
	c.awaitTicks(3)
	return c
}

// launch is start for a container that need not count.
func (h *host) launch(name string, opts env.BundleOptions) *container {
	h.t.Helper()
	bundle := env.Bundle(h.t, h.path(name), opts)
	if opts.Rootfs == "" {
		h.copyBase(filepath.Join(bundle, "rootfs"))
		opts.Rootfs = filepath.Join(bundle, "rootfs")
	}
	c := env.RunRunc(h.t, h.runtime, h.id(name), bundle)
	return &container{t: h.t, h: h, id: c.ID, pid: c.PID, bundle: bundle, rootfs: opts.Rootfs, log: c.Log}
}

// remove ends the container and what the runtime keeps of it.
func (c *container) remove() {
	if c.direct {
		c.removeDirect()
		return
	}
	said, err := exec.Command("runc", "--root", c.h.runtime, "delete", "--force", c.id).CombinedOutput()
	if err != nil && !strings.Contains(string(said), "does not exist") {
		c.t.Errorf("delete %s: %v\n%s", c.id, err, said)
	}
}

// ticks are the numbers of the ticks that the container has printed.
func (c *container) ticks() []int { return ticksIn(c.t, c.log) }

func ticksIn(t *testing.T, log string) []int {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var list []int
	for line := range strings.Lines(strings.NewReplacer("\r", "", "\x00", "").Replace(string(b))) { // of a terminal, of a file that begins with a hole
		number, ok := strings.CutPrefix(line, "tick ")
		digits, whole := strings.CutSuffix(number, "\n")
		if !ok || !whole {
			continue
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			t.Fatalf("%s: %v", log, err)
		}
		list = append(list, n)
	}
	return list
}

// tick is the last one that the workload has written to its status, which is there at once: what it has printed may still be on
// its way into the log.
func (c *container) tick() int {
	c.t.Helper()
	var status env.Status
	if err := json.Unmarshal([]byte(readFile(c.t, filepath.Join(c.rootfs, "tmp/status"))), &status); err != nil {
		c.t.Fatal(err)
	}
	return int(status.Tick)
}

// awaitTicks waits until the container has counted n times more.
func (c *container) awaitTicks(n int) {
	c.t.Helper()
	before := len(c.ticks())
	if !within(c.t.Context(), patience, func() bool { return len(c.ticks()) >= before+n }) {
		c.t.Fatalf("container %s does not count: %s\n%s", c.id, c.state(), tail(c.log))
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-200):])
}

// verify lets the workload check all its bytes and waits for what it says.
func (c *container) verify() {
	c.t.Helper()
	token := strconv.Itoa(len(c.ticks())) + "-" + c.id
	writeFile(c.t, filepath.Join(c.rootfs, "tmp/verify-request.new"), token)
	if err := os.Rename(filepath.Join(c.rootfs, "tmp/verify-request.new"), filepath.Join(c.rootfs, "tmp/verify-request")); err != nil {
		c.t.Fatal(err)
	}
	var said struct {
		Request    string   `json:"request"`
		MemoryOK   bool     `json:"memory_ok"`
		ChildrenOK bool     `json:"children_ok"`
		TmpfsOK    bool     `json:"tmpfs_ok"`
		DeletedOK  bool     `json:"deleted_ok"`
		VolumeOK   bool     `json:"volume_ok"`
		TCPOK      bool     `json:"tcp_ok"`
		Errors     []string `json:"errors"`
	}
	if !within(c.t.Context(), patience, func() bool {
		b, err := os.ReadFile(filepath.Join(c.rootfs, "tmp/verify-result"))
		return err == nil && json.Unmarshal(b, &said) == nil && said.Request == token
	}) {
		c.t.Fatalf("container %s does not answer: %s\n%s", c.id, c.state(), tail(c.log))
	}
	if !said.MemoryOK || !said.ChildrenOK || !said.TmpfsOK || !said.DeletedOK || !said.VolumeOK || !said.TCPOK || len(said.Errors) > 0 {
		c.t.Fatalf("container %s is not what it was: %+v", c.id, said)
	}
}

// wellFrom checks that the container goes on from exactly where the one before it
// was frozen, and that everything in it is as it was.
func (c *container) wellFrom(before *container) {
	c.t.Helper()
	c.awaitTicks(3)
	if !within(c.t.Context(), patience, func() bool { return last(before.ticks())+1 == c.ticks()[0] }) {
		c.t.Fatalf("container %s goes on with tick %d, the one before ended with %d", c.id, c.ticks()[0], last(before.ticks()))
	}
	c.wellBehaved()
}

// wellBehaved checks the container without looking back.
func (c *container) wellBehaved() {
	c.t.Helper()
	c.verify()
	c.awaitTicks(1)
	list := c.ticks()
	for i, n := range list {
		if want := list[0] + i; n != want {
			c.t.Fatalf("container %s has counted %d, want %d", c.id, n, want)
		}
	}
}

func last(list []int) int {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}

// state asks runc, or the kernel.
func (c *container) state() string {
	c.t.Helper()
	if c.direct {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", c.pid)); err != nil {
			return "gone"
		}
		return "running"
	}
	out, err := exec.Command("runc", "--root", c.h.runtime, "state", c.id).Output()
	if err != nil {
		return "gone"
	}
	var st struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(out, &st); err != nil {
		c.t.Fatal(err)
	}
	return st.Status
}

// wantState waits for a state.
func (c *container) wantState(want string) {
	c.t.Helper()
	if !within(c.t.Context(), patience, func() bool { return c.state() == want }) {
		c.t.Fatalf("container %s is %s, want %s", c.id, c.state(), want)
	}
}

// unharmed checks that the container was not stopped and goes on counting without a gap.
func (c *container) unharmed() {
	c.t.Helper()
	c.wantState("running")
	c.awaitTicks(3)
	c.wellBehaved()
}

// restored is what restore --json prints.
type restored struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	Runtime string `json:"runtime"`
	Bundle  string `json:"bundle"`
	Rootfs  string `json:"rootfs"`
	Cached  bool   `json:"cached"`
}

// restore restores src as a detached container called name.
func (h *host) restore(name, src string, flags ...string) *container {
	h.t.Helper()
	c := &container{t: h.t, h: h, id: h.id(name), log: h.path(name + ".restored.log")}
	for i, f := range flags {
		c.direct = c.direct || f == "--engine" && flags[i+1] == "direct"
	}
	args := append([]string{"--json", "restore", "--detach", "--log", c.log, "--id", c.id}, flags...)
	cmd := h.command(append(args, src)...)
	h.t.Cleanup(c.remove)
	said := decode[restored](h.end(cmd, nil).want(0))
	if said.ID != c.id || said.PID <= 0 {
		h.t.Fatalf("restore says %+v, want the container %s", said, c.id)
	}
	c.pid, c.bundle, c.rootfs, c.cached = said.PID, said.Bundle, said.Rootfs, said.Cached
	return c
}

// removeDirect ends a container that no runtime knows, and what is left of its cgroups.
func (c *container) removeDirect() {
	if p, err := os.FindProcess(c.pid); c.pid > 0 && err == nil {
		_ = p.Kill() // it may be gone
	}
	await(c.t, "end of "+c.id, func() bool {
		left := 0
		for _, dir := range named("/sys/fs/cgroup", c.id, 7) {
			if filepath.Base(dir) == c.id && os.Remove(dir) != nil { // busy until the processes are gone
				left++
			}
		}
		return left == 0
	})
}

// export writes an archive and gives its path.
func (c *container) export(name string, flags ...string) string {
	c.t.Helper()
	path := c.h.path(name)
	got := c.h.ok(append(append([]string{"export"}, flags...), c.id, path)...).line()
	if got != path {
		c.t.Fatalf("export prints %q, want the path %q", got, path)
	}
	return path
}
