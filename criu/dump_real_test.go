package criu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBinaryReal(t *testing.T) {
	b := requireReal(t)
	v, err := b.Version(t.Context())
	must(t, err)
	if !v.AtLeast(3, 15) {
		t.Errorf("version %v, want at least 3.15", v)
	}
	f, err := b.Features(t.Context())
	must(t, err)
	t.Logf("criu %v, %+v", v, f)
	dir := t.TempDir()
	must(t, b.CPUInfo(t.Context(), dir))
	if _, err := os.Stat(filepath.Join(dir, "cpuinfo.img")); err != nil {
		t.Error(err)
	}
	for _, mode := range []CPUMode{CPUStrict, CPUCompatible} {
		found, err := b.CheckCPU(t.Context(), dir, "", mode)
		if err != nil || len(found) != 1 || found[0].Severity != Info {
			t.Errorf("%s: this CPU does not fit itself: %+v, %v", mode, found, err)
		}
	}
}

func TestDumpLeaveRunning(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t)
	tick(t, c.out)
	opts := c.options(t.TempDir())
	opts.LeaveRunning = true
	called := false
	opts.PostDump = func(context.Context, Dumped) error {
		called = true
		if _, err := os.Stat(filepath.Join(opts.ImagesDir, "cpuinfo.img")); err != nil {
			t.Error(err)
		}
		return nil
	}
	d, err := Dump(t.Context(), b, opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	if !called {
		t.Error("PostDump was not called")
	}
	if d.Stats == nil || d.Stats.PagesWritten == 0 || d.Processes == 0 || d.MemoryBytes == 0 {
		t.Errorf("dump without memory or statistics: %+v", d)
	}
	if len(d.Descriptors) != 3 || !strings.HasPrefix(d.Descriptors[1], "pipe:") {
		t.Errorf("descriptors %q", d.Descriptors)
	}
	entries, err := os.ReadDir(opts.ImagesDir)
	must(t, err)
	for _, e := range entries {
		if fi, err := e.Info(); err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, want no access for others", e.Name(), fi.Mode())
		}
	}
	mustTick(t, c.out)
}

func TestDumpPausedStaysPaused(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t)
	tick(t, c.out)
	run(t, c.runc("pause", c.id))
	opts := c.options(t.TempDir())
	opts.LeaveRunning = true
	if _, err := Dump(t.Context(), b, opts); err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	if got := c.state().Status; got != "paused" {
		t.Errorf("status %q after the dump, want paused", got)
	}
	run(t, c.runc("resume", c.id))
	mustTick(t, c.out)
}

func TestDumpStops(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t)
	tick(t, c.out)
	if _, err := Dump(t.Context(), b, c.options(t.TempDir())); err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	drain(t, c.out) // ends only when no task holds the pipe
	if got := c.state().Status; got != "stopped" {
		t.Errorf("status %q after the dump, want stopped", got)
	}
}

func TestDumpPostDumpError(t *testing.T) {
	b := requireReal(t)
	for name, hook := range map[string]func(cancel func()) error{
		"error":  func(func()) error { return errors.New("disk is full") },
		"cancel": func(cancel func()) error { cancel(); return nil },
		"killed": func(func()) error { return killCRIU() },
	} {
		t.Run(name, func(t *testing.T) {
			c := startContainer(t)
			tick(t, c.out)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			opts := c.options(t.TempDir())
			opts.PostDump = func(context.Context, Dumped) error { return hook(cancel) }
			_, err := Dump(ctx, b, opts)
			var e *Error
			if !errors.As(err, &e) || !e.Running {
				t.Fatalf("error %v, want one that says that the container runs", err)
			}
			if want := map[string]string{"error": "disk is full", "cancel": "context canceled", "killed": "without an answer"}[name]; !strings.Contains(err.Error(), want) {
				t.Errorf("error %q, want it to hold %q", err, want)
			}
			mustTick(t, c.out)
			if got := c.state().Status; got != "running" {
				t.Errorf("status %q, want running", got)
			}
			// And it can be dumped again.
			opts = c.options(t.TempDir())
			if _, err := Dump(t.Context(), b, opts); err != nil {
				t.Fatalf("second dump: %v\n%s", err, logOf(err))
			}
		})
	}
}

func TestDumpFileLocksExplained(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t, withTask(t, "lock"))
	tick(t, c.out)
	_, err := Dump(t.Context(), b, c.options(t.TempDir()))
	var e *Error
	if !errors.As(err, &e) || e.Code != "file-locks" || len(e.Lines) == 0 || !e.Running {
		t.Fatalf("error %+v, want file-locks with CRIU's line", err)
	}
	mustTick(t, c.out)
	opts := c.options(t.TempDir())
	opts.FileLocks = true
	if _, err := Dump(t.Context(), b, opts); err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
}

// killCRIU kills the CRIU that this process runs.
func killCRIU() error {
	children, err := taskTree(os.Getpid())
	if err != nil {
		return err
	}
	for _, pid := range children[1:] {
		if comm, err := os.ReadFile(procPath(pid, "comm")); err == nil && string(comm) == "criu\n" {
			return unix.Kill(pid, unix.SIGKILL)
		}
	}
	return errors.New("no criu is running")
}
