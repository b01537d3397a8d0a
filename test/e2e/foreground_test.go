package e2e

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A restore in the foreground is as good as the container itself.
func TestForeground(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		for _, tt := range []struct {
			name   string
			sig    syscall.Signal // to the container's first process, or to ckarchive
			toSelf bool
			file   bool // output into a regular file
			status int
		}{
			{"exit status in a pipe", syscall.SIGUSR1, false, false, 7},
			{"exit status in a file", syscall.SIGUSR1, false, true, 7},
			{"SIGTERM is passed on", syscall.SIGTERM, true, false, 0},
			{"SIGTERM with a file", syscall.SIGTERM, true, true, 0},
			{"killed", syscall.SIGKILL, false, false, 137},
		} {
			t.Run(engine+" "+tt.name, func(t *testing.T) {
				h := newHost(t)
				c := h.start("c", counts())
				path := c.export("c.tar", "--base", h.built.base)
				r := &container{t: t, h: h, id: h.id("r"), log: h.path("out"), direct: engine == "direct"}
				t.Cleanup(r.remove)
				pidFile := h.path("pid")
				cmd := h.command("restore", "--engine", engine, "--id", r.id, "--base", h.built.base, "--pid-file", pidFile, path)
				out, err := os.OpenFile(r.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
				must(t, err)
				_, err = out.WriteString("what was there before\n")
				must(t, err)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				cmd.Stdout = out
				if !tt.file {
					cmd.Stdout = struct{ io.Writer }{out} // makes os/exec use a pipe
				}
				must(t, cmd.Start())
				t.Cleanup(func() {
					if cmd.ProcessState == nil { // the test has failed
						_ = cmd.Process.Signal(syscall.SIGTERM)
						_ = cmd.Wait()
					}
				})
				await(t, "container's output", func() bool { return len(r.ticks()) > 5 })
				await(t, "process ID", func() bool { // it is written when the container runs already
					b, err := os.ReadFile(pidFile)
					return err == nil && bytes.HasSuffix(b, []byte("\n"))
				})
				pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, pidFile)))
				must(t, err)
				r.pid, r.rootfs = pid, filepath.Join(h.root, "containers", r.id, "bundle/rootfs")
				r.wellFrom(c)
				if tt.toSelf {
					must(t, cmd.Process.Signal(tt.sig))
				} else {
					must(t, syscall.Kill(pid, tt.sig))
				}
				_ = cmd.Wait() // the status tells
				if got := statusOf(cmd.ProcessState); got != tt.status {
					t.Errorf("status %d, want %d: %s", got, tt.status, stderr.String())
				}
				must(t, out.Close())
				if got := readFile(t, r.log); !strings.HasPrefix(got, "what was there before\n"+r.id+"\ntick ") {
					t.Errorf("the output begins with %.100q, want what was there, the ID and the ticks", got)
				}
				for i, n := range r.ticks() {
					if want := r.ticks()[0] + i; n != want {
						t.Fatalf("the output has tick %d, want %d", n, want)
					}
				}
				wantNothing(h, "r")
			})
		}
	}
}

// With --delete nothing of the container is left, whoever managed it.
func TestExportDeletes(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--children", "1"))
	path := c.export("one.tar", "--delete", "--base", h.built.base)
	wantNothing(h, "c")
	d := h.restore("d", path, "--engine", "direct", "--base", h.built.base)
	d.wellFrom(c)
	path = d.export("two.tar", "--delete", "--base", h.built.base)
	if _, err := os.Stat(filepath.Join(h.runDir, "containers", d.id)); err == nil {
		t.Error("the record of the container is left")
	}
	if left := named("/sys/fs/cgroup", d.id, 7); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	h.ok("gc")
	noFiles(t, filepath.Join(h.root, "containers"))
	h.run("export", "--delete", "--leave-running", d.id, h.path("x.tar")).refused(2, "exclude")
	h.restore("e", path, "--base", h.built.base).wellFrom(d)
}

func TestDetached(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts())
			path := c.export("c.tar", "--delete", "--base", h.built.base)
			if got := c.state(); got != "gone" {
				t.Errorf("after --delete the container is %s, want gone", got)
			}
			r := &container{t: t, h: h, id: c.id, log: h.path("log"), direct: engine == "direct"}
			if !r.direct {
				t.Cleanup(r.remove)
			}
			pidFile := h.path("pid")
			// Nothing but the ID is printed, and the pipe's end comes although the container goes on.
			if got := h.ok("restore", "--detach", "--engine", engine, "--log", r.log, "--pid-file", pidFile, "--base", h.built.base, path).line(); got != r.id {
				t.Errorf("restore prints %q, want %q", got, r.id)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, pidFile)))
			must(t, err)
			r.pid = pid
			if r.direct {
				t.Cleanup(r.remove)
			}
			home := filepath.Join(h.root, "containers", r.id)
			r.rootfs = filepath.Join(home, "bundle/rootfs")
			r.wellFrom(c)
			if cmdline := readFile(t, "/proc/"+strconv.Itoa(pid)+"/cmdline"); !strings.HasPrefix(cmdline, "/bin/workload") {
				t.Errorf("the pid file names a process %q", cmdline)
			}
			info, err := os.Stat(r.log)
			must(t, err)
			if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
				t.Errorf("mode of the log: %v, want %v", got, want)
			}

			// What is in use is not freed, what is not is.
			h.ok("gc")
			r.awaitTicks(3)
			if !exists(t, r.rootfs) {
				t.Fatal("gc has removed the files of a running container")
			}
			must(t, syscall.Kill(pid, syscall.SIGTERM))
			if r.direct {
				await(t, "end of the container", func() bool { return !exists(t, "/proc/"+strconv.Itoa(pid)) })
			} else {
				r.wantState("stopped")
				r.runc("delete", r.id)
			}
			if o := h.ok("gc", "--dry-run"); !strings.Contains(o.stdout, "1 containers") || !exists(t, home) {
				t.Errorf("gc --dry-run says %q and leaves the home: %v", o.stdout, exists(t, home))
			}
			h.ok("gc")
			if exists(t, home) {
				t.Errorf("gc leaves %s", home)
			}
			wantNothing(h, "c")
		})
	}
}
