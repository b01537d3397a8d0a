package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// tinyDisk mounts a file system of that size for the time of the test.
func (h *host) tinyDisk(name, size string) string {
	h.t.Helper()
	dir := h.path(name)
	must(h.t, os.Mkdir(dir, 0o755))
	must(h.t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	h.t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
	return dir
}

// noFiles checks that a directory has nothing but what is named.
func noFiles(t *testing.T, dir string, but ...string) {
	t.Helper()
	if got, want := strings.Join(entries(t, dir), " "), strings.Join(but, " "); got != want {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

func TestExportToFullDisk(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "16"))
	full := h.tinyDisk("full", "1m")
	for _, mode := range [][]string{nil, {"--leave-running"}, {"--engine", "runtime"}, {"--engine", "runtime", "--compress", "zstd"}} {
		args := append(append([]string{"export", "--compress", "none", "--base", h.built.base}, mode...), c.id, filepath.Join(full, "c.tar"))
		h.run(args...).refused(6, "no space left", "keeps running")
		noFiles(t, full)
		c.unharmed()
	}
}

func TestExportWithFullSpool(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "32"))
	for _, size := range []string{"64k", "8m"} {
		store := h.tinyDisk("store"+size, size)
		o := h.run("--root", store, "export", "--base", h.built.base, c.id, h.path("c.tar"))
		if o.status != 5 && o.status != 6 {
			t.Errorf("status %d, want 5 or 6: %s", o.status, o)
		}
		if !strings.Contains(o.stderr, "space") {
			t.Errorf("the reason is not said: %s", o)
		}
		noFiles(t, filepath.Join(store, "spool"))
		if exists(t, h.path("c.tar")) {
			t.Error("a file was left")
		}
		c.unharmed()
	}
}

func TestExportDestinations(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	dir := h.path("out")
	must(t, os.Mkdir(dir, 0o755))
	export := func(status int, dest string, args ...string) outcome {
		t.Helper()
		o := h.run(append(append([]string{"export", "--leave-running", "--base", h.built.base}, args...), c.id, dest)...)
		if status == 0 {
			return o.want(0)
		}
		return o.refused(status)
	}
	export(5, filepath.Join(dir, "absent/c.tar"))
	noFiles(t, dir)

	file := filepath.Join(dir, "c.tar")
	writeFile(t, file, "precious")
	export(5, file).refused(5, "--force")
	if got := readFile(t, file); got != "precious" {
		t.Errorf("the existing file has %q now", got)
	}
	export(0, file, "--force")
	h.ok("verify", file)
	noFiles(t, dir, "c.tar")

	// A link is the name of something else, which stays as it is.
	target, link := h.path("target"), filepath.Join(dir, "link.tar")
	writeFile(t, target, "precious")
	must(t, os.Symlink(target, link))
	// Directories and links are never replaced, and the hint does not promise it.
	must(t, os.Mkdir(filepath.Join(dir, "d.tar"), 0o755))
	for _, path := range []string{link, filepath.Join(dir, "d.tar")} {
		for _, flags := range [][]string{nil, {"--force"}} {
			if o := export(5, path, flags...); strings.Contains(o.stderr, "--force") {
				t.Errorf("the hint is no help: %s", o)
			}
		}
	}
	if got := readFile(t, target); got != "precious" {
		t.Errorf("the target of the link has %q now", got)
	}
	export(2, "")
	noFiles(t, dir, "c.tar", "d.tar", "link.tar")

	// The stream.
	o := h.run("export", "--leave-running", "--base", h.built.base, c.id, "-").want(0)
	writeFile(t, h.path("stream.tar"), o.stdout)
	h.ok("verify", h.path("stream.tar"))
	h.run("export", "--base", h.built.base, c.id, "-").refused(2, "--leave-running")
	c.unharmed()
}

// phases are the moments at which an export is interrupted: after the beginning of
// a task, as --progress json tells of it.
var phases = []phase{
	{name: "dump begins", task: "dump"},
	{name: "dump 50 ms", task: "dump", after: 50 * time.Millisecond},
	{name: "dump 100 ms", task: "dump", after: 100 * time.Millisecond},
	{name: "dump 150 ms", task: "dump", after: 150 * time.Millisecond},
	{name: "root file system", task: "root file system"},
	{name: "hash", task: "hash"},
	{name: "archive", task: "archive"},
}

type phase struct {
	name, task string
	after      time.Duration // behind the beginning of the task
	missed     int           // how often an export was over before the signal
}

// id is a part of the ID of a container that this try is about.
func (p phase) id() string { return strings.ReplaceAll(p.name, " ", "-") + strconv.Itoa(p.missed) }

// over tells whether an export may have been over before the signal: on a fast machine, or where this test was slow. A phase that
// is the beginning of a task comes once more then, three times in all.
func (p phase) over(status int, queue *[]phase) bool {
	if status != 0 || p.after == 0 && p.missed == 2 {
		return false
	}
	if p.after == 0 {
		p.missed++
		*queue = append(*queue, p)
	}
	return true
}

// interrupt starts an export and sends it a signal at a moment. It gives the
// exit status and standard error.
func (h *host) interrupt(sig syscall.Signal, task string, after time.Duration, args ...string) (int, string) {
	h.t.Helper()
	return h.interruptCommand(sig, task, after, append([]string{"export"}, args...)...)
}

func (h *host) interruptCommand(sig syscall.Signal, task string, after time.Duration, args ...string) (int, string) {
	h.t.Helper()
	cmd := h.command(append([]string{"--progress", "json"}, args...)...)
	stderr, err := cmd.StderrPipe()
	must(h.t, err)
	must(h.t, cmd.Start())
	var said strings.Builder
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		var e struct{ Event, Task string }
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event == "begin" && e.Task == task {
			time.Sleep(after) // the moment itself, nothing is waited for
			must(h.t, cmd.Process.Signal(sig))
			break
		}
	}
	rest, err := io.ReadAll(stderr)
	must(h.t, err)
	said.Write(rest)
	_ = cmd.Wait() // the status tells
	return statusOf(cmd.ProcessState), said.String()
}

func TestInterruptedExport(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		for _, engine := range []string{"direct", "runtime"} {
			if sig == syscall.SIGINT && engine == "runtime" {
				continue // as SIGTERM
			}
			t.Run(sig.String()+" "+engine, func(t *testing.T) { interruptEverywhere(t, sig, engine) })
		}
	}
}

func interruptEverywhere(t *testing.T, sig syscall.Signal, engine string) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "48", "--children", "1"))
	out := h.path("out")
	must(t, os.Mkdir(out, 0o755))
	for queue := slices.Clone(phases); len(queue) > 0; {
		p := queue[0]
		queue = queue[1:]
		status, said := h.interrupt(sig, p.task, p.after, "--compress", "none", "--base", h.built.base, "--engine", engine, c.id, filepath.Join(out, "c.tar"))
		if p.over(status, &queue) {
			next := h.restore(p.id(), filepath.Join(out, "c.tar"), "--base", h.built.base)
			next.wellFrom(c)
			must(t, os.Remove(filepath.Join(out, "c.tar")))
			c = next
			continue
		}
		want := 128 + int(sig)
		if status != want {
			t.Errorf("%s: status %d, want %d: %s", p.name, status, want, said)
		}
		if sig != syscall.SIGKILL && !strings.Contains(said, "error: interrupted by "+unix.SignalName(sig)+"; the container keeps running") {
			t.Errorf("%s: standard error does not say that the container keeps running: %s", p.name, said)
		}
		// Nobody helps: it goes on by itself, and what was half done goes.
		c.unharmed()
		if !within(t.Context(), patience, func() bool {
			return len(entries(t, filepath.Join(h.root, "spool"))) == 0 && len(entries(t, out)) == 0
		}) {
			t.Errorf("%s: left behind: %q in the spool, %q beside the file", p.name, entries(t, filepath.Join(h.root, "spool")), entries(t, out))
		}
	}
	for range 2 {
		h.ok("recover").want(0, "nothing to recover")
	}
	if o := h.ok("--json", "recover"); strings.TrimSpace(o.stdout) != "[]" {
		t.Errorf("recover of nothing, as JSON: %s", o)
	}
	path := c.export("c.tar.zst", "--base", h.built.base, "--engine", engine)
	h.restore("r", path, "--base", h.built.base).wellFrom(c)
}

// An export of established connections is over in CRIU's own dump: its order is another one.
func TestInterruptedExportOfConnections(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "48", "--tcp"))
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for queue := slices.Clone(phases); len(queue) > 0; {
			p := queue[0]
			queue = queue[1:]
			status, said := h.interrupt(sig, p.task, p.after, "--tcp-established", "--base", h.built.base, c.id, h.path("c.tar"))
			if p.over(status, &queue) {
				next := h.restore(strconv.Itoa(int(sig))+p.id(), h.path("c.tar"), "--base", h.built.base)
				next.wellFrom(c)
				must(t, os.Remove(h.path("c.tar")))
				c = next
				continue
			}
			if want := 128 + int(sig); status != want {
				t.Fatalf("%s, %s: status %d, want %d: %s", sig, p.name, status, want, said)
			}
			c.unharmed()
			if !within(t.Context(), patience, func() bool {
				return len(entries(t, filepath.Join(h.root, "spool"))) == 0 && !exists(t, h.path("c.tar"))
			}) {
				t.Errorf("%s, %s: left in the spool: %q", sig, p.name, entries(t, filepath.Join(h.root, "spool")))
			}
		}
	}
	h.ok("recover").want(0, "nothing to recover")
}

// Interrupted transfers leave nothing under a final name. They are slow, so that none is over before the signal.
func TestInterruptedTransfers(t *testing.T) {
	h := newHost(t, "docker-registry")
	registry := env.Registry(t, env.RegistryOptions{})
	c := h.start("c", counts("--memory", "64"))
	path := c.export("c.tar", "--base", h.built.base)
	name := registry.Host + "/counter:v1"
	tags := filepath.Join(registry.Dir, "docker/registry/v2/repositories/counter/_manifests/tags")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if status, said := h.interruptCommand(sig, "push", 0, "push", "--plain-http", "--limit-rate", "64K", path, name); status != 128+int(sig) {
			t.Errorf("push: status %d, want %d: %s", status, 128+int(sig), said)
		}
		noFiles(t, tags)
	}
	h.ok("push", "--plain-http", path, name)
	fresh := newHost(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if status, said := fresh.interruptCommand(sig, "pull", 0, "pull", "--plain-http", "--limit-rate", "64K", name); status != 128+int(sig) {
			t.Errorf("pull: status %d, want %d: %s", status, 128+int(sig), said)
		}
		if got := strings.TrimSpace(fresh.ok("--json", "list").stdout); got != "[]" {
			t.Errorf("after a pull that was interrupted the store has %s, want nothing", got)
		}
	}
	fresh.ok("gc")
	fresh.ok("pull", "--plain-http", name)
	fresh.restore("r", name, "--base", h.built.base).wellFrom(c)
}
