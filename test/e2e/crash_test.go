package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// full tells whether the long form of the fault suite runs, as `make faults` does.
func full() bool { return os.Getenv("CKARCHIVE_FAULTS_FULL") != "" }

// Phases in which CRIU runs its action scripts.
var (
	dumpPhases    = []string{"pre-dump", "network-lock", "post-dump"}
	restorePhases = []string{"pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "pre-resume", "post-resume"}
)

// some are all phases in the long form, and else those.
func some(all []string, those ...string) []string {
	if full() {
		return all
	}
	return those
}

// criuAt gives a configuration of CRIU by which it sends itself a signal when it comes to a phase, and a file that is
// there from then on.
func (h *host) criuAt(phase string, sig syscall.Signal) (config, mark string) {
	h.t.Helper()
	return h.signalAt(phase, sig, "$PPID")
}

// runtimeAt is criuAt for the runtime that started CRIU.
func (h *host) runtimeAt(phase string, sig syscall.Signal) (config string) {
	h.t.Helper()
	config, _ = h.signalAt(phase, sig, "$(cut -d ' ' -f 4 /proc/$PPID/stat)")
	return config
}

func (h *host) signalAt(phase string, sig syscall.Signal, pid string) (config, mark string) {
	h.t.Helper()
	name := fmt.Sprintf("%s-%d", phase, int(sig))
	script := h.path(name + ".sh")
	mark = h.path(name + ".mark")
	_ = os.Remove(mark) // of an earlier one
	writeFile(h.t, script, fmt.Sprintf("#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" != %s ] || { : >%s; kill -%d %s; }\n", phase, mark, int(sig), pid))
	must(h.t, os.Chmod(script, 0o755))
	config = h.path(name + ".conf")
	writeFile(h.t, config, "action-script "+script+"\n")
	return config, mark
}

// A CRIU that is killed in any phase of a dump, or that hangs there until the deadline, leaves the container running.
func TestCRIUEndsInDump(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "8"))
	for _, phase := range some(dumpPhases, "network-lock") {
		config, _ := h.criuAt(phase, syscall.SIGKILL)
		h.run("export", "--criu-config", config, "--base", h.built.base, c.id, h.path("c.tar")).refused(6, "keeps running")
		c.unharmed()
	}
	for _, phase := range some(dumpPhases) { // giving up takes some seconds each
		config, _ := h.criuAt(phase, syscall.SIGSTOP)
		began := time.Now()
		o := h.run("export", "--timeout", "3s", "--criu-config", config, "--base", h.built.base, c.id, h.path("c.tar")).refused(6, "longer than 3s", "keeps running")
		if took := time.Since(began); took > patience {
			t.Errorf("%s: giving up took %s", phase, took)
		}
		h.namesLog(o)
		c.unharmed()
	}
	for _, phase := range some(dumpPhases, "network-lock") {
		h.run("export", "--engine", "runtime", "--criu-config", h.runtimeAt(phase, syscall.SIGKILL), "--base", h.built.base, c.id, h.path("c.tar")).refused(6, "keeps running")
		c.unharmed()
	}
	noFiles(t, filepath.Join(h.root, "spool"))
	if exists(t, h.path("c.tar")) {
		t.Error("a file was left")
	}
	h.restore("r", c.export("c.tar.zst", "--base", h.built.base), "--base", h.built.base).wellFrom(c)
}

// namesLog checks that the log which an error names is there.
func (h *host) namesLog(o outcome) {
	h.t.Helper()
	_, log, _ := strings.Cut(o.stderr, "(log: ")
	log, _, _ = strings.Cut(log, ")")
	if log == "" || !exists(h.t, log) {
		h.t.Errorf("there is no log %q: %s", log, o)
	}
}

// A CRIU that is killed in any phase of a restore, or that hangs there until the deadline, leaves nothing.
func TestCRIUEndsInRestore(t *testing.T) {
	for _, engine := range []string{"direct", "runtime"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts("--memory", "8"))
			path := c.export("c.tar.zst", "--base", h.built.base)
			args := []string{"restore", "--detach", "--engine", engine, "--log", h.path("log"), "--id", h.id("r"), "--base", h.built.base}
			for _, phase := range some(restorePhases, "post-restore") {
				config, _ := h.criuAt(phase, syscall.SIGKILL)
				o := h.run(append(args, "--timeout", "10s", "--criu-config", config, path)...)
				if o.status == 0 && engine == "runtime" && phase == "post-resume" {
					continue // the runtime heard of the success already
				}
				o.refused(8)
				wantNothing(h, "r")
			}
			for _, phase := range some(restorePhases) {
				if engine == "runtime" && phase != "post-resume" { // the runtime has said all by then
					h.run(append(args, "--timeout", "20s", "--criu-config", h.runtimeAt(phase, syscall.SIGKILL), path)...).refused(8)
					wantNothing(h, "r")
				}
			}
			hanging := some(restorePhases)
			if engine == "runtime" {
				hanging = some([]string{"pre-restore", "pre-resume"}) // a runtime takes half a minute to give up
			}
			for _, phase := range hanging {
				config, _ := h.criuAt(phase, syscall.SIGSTOP)
				h.namesLog(h.run(append(args, "--timeout", "3s", "--criu-config", config, path)...).refused(8, "longer than 3s"))
				wantNothing(h, "r")
			}
			h.restore("yes", path, "--engine", engine, "--base", h.built.base).wellFrom(c)
		})
	}
}

// strand starts a command and kills it, when its CRIU has stopped at a phase, with the process that would put things right.
func (h *host) strand(phase string, args ...string) {
	h.t.Helper()
	config, mark := h.criuAt(phase, syscall.SIGSTOP)
	cmd := h.command(append(args, "--criu-config", config)...)
	must(h.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	if !within(h.t.Context(), patience, func() bool { return exists(h.t, mark) }) {
		h.t.Fatalf("CRIU does not come to %s", phase)
	}
	for _, pid := range h.guards() {
		must(h.t, syscall.Kill(pid, syscall.SIGKILL))
	}
	must(h.t, cmd.Process.Kill())
	<-ended
}

// guards are the processes that wait for the death of this host's exports.
func (h *host) guards() []int {
	h.t.Helper()
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	for _, p := range procs {
		b, _ := os.ReadFile(p) // it may have ended
		if strings.HasPrefix(string(b), "ckarchive-guard\x00"+h.root+"\x00") {
			var pid int
			if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// When ckarchive and its guard are killed while CRIU hangs, recover ends that CRIU, and the container goes on.
func TestRecoverEndsHangingDump(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "8"))
	for _, phase := range some(dumpPhases, "network-lock") {
		h.strand(phase, "export", "--base", h.built.base, c.id, h.path("c.tar"))
		h.ok("recover").printed(c.id + ": resumed the container")
		c.unharmed()
		h.ok("recover").want(0, "nothing to recover")
	}
	h.restore("r", c.export("c.tar.zst", "--base", h.built.base), "--base", h.built.base).wellFrom(c)
}

// printed fails the test unless that is on standard output.
func (o outcome) printed(text string) outcome {
	o.t.Helper()
	if !strings.Contains(o.stdout, text) {
		o.t.Fatalf("standard output does not say %q: %s", text, o)
	}
	return o
}

// When ckarchive is killed while CRIU hangs in a restore, recover ends it and whatever was restored by half.
func TestRecoverEndsHangingRestore(t *testing.T) {
	for _, engine := range []string{"direct", "runtime"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts("--memory", "8"))
			path := c.export("c.tar.zst", "--base", h.built.base)
			for _, phase := range some(restorePhases, "post-restore") {
				h.strand(phase, "restore", "--detach", "--engine", engine, "--log", h.path("log"), "--id", h.id("r"), "--base", h.built.base, path)
				h.ok("recover").printed(h.id("r") + ": removed an unfinished restore")
				h.ok("recover").want(0, "nothing to recover")
				wantNothing(h, "r")
				if !within(context.WithoutCancel(t.Context()), patience, func() bool { return len(leftovers(filepath.Join(h.root, "containers"), h.id("r"))) == 0 }) {
					t.Errorf("%s: left behind: %q", phase, leftovers(filepath.Join(h.root, "containers"), h.id("r")))
				}
			}
			r := h.restore("yes", path, "--engine", engine, "--base", h.built.base)
			r.wellFrom(c)
			// Nothing of it holds what recover would wait for.
			lock := filepath.Join(h.root, "containers", r.id, "work.lock")
			if !within(t.Context(), patience, func() bool { return len(processesOf(lock, "work.lock")) == 0 }) {
				t.Errorf("the restored container holds the lock of its restore: %q", processesOf(lock, "work.lock"))
			}
		})
	}
}
