package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// steps are the numbers of the system calls at which ckarchive is killed: in the short form those, else all at first, and
// later about a hundred of the many that copy files.
func steps(those ...int) iter.Seq[int] {
	if !full() {
		return slices.Values(those)
	}
	return func(yield func(int) bool) {
		for n := 1; yield(n); n += 1 + n/25 {
		}
	}
}

// killAt runs ckarchive to its n-th step and kills it there; false says that it has none, and has ended.
func (h *host) killAt(n int, args ...string) bool {
	h.t.Helper()
	output, err := os.Create(h.path("killed.log"))
	must(h.t, err)
	defer output.Close() //nolint:errcheck // for messages only
	killed, status := env.KillAt(h.t, n, h.dir, h.environ(), output, append([]string{h.built.ckarchive}, args...)...)
	if !killed && status.ExitStatus() != 0 {
		h.t.Fatalf("it was not killed and fails: %s", readFile(h.t, output.Name()))
	}
	return killed
}

// An export that is killed at any of its system calls leaves a container that runs, or a complete archive; its guard puts
// everything right without help.
func TestExportKilledAtEveryStep(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	out := h.path("out")
	must(t, os.Mkdir(out, 0o755))
	path := filepath.Join(out, "c.tar.zst")
	for n := range steps(20, 60) {
		killed := h.killAt(n, "export", "--base", h.built.base, c.id, path)
		if !within(t.Context(), patience, func() bool { return len(h.guards()) == 0 }) {
			t.Fatalf("killed at step %d: its guard does not end", n)
		}
		state := c.state() // with the help of the guard alone, or before there was one
		h.ok("recover")
		noFiles(t, filepath.Join(h.root, "spool"))
		switch state {
		case "running":
			c.unharmed()
			if exists(t, path) { // its end was not confirmed
				h.ok("verify", path)
				must(t, os.Remove(path))
			}
		case "paused":
			t.Fatalf("killed at step %d: the container was left paused", n)
		default:
			next := h.restore(fmt.Sprintf("c%d", n), path, "--base", h.built.base)
			next.wellFrom(c)
			must(t, os.Remove(path))
			c = next
		}
		if !killed {
			t.Logf("%d steps", n)
			break
		}
	}
	// What was left by one that was killed before it had a journal, the next one removes.
	h.ok("export", "--leave-running", "--base", h.built.base, c.id, path)
	noFiles(t, out, "c.tar.zst")
	h.ok("recover").want(0, "nothing to recover")
}

// A restore that is killed at any of its system calls leaves a container that runs, or after recover nothing.
func TestRestoreKilledAtEveryStep(t *testing.T) {
	for _, engine := range []string{"direct", "runtime"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts())
			path := c.export("c.tar.zst", "--base", h.built.base)
			for n := range steps(40, 120) {
				r := &container{t: t, h: h, id: h.id("r"), log: h.path(fmt.Sprintf("log%d", n)), direct: engine == "direct"}
				killed := h.killAt(n, "restore", "--detach", "--engine", engine, "--log", r.log, "--id", r.id, "--base", h.built.base, path)
				h.ok("recover")
				h.ok("recover").want(0, "nothing to recover")
				if exists(t, filepath.Join(h.root, "containers", r.id)) {
					var state struct{ Rootfs string }
					must(t, json.Unmarshal([]byte(readFile(t, filepath.Join(h.root, "containers", r.id, "restore.json"))), &state))
					r.pid, r.rootfs = h.pidOf(r.id), state.Rootfs
					r.wellFrom(c)
					r.remove()
					h.ok("gc")
				}
				wantNothing(h, "r")
				if !within(context.WithoutCancel(t.Context()), patience, func() bool { return len(leftovers(filepath.Join(h.root, "containers"), r.id)) == 0 }) {
					t.Fatalf("killed at step %d: left behind: %q", n, leftovers(filepath.Join(h.root, "containers"), r.id))
				}
				if !killed {
					t.Logf("%d steps", n)
					break
				}
			}
			h.restore("yes", path, "--engine", engine, "--base", h.built.base).wellFrom(c)
		})
	}
}

// pidOf gives the first process of a container, as list --containers knows it.
func (h *host) pidOf(id string) int {
	h.t.Helper()
	for _, row := range decode[[]struct {
		ID  string
		PID int
	}](h.ok("--json", "list", "--containers")) {
		if row.ID == id {
			return row.PID
		}
	}
	h.t.Fatalf("no container %q is listed", id)
	return 0
}

// An export to a disk that gives errors, and a restore from it, leave the container running, and nothing else.
func TestFaultyDisk(t *testing.T) {
	h := newHost(t)
	d := env.NewDisk(t, 64)
	c := h.start("c", counts("--memory", "8"))
	path := filepath.Join(d.Dir, "c.tar")
	h.ok("export", "--leave-running", "--compress", "none", "--base", h.built.base, c.id, path)
	d.Break("c.tar")
	for _, mode := range [][]string{nil, {"--leave-running"}} {
		h.run(append(append([]string{"export", "--base", h.built.base}, mode...), c.id, filepath.Join(d.Dir, "new.tar"))...).
			refused(6, "input/output error", "keeps running")
		c.unharmed()
	}
	noFiles(t, d.Dir, "c.tar", "lost+found")
	o := h.run("restore", "--detach", "--id", h.id("r"), "--log", h.path("log"), "--base", h.built.base, path)
	if o.status != 5 && o.status != 8 || !strings.Contains(o.stderr, "input/output error") {
		t.Errorf("status %d, want 5 or 8 and the reason: %s", o.status, o)
	}
	wantNothing(h, "r")
}

// limited runs ckarchive under a limit of the shell.
func (h *host) limited(limit string, args ...string) outcome {
	h.t.Helper()
	cmd := h.command()
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", limit + ` && exec "$0" "$@"`, h.built.ckarchive}, args...)
	return h.end(cmd, nil)
}

// Small limits of the process are told of; the container keeps running, and nothing is left of a restore.
func TestLimits(t *testing.T) {
	env.CloseOnExec(t)
	h := newHost(t)
	c := h.start("c", counts("--memory", "8"))
	path := h.path("c.tar.zst")
	h.ok("export", "--leave-running", "--base", h.built.base, c.id, path)
	for limit, says := range map[string]string{
		"ulimit -f 256": "", // the signal of that limit ends CRIU, which says nothing more
		// It strikes ckarchive or its CRIU, which begins the words with a capital.
		"ulimit -n 12":     "too many open files",
		"ulimit -n 20":     "too many open files",
		"ulimit -v 400000": "memory", // by Go, before the program begins
	} {
		o := h.limited(limit, "export", "--compress", "none", "--base", h.built.base, c.id, h.path("new.tar"))
		if o.status == 0 || !strings.Contains(strings.ToLower(o.stderr), says) {
			t.Errorf("%s: want a failure that says %q: %s", limit, says, o)
		}
		c.unharmed()
		if exists(t, h.path("new.tar")) {
			t.Errorf("%s: a file was left", limit)
		}
		o = h.limited(limit, "restore", "--detach", "--id", h.id("r"), "--log", h.path("log"), "--base", h.built.base, path)
		if o.status == 0 || !strings.Contains(strings.ToLower(o.stderr), says) {
			t.Errorf("%s: want a failure that says %q: %s", limit, says, o)
		}
		h.ok("recover")
		wantNothing(h, "r")
	}
}

// An output that takes nothing, or that nobody reads to its end, ends an export and not the container.
func TestOutputsThatFail(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "8"))
	for _, to := range []string{">/dev/full", "| head -c 100 >/dev/null"} {
		cmd := h.command()
		cmd.Path, cmd.Args = "/bin/bash", []string{"bash", "-o", "pipefail", "-c", h.built.ckarchive + " export --leave-running --base " + h.built.base + " " + c.id + " - " + to}
		o := h.end(cmd, nil)
		if o.status != 6 || !strings.Contains(o.stderr, "keeps running") {
			t.Errorf("%s: status %d, want 6: %s", to, o.status, o)
		}
		c.unharmed()
	}
	// The archive is there, and only its name cannot be told.
	cmd := h.command()
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", h.built.ckarchive + " export --leave-running --base " + h.built.base + " " + c.id + " c.tar >/dev/full"}
	if o := h.end(cmd, nil); o.status == 0 || !strings.Contains(o.stderr, "no space left") {
		t.Errorf("a lost result: %s", o)
	}
	h.ok("verify", h.path("c.tar"))
	c.unharmed()
}
