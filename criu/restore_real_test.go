package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// dumpStopped dumps a container, ends it and removes it from runc.
func dumpStopped(t *testing.T, b Binary, c *container, change func(*DumpOptions)) DumpOptions {
	t.Helper()
	opts := c.options(t.TempDir())
	if change != nil {
		change(&opts)
	}
	if _, err := Dump(t.Context(), b, opts); err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	run(t, c.runc("delete", "-f", c.id))
	return opts
}

// restoreOptions are the options to restore what a dump left, with a pipe as output.
func restoreOptions(t *testing.T, d DumpOptions) (RestoreOptions, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return RestoreOptions{
		Flags: d.Flags, Spec: d.Spec, Rootfs: d.Rootfs, ImagesDir: d.ImagesDir, WorkDir: filepath.Join(t.TempDir(), "work"),
		CgroupPath: fmt.Sprintf("/ckarchive-test-%d/%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-")),
		Stdout:     w, Stderr: w, EmptyDir: t.TempDir(),
	}, bufio.NewReader(r)
}

// removeCgroup removes the cgroups of a container that has ended. They are busy until the kernel is done with its processes.
func removeCgroup(path string) error {
	hs, err := hostHierarchies()
	if err != nil {
		return err
	}
	end := time.Now().Add(time.Minute)
	for _, h := range hs {
		rerr := os.Remove(h.dir(path))
		for ; errors.Is(rerr, unix.EBUSY) && time.Now().Before(end); rerr = os.Remove(h.dir(path)) {
			time.Sleep(10 * time.Millisecond)
		}
		if !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// restoreReal restores and ends the container with the test.
func restoreReal(t *testing.T, b Binary, opts RestoreOptions) Restored {
	t.Helper()
	res, err := Restore(t.Context(), b, opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	t.Cleanup(func() {
		killTree(res.PID)
		must(t, removeCgroup(res.CgroupPath))
		must(t, removeCgroup(filepath.Dir(res.CgroupPath)))
	})
	if opts.Stdout != nil {
		opts.Stdout.Close() // now only the container holds it
	}
	noMounts(t, opts)
	return res
}

// noMounts checks that a restore has left no mount of the root file system or
// below its work directory.
func noMounts(t *testing.T, opts RestoreOptions) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, opts.WorkDir) || strings.Contains(line, opts.Rootfs) {
			t.Errorf("a mount is left: %s", line)
		}
	}
}

func TestRestoreDirect(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t)
	last := tick(t, c.out)
	d := dumpStopped(t, b, c, nil)
	for _, n := range strings.Fields(strings.ReplaceAll(drain(t, c.out), "tick", "")) {
		i, err := strconv.Atoi(n)
		must(t, err)
		last = i
	}
	opts, out := restoreOptions(t, d)
	opts.PIDFile = filepath.Join(t.TempDir(), "pid")
	res := restoreReal(t, b, opts)
	if got, want := tick(t, out), last+1; got != want {
		t.Errorf("first tick %d, want %d", got, want)
	}
	mustTick(t, out)
	pid, err := os.ReadFile(opts.PIDFile)
	must(t, err)
	if got, want := string(pid), strconv.Itoa(res.PID); got != want {
		t.Errorf("PID file %q, want %q", got, want)
	}
	ms, err := readCgroups(res.PID)
	must(t, err)
	for _, m := range ms {
		if m.path != res.CgroupPath && m.path != "/" {
			t.Errorf("cgroup %s:%s, want %s", m.controllers, m.path, res.CgroupPath)
		}
	}
	// The second generation: what was restored directly is dumped again.
	again := DumpOptions{Spec: d.Spec, PID: res.PID, Rootfs: d.Rootfs, ImagesDir: filepath.Join(t.TempDir(), "images"), LeaveRunning: true}
	if _, err := Dump(t.Context(), b, again); err != nil {
		t.Fatalf("dump again: %v\n%s", err, logOf(err))
	}
	mustTick(t, out)
	// And its end is seen.
	must(t, unix.Kill(res.PID, unix.SIGKILL))
	status, err := Wait(res.PID)
	must(t, err)
	if want := 128 + 9; status != want {
		t.Errorf("status %d, want %d", status, want)
	}
}

// TestRestoreConsumesImages finds the memory gone from the images after the restore, when that was
// asked for and only then.
func TestRestoreConsumesImages(t *testing.T) {
	b := requireReal(t)
	for _, consume := range []bool{false, true} {
		t.Run(strconv.FormatBool(consume), func(t *testing.T) {
			c := startContainer(t)
			tick(t, c.out)
			opts, out := restoreOptions(t, dumpStopped(t, b, c, nil))
			opts.ConsumeImages = consume
			pages := filepath.Join(opts.ImagesDir, "pages-1.img")
			before := allocated(t, pages)
			restoreReal(t, b, opts)
			mustTick(t, out)
			after := allocated(t, pages)
			if !consume && after != before || consume && after > before/4 {
				t.Errorf("the pages take %d bytes, before the restore %d", after, before)
			}
		})
	}
}

// allocated is the space that a file takes, in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, f.Sync()) // space is given out when it is written
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	return st.Blocks * 512
}

func TestRestoreExitStatus(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t, withTask(t, "exit"))
	tick(t, c.out)
	d := dumpStopped(t, b, c, nil)
	opts, out := restoreOptions(t, d)
	res := restoreReal(t, b, opts)
	mustTick(t, out)
	must(t, os.WriteFile(filepath.Join(d.Rootfs, "tmp/end"), nil, 0o600))
	status, err := Wait(res.PID)
	must(t, err)
	if want := 7; status != want {
		t.Errorf("status %d, want %d", status, want)
	}
}

func TestRestoreLoopbackTCP(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t, withTask(t, "tcp"))
	tick(t, c.out)
	_, err := Dump(t.Context(), b, c.options(t.TempDir()))
	var e *Error
	if !errors.As(err, &e) || e.Code != "tcp-established" {
		t.Fatalf("error %v, want tcp-established", err)
	}
	mustTick(t, c.out)
	d := dumpStopped(t, b, c, func(o *DumpOptions) { o.TCPEstablished = true })
	opts, out := restoreOptions(t, d)
	restoreReal(t, b, opts)
	mustTick(t, out)
}

func TestRestoreThroughRunc(t *testing.T) {
	b := requireReal(t)
	vol := t.TempDir()
	must(t, os.Mkdir(filepath.Join(vol, "sub"), 0o755))
	c := startContainer(t, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: vol, Options: []string{"rbind"}})
	})
	tick(t, c.out)
	d := dumpStopped(t, b, c, nil)
	conf, err := ConfigFile(t.Context(), d.ImagesDir, d.Spec, nil, ConfigOptions{EmptyDir: t.TempDir()})
	must(t, err)
	file := filepath.Join(t.TempDir(), "criu.conf")
	must(t, os.WriteFile(file, conf, 0o600))
	if want := "external mnt[/vol]:" + vol; !strings.Contains(string(conf), want) {
		t.Errorf("configuration %q, want %q in it", conf, want)
	}
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close() })
	work := filepath.Join(t.TempDir(), "work")
	cmd := c.runc("restore", "-d", "-b", c.bundle, "--image-path", d.ImagesDir, "--work-path", work, c.id)
	cmd.Env = append(os.Environ(), "CRIU_CONFIG_FILE="+file)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(work, RestoreLog))
		t.Fatalf("runc restore: %v\n%s", err, log)
	}
	w.Close()
	mustTick(t, bufio.NewReader(r))
}

// TestRestoreStdoutFile moves a container whose output is a file of the host.
func TestRestoreStdoutFile(t *testing.T) {
	b := requireReal(t)
	bundle, spec := newBundle(t)
	out, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer out.Close()
	c := &container{t: t, id: fmt.Sprintf("criutest-%d-file", os.Getpid()), root: filepath.Join(t.TempDir(), "runc"), bundle: bundle, spec: spec}
	cmd := c.runc("run", "-d", "-b", bundle, c.id)
	cmd.Stdout, cmd.Stderr = out, out
	t.Cleanup(func() { c.runc("delete", "-f", c.id).Run() })
	run(t, cmd)
	c.pid = c.state().Pid
	opts := c.options(t.TempDir())
	d, err := Dump(t.Context(), b, opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	if len(d.Descriptors) != 3 || !strings.HasPrefix(d.Descriptors[1], "file[") || d.Descriptors[1] != d.Descriptors[2] {
		t.Errorf("descriptors %q, want the file's key for 1 and 2", d.Descriptors)
	}
	run(t, c.runc("delete", "-f", c.id))
	size := fileSize(t, out.Name())
	ropts, _ := restoreOptions(t, opts)
	ropts.Stdout, ropts.Stderr = out, out
	res, err := Restore(t.Context(), b, ropts)
	if err != nil {
		t.Fatalf("%v\n%s", err, logOf(err))
	}
	defer func() {
		killTree(res.PID)
		must(t, errors.Join(removeCgroup(res.CgroupPath), removeCgroup(filepath.Dir(res.CgroupPath))))
	}()
	for fileSize(t, out.Name()) <= size { // ends with the test's own limit if nothing comes
		if !alive(res.PID) {
			t.Fatal("the container ended")
		}
	}
}

func fileSize(t *testing.T, name string) int64 {
	t.Helper()
	fi, err := os.Stat(name)
	must(t, err)
	return fi.Size()
}

func TestRestoreTerminal(t *testing.T) {
	b := requireReal(t)
	socket := filepath.Join(t.TempDir(), "console")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	defer l.Close()
	bundle, spec := newBundle(t, func(s *specs.Spec) { s.Process.Terminal = true })
	c := &container{t: t, id: fmt.Sprintf("criutest-%d-tty", os.Getpid()), root: filepath.Join(t.TempDir(), "runc"), bundle: bundle, spec: spec}
	t.Cleanup(func() { c.runc("delete", "-f", c.id).Run() })
	masters := make(chan *os.File, 2)
	accept := func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		oob := make([]byte, 64)
		_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 64), oob)
		if err == nil {
			files, _ := receivedFiles(oob[:n])
			masters <- files[0]
		}
	}
	go accept()
	run(t, c.runc("run", "-d", "--console-socket", socket, "-b", bundle, c.id))
	c.pid = c.state().Pid
	first := <-masters
	tick(t, bufio.NewReader(first))
	d := dumpStopped(t, b, c, nil)
	first.Close()
	opts, _ := restoreOptions(t, d)
	opts.ConsoleSocket = socket
	go accept()
	restoreReal(t, b, opts)
	second := <-masters
	defer second.Close()
	mustTick(t, bufio.NewReader(second))
}

// TestRestoreFails checks that nothing is left of a restore that cannot work.
func TestRestoreFails(t *testing.T) {
	b := requireReal(t)
	c := startContainer(t, withArgs("sh", "-c", "exec 9>/tmp/open; "+counter))
	tick(t, c.out)
	d := dumpStopped(t, b, c, nil)
	for name, test := range map[string]struct {
		change func(*testing.T, *RestoreOptions) context.Context
		want   string
	}{
		"missing file": {func(t *testing.T, _ *RestoreOptions) context.Context {
			must(t, os.Rename(filepath.Join(d.Rootfs, "tmp/open"), filepath.Join(d.Rootfs, "tmp/gone")))
			t.Cleanup(func() { must(t, os.Rename(filepath.Join(d.Rootfs, "tmp/gone"), filepath.Join(d.Rootfs, "tmp/open"))) })
			return t.Context()
		}, "missing"},
		"hook": {func(t *testing.T, o *RestoreOptions) context.Context {
			o.OnSetupNamespaces = func(context.Context, int) error { return errors.New("no network") }
			return t.Context()
		}, "no network"},
		"killed": {func(t *testing.T, o *RestoreOptions) context.Context {
			o.OnSetupNamespaces = func(context.Context, int) error { return killCRIU() }
			return t.Context()
		}, "without an answer"},
		"cancel": {func(t *testing.T, o *RestoreOptions) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			o.OnSetupNamespaces = func(context.Context, int) error { cancel(); return nil }
			return ctx
		}, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := restoreOptions(t, d)
			ctx := test.change(t, &opts)
			_, err := Restore(ctx, b, opts)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			noMounts(t, opts)
			hs, err := hostHierarchies()
			must(t, err)
			for _, h := range hs {
				if _, err := os.Stat(h.dir(opts.CgroupPath)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("cgroup %s is left: %v", h.dir(opts.CgroupPath), err)
				}
			}
			removeCgroup(filepath.Dir(opts.CgroupPath))
		})
	}
	// The images are still good.
	opts, out := restoreOptions(t, d)
	restoreReal(t, b, opts)
	mustTick(t, out)
}
