package matrix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/test/env"
)

// host is what one machine would have: a store, locks, state of the runtimes, a
// base image, a volume. Two of them on this machine are two hosts.
type host struct {
	t         *testing.T
	dir       string
	ckarchive string
	base      string
	token     string // in the ID of every container
}

var hosts atomic.Int64

// newHost makes a host; when the test ends, nothing of it may be left.
func newHost(t *testing.T, programs ...string) *host {
	t.Helper()
	env.Require(t, append([]string{"root", "criu", "busybox"}, programs...)...)
	h := &host{t: t, dir: t.TempDir(), token: fmt.Sprintf("%s-%d", os.Getenv(tokens), hosts.Add(1))}
	env.Leaks(t, h.token, h.dir)
	h.ckarchive = env.Ckarchive(t)
	h.base = env.Rootfs(t, h.path("base"))
	for _, dir := range []string{"runtime", "volume", "base/cache", "base/vol"} {
		if err := os.Mkdir(h.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

// copyRootfs is a root file system for one container.
func (h *host) copyRootfs(to string) {
	h.t.Helper()
	command(h.t, "cp", "-a", "--reflink=auto", h.base, to)
}

// copyVolume brings the volume along, as whoever moves a container does.
func (h *host) copyVolume(from *host) {
	h.t.Helper()
	command(h.t, "cp", "-a", from.path("volume")+"/.", h.path("volume"))
}

// workload is the command of every container: memory, processes behind pipes, files
// in the root file system, a tmpfs and a volume, and one that is deleted.
func workload(more ...string) []string {
	return append([]string{
		"/bin/workload", "--memory", "4", "--tick", "10ms", "--children", "2", "--tmpfs", "/cache", "--volume", "/vol", "--deleted",
	}, more...)
}

// bundle is a container with all that.
func (h *host) bundle(edit env.BundleOptions) string {
	h.t.Helper()
	if edit.Args == nil {
		edit.Args = workload()
	}
	edit.Mounts = []specs.Mount{env.Tmpfs("/cache"), env.Bind(h.path("volume"), "/vol")}
	bundle := env.Bundle(h.t, h.path("bundle"), edit)
	h.copyRootfs(filepath.Join(bundle, "rootfs"))
	return bundle
}

// run runs ckarchive on the host.
func (h *host) run(args ...string) (stdout, stderr string, err error) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), h.ckarchive, args...)
	cmd.Env = append(os.Environ(), "CKARCHIVE_ROOT="+h.path("store"), "CKARCHIVE_RUN="+h.path("run"))
	cmd.Dir = h.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// ok is run for what has to succeed.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	stdout, stderr, err := h.run(args...)
	if err != nil {
		h.t.Fatalf("ckarchive %s: %v\n%s%s", strings.Join(args, " "), err, stderr, h.logs())
	}
	return stdout
}

// logs are the ends of the logs that CRIU left of what failed.
func (h *host) logs() string {
	logs, err := filepath.Glob(h.path("store/log/*"))
	if err != nil {
		h.t.Error(err)
	}
	var all strings.Builder
	for _, log := range logs {
		content, err := os.ReadFile(log)
		if err != nil {
			h.t.Error(err)
		}
		lines := strings.Split(string(content), "\n")
		all.WriteString(log + ":\n" + strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	return all.String()
}

func (h *host) restoreArgs(archive string, d destination, s source) []string {
	args := append([]string{
		"--json", "restore", "--detach", "--log", h.path("output"), "--id", h.token + "-again", "--base", h.base,
		"--map-mount", "/vol=" + h.path("volume"),
	}, d.flags(h)...)
	args = append(args, s.allow...)
	for _, m := range s.maps {
		args = append(args, "--map-mount", m+"="+h.beside(m))
	}
	return append(args, archive)
}

// beside makes what an engine binds into its containers beside their root file system: an
// empty file, or a directory for shared memory.
func (h *host) beside(mount string) string {
	h.t.Helper()
	path := h.path("engine", mount)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	var err error
	if mount == "/dev/shm" {
		err = os.Mkdir(path, 0o1777)
	} else {
		err = os.WriteFile(path, nil, 0o644)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return path
}

// restore makes a container of the archive.
func (h *host) restore(archive string, d destination, s source) *env.Container {
	h.t.Helper()
	out := h.ok(h.restoreArgs(archive, d, s)...)
	var said struct {
		ID     string `json:"id"`
		PID    int    `json:"pid"`
		Bundle string `json:"bundle"`
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		h.t.Fatalf("restore says %q: %v", out, err)
	}
	c := env.Container{
		ID: said.ID, PID: said.PID, Bundle: said.Bundle, Runtime: d.name, Root: h.path("runtime"), Log: h.path("output"),
	}
	if d.name == "runsc" {
		c.Shared = h.path("volume")
	}
	return env.Adopt(h.t, c)
}

// refused wants ckarchive to fail and to say why.
func (h *host) refused(says string, args ...string) {
	h.t.Helper()
	stdout, stderr, err := h.run(args...)
	if err == nil {
		h.t.Fatalf("ckarchive %s succeeded, which the table calls impossible: %s", args, stdout)
	}
	if !strings.Contains(stderr, says) {
		h.t.Errorf("ckarchive says %q, want %q in it", stderr, says)
	}
}

// command runs a program of the machine that has to succeed, and gives what it prints.
func command(t *testing.T, argv ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, stderr.String())
	}
	return string(out)
}
