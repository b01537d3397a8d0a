package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/test/env"
)

// runc runs runc on the container.
func (c *container) runc(args ...string) string {
	c.t.Helper()
	return command(c.t, append([]string{"runc", "--root", c.h.runtime}, args...)...)
}

func TestPausedContainer(t *testing.T) {
	for _, engine := range []string{"direct", "runtime"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts())
			c.runc("pause", c.id)
			at := c.tick()
			path := c.export("c.tar.zst", "--leave-running", "--engine", engine, "--base", h.built.base)
			if got := c.state(); got != "paused" {
				t.Errorf("a container that was paused is %s, want paused", got)
			}
			if got := c.tick(); got != at {
				t.Errorf("a paused container has counted from %d to %d", at, got)
			}
			// The restored one was never paused by its owner's hand here: it runs.
			r := h.restore("r", path, "--base", h.built.base)
			r.wellFrom(c)
			c.runc("resume", c.id)
			c.unharmed()
			// And one that is paused can be stopped.
			c.runc("pause", c.id)
			path = c.export("d.tar.zst", "--engine", engine, "--base", h.built.base)
			if got := c.state(); got != "stopped" {
				t.Errorf("the exported container is %s, want stopped", got)
			}
			h.restore("d", path, "--base", h.built.base).wellFrom(c)
		})
	}
}

func TestContainersThatDoNotRun(t *testing.T) {
	h := newHost(t)
	h.run("export", h.id("absent"), h.path("c.tar")).refused(4, h.id("absent"), "list --containers")
	h.run("export", "../"+h.id("absent"), h.path("c.tar")).refused(4)

	bundle := env.Bundle(t, h.path("created"), counts())
	h.copyBase(bundle + "/rootfs")
	id := h.id("created")
	t.Cleanup(func() {
		if said, err := exec.Command("runc", "--root", h.runtime, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("delete: %v\n%s", err, said)
		}
	})
	create := exec.Command("runc", "--root", h.runtime, "create", "--bundle", bundle, id)
	must(t, create.Run())
	h.run("export", id, h.path("c.tar")).refused(5, "created")

	c := h.start("c", counts())
	c.runc("kill", c.id, "KILL")
	c.wantState("stopped")
	h.run("export", c.id, h.path("c.tar")).refused(5, "stopped")
	if exists(t, h.path("c.tar")) {
		t.Error("a file was left")
	}
}

func TestUsedID(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar.zst", "--leave-running", "--base", h.built.base)
	for _, args := range [][]string{{"--id", c.id}, nil} { // nil: the ID of the archive
		h.run(append(append([]string{"restore", "-d", "--base", h.built.base}, args...), path)...).refused(5, c.id, "--id")
		c.unharmed()
	}
	for _, engine := range []string{"runtime", "direct"} {
		r := h.restore(engine, path, "--engine", engine, "--base", h.built.base)
		r.awaitTicks(3)
		h.run("restore", "-d", "--engine", engine, "--base", h.built.base, "--id", r.id, path).refused(5, r.id, "--id")
		r.awaitTicks(3)
		r.wellBehaved()
	}
	h.run("restore", "-d", "--id", "../evil", "--base", h.built.base, path).refused(2, "../evil")
}

// Two exports at the same time: one may be refused, nothing is harmed.
func TestBusy(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "32"))
	type end struct {
		status int
		said   string
	}
	for range 3 {
		ends := make(chan end, 2)
		for _, file := range []string{"a.tar", "b.tar"} {
			cmd := h.command("export", "--force", "--leave-running", "--base", h.built.base, c.id, h.path(file))
			go func() {
				said, _ := cmd.CombinedOutput() //nolint:errcheck // the status tells
				ends <- end{statusOf(cmd.ProcessState), string(said)}
			}()
		}
		good := 0
		for range 2 {
			switch e := <-ends; {
			case e.status == 0:
				good++
			case e.status != 5 || !strings.Contains(e.said, "wait"):
				t.Errorf("status %d, want 0, or 5 with a hint to wait: %s", e.status, e.said)
			}
		}
		if good == 0 {
			t.Error("no export went well")
		}
		c.unharmed()
	}
}

func TestJoinedProcess(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	began := time.Now()
	exec := exec.Command("runc", "--root", h.runtime, "exec", "--detach", c.id, "/bin/sleep", "1000")
	must(t, exec.Run())
	h.run("export", "--base", h.built.base, c.id, h.path("c.tar")).refused(5, "joined", "--force")
	c.unharmed()
	if exists(t, h.path("c.tar")) {
		t.Error("a file was left")
	}
	path := c.export("c.tar.zst", "--force", "--base", h.built.base)
	if time.Since(began) > 1000*time.Second {
		t.Fatal("the joined process has ended by itself")
	}
	h.restore("r", path, "--base", h.built.base).wellFrom(c)
}

// Of restores that want one ID at the same time one wins, whoever exports a container of that ID meanwhile.
func TestRestoresTogether(t *testing.T) {
	for _, engine := range some([]string{"direct", "runtime"}, "direct") {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts())
			path := c.export("c.tar.zst", "--base", h.built.base)
			r := &container{t: t, h: h, id: h.id("r"), direct: engine == "direct"}
			t.Cleanup(r.remove)
			ends := make(chan outcome, 3)
			for i := range cap(ends) {
				log := h.path(fmt.Sprintf("log%d", i))
				go func() {
					ends <- h.run("--json", "restore", "--detach", "--engine", engine, "--log", log, "--id", r.id, "--base", h.built.base, path)
				}()
			}
			for i := range cap(ends) {
				switch o := <-ends; o.status {
				case 0:
					if r.pid != 0 {
						t.Errorf("two of them won: %s", o)
					}
					said := decode[restored](o)
					r.pid, r.rootfs = said.PID, said.Rootfs
					r.log = o.args[slices.Index(o.args, "--log")+1]
				case 5:
				default:
					t.Errorf("%d: status %d, want 0 or 5: %s", i, o.status, o)
				}
			}
			if r.pid == 0 {
				t.Fatal("nobody won")
			}
			r.wellFrom(c)
			exported := make(chan outcome)
			go func() {
				exported <- h.run("export", "--leave-running", "--base", h.built.base, r.id, h.path("again.tar"))
			}()
			h.run("restore", "--detach", "--engine", engine, "--id", r.id, "--base", h.built.base, path).refused(5)
			(<-exported).want(0)
			r.unharmed()
			h.ok("verify", h.path("again.tar"))
		})
	}
}
