package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/test/env"
)

// sandboxHost is a host with runsc. What a container writes is seen on it in a volume only.
func sandboxHost(t *testing.T, programs ...string) *host {
	t.Helper()
	h := newHost(t, append(programs, "runsc")...)
	for _, dir := range []string{"runsc", "volume"} {
		must(t, os.Mkdir(h.path(dir), 0o755))
	}
	// The default of a host whose containers are those of gVisor.
	h.extra = append(h.extra, "CKARCHIVE_RUNTIME="+env.Program(t, "runsc"), "CKARCHIVE_RUNTIME_ROOT="+h.path("runsc"))
	return h
}

// sandboxBundle is a container with memory, processes behind pipes, a tmpfs and files: in its root file
// system, deleted ones, in a volume.
func (h *host) sandboxBundle(name string, opts env.BundleOptions) string {
	h.t.Helper()
	opts.Args = append([]string{
		"/bin/workload", "--memory", "16", "--tick", "10ms", "--children", "2", "--tmpfs", "/mem", "--deleted",
		"--volume", "/vol", "--status", "/vol/status",
	}, opts.Args...)
	opts.NoCgroupMount = true
	opts.Mounts = []specs.Mount{env.Tmpfs("/mem"), env.Bind(h.path("volume"), "/vol")}
	bundle := env.Bundle(h.t, h.path(name), opts)
	h.copyBase(filepath.Join(bundle, "rootfs"))
	return bundle
}

// startSandbox starts one.
func (h *host) startSandbox(name string, opts env.BundleOptions) *env.Container {
	h.t.Helper()
	c := env.Run(h.t, "runsc", h.path("runsc"), h.id(name), h.sandboxBundle(name, opts))
	c.Shared = h.path("volume")
	c.WaitTick(h.t, 3)
	return c
}

// sandboxFlags are those with which it is restored.
func (h *host) sandboxFlags() []string {
	return []string{"--base", h.built.base, "--map-mount", "/vol=" + h.path("volume")}
}

// restoreSandbox restores src, which goes on from where before ended: its memory, files and processes
// are what they were.
func (h *host) restoreSandbox(name, src string, before *env.Container, flags ...string) *env.Container {
	h.t.Helper()
	log := h.path(name + ".log")
	args := append([]string{"--json", "restore", "--detach", "--log", log, "--id", h.id(name)}, h.sandboxFlags()...)
	said := decode[restored](h.ok(append(append(args, flags...), src)...))
	c := env.Adopt(h.t, env.Container{
		ID: said.ID, Runtime: "runsc", Root: h.path("runsc"), Bundle: said.Bundle, PID: said.PID, Log: log, Shared: h.path("volume"),
	})
	if said.Runtime != "runsc" {
		h.t.Errorf("it is restored with %s, want runsc", said.Runtime)
	}
	h.goesOn(before.Log, c)
	return c
}

// goesOn checks that c counts on from the log of the one before it, without a gap, and is well.
func (h *host) goesOn(before string, c *env.Container) {
	h.t.Helper()
	list := ticksIn(h.t, before)
	await(h.t, "ticks of "+c.ID, func() bool { return len(ticksIn(h.t, c.Log)) > 3 })
	c.WaitTick(h.t, uint64(last(list))+3)
	c.Verify(h.t)
	// What it printed before it was frozen may not have been read at the time.
	if !within(h.t.Context(), patience, func() bool { return last(ticksIn(h.t, before))+1 == ticksIn(h.t, c.Log)[0] }) {
		h.t.Fatalf("container %s goes on with tick %d, the one before ended with %d", c.ID, ticksIn(h.t, c.Log)[0], last(ticksIn(h.t, before)))
	}
	wantNoGap(h.t, c)
}

func wantNoGap(t *testing.T, c *env.Container) {
	t.Helper()
	list := ticksIn(t, c.Log)
	for i, n := range list {
		if want := list[0] + i; n != want {
			t.Fatalf("container %s has counted %d, want %d", c.ID, n, want)
		}
	}
}

// unharmedSandbox checks that it runs on.
func (h *host) unharmedSandbox(c *env.Container) {
	h.t.Helper()
	status := c.Status(h.t)
	c.WaitTick(h.t, status.Tick+3)
	c.Verify(h.t)
	if got := c.State(h.t).Status; got != specs.StateRunning {
		h.t.Errorf("runsc says that %s is %s, want running", c.ID, got)
	}
	wantNoGap(h.t, c)
}

// A sandbox goes through a file, a store and a registry to another host, and on from there.
func TestSandbox(t *testing.T) {
	one, two := sandboxHost(t, "docker-registry"), sandboxHost(t)
	registry := env.Registry(t, env.RegistryOptions{})
	c := one.startSandbox("c", env.BundleOptions{})

	if o := one.ok("list", "--containers"); !strings.Contains(o.stdout, "runsc") {
		t.Errorf("list --containers does not show it: %s", o)
	}
	if o := one.ok("check", c.ID); !strings.Contains(o.stdout, "sandbox of gVisor") {
		t.Errorf("check says %s", o)
	}

	// It goes on; the archive is of one moment, with the files of the volume as they were then.
	name := registry.Host + "/sandbox:v1"
	digest := one.ok("export", "--leave-running", "--base", one.built.base, c.ID, name).line()
	one.unharmedSandbox(c)
	if got := one.ok("push", "--plain-http", name, name).line(); !strings.Contains(got, digest) {
		t.Errorf("push prints %q, want the digest %s", got, digest)
	}

	path := one.path("c.tar.zst")
	one.ok("export", "--base", one.built.base, c.ID, path)
	c.WaitEnd(t)
	one.ok("verify", path)
	command(t, "cp", "-a", one.path("volume")+"/.", two.path("volume"))

	meta := one.metadata(path)
	if meta.Format != archive.FormatGVisor || meta.Container.Runtime.Name != "runsc" || meta.Container.Processes != 3 ||
		meta.Container.MemoryBytes < 16<<20 || meta.Sandbox == nil || meta.Sandbox.Network != "none" || meta.Sandbox.Overlay != "root:self" {
		t.Errorf("metadata %+v, sandbox %+v", meta, meta.Sandbox)
	}
	if o := one.ok("inspect", path); !strings.Contains(o.stdout, "gVisor") {
		t.Errorf("inspect says %s", o)
	}
	two.ok(append(append([]string{"check"}, two.sandboxFlags()...), path)...)

	r := two.restoreSandbox("file", path, c)
	// Again: what was restored is dumped like any other.
	next := two.path("next.tar")
	two.ok("export", "--delete", "--base", two.built.base, r.ID, next)
	if got := two.metadata(next).Container.Generation; got != 2 {
		t.Errorf("generation %d, want 2", got)
	}
	s := two.restoreSandbox("again", next, r)
	s.Command(t, "kill", s.ID, "KILL")
	s.WaitEnd(t)

	two.ok("pull", "--plain-http", name)
	if o := two.ok("inspect", name); !strings.Contains(o.stdout, "gVisor") {
		t.Errorf("inspect says %s", o)
	}
}

// metadata is ckarchive.json of an archive.
func (h *host) metadata(src string) archive.Metadata {
	h.t.Helper()
	return decode[struct{ Metadata archive.Metadata }](h.ok("inspect", "--json", src)).Metadata
}

// A checkpoint of one kind is not for the runtimes of the other, and the options of CRIU not for a sandbox.
func TestSandboxRefusals(t *testing.T) {
	h := sandboxHost(t)
	c := h.startSandbox("c", env.BundleOptions{})
	h.run("export", "--file-locks", "--tcp-established", c.ID, h.path("x.tar")).refused(2, "--file-locks", "--tcp-established", "gVisor")
	h.unharmedSandbox(c)
	path := h.path("c.tar")
	h.ok("export", "--base", h.built.base, c.ID, path)
	flags := h.sandboxFlags()
	refused := func(status int, says string, args ...string) {
		t.Helper()
		h.restoreRefused("no", append(append(args, flags...), path), status, says)
	}
	refused(2, "--engine direct", "--engine", "direct", "--runtime", env.Program(t, "runsc"))
	refused(5, "CRIU restores none", "--runtime", "direct")
	refused(5, "runc: runtime cannot restore images of gVisor", "--runtime", "runc", "--runtime-root", h.runtime)
	refused(2, "--shell-job", "--shell-job")
	refused(2, "--tcp-close", "--tcp-close")
	h.run("inspect", "--tree", path).refused(5, "runsc")

	// The host's network is granted, or not had.
	forged := func(name string, edit func(dir string, m *archive.Metadata)) string {
		t.Helper()
		to := h.path(name + ".tar")
		reforge(t, path, to, edit)
		return to
	}
	widened := forged("widened", func(_ string, m *archive.Metadata) { m.Sandbox.Network = "host" })
	h.restoreRefused("host", append(flags, widened), 5, "--network", "--runtime-flag network=")
	// What the images say of themselves counts.
	h.restoreRefused("granted", append(flags, "--runtime-flag", "network=host", widened), 3, "network")
	// Nor does anything beside the images reach runsc.
	orders := forged("orders", func(dir string, _ *archive.Metadata) {
		writeFile(t, filepath.Join(dir, archive.CheckpointDir, "gcs_opts.json"), "{}")
	})
	h.restoreRefused("orders", append(flags, orders), 3, "gcs_opts.json")
	older := forged("older", func(_ string, m *archive.Metadata) { m.Container.Runtime.Version = "runsc version release-1" })
	h.restoreRefused("older", append(flags, older), 5, "its own version")

	// runsc tells no container from one whose ID begins with its own.
	r := h.restoreSandbox("r", path, c)
	h.run(append(append([]string{"restore", "--detach", "--id", r.ID + "2"}, flags...), path)...).refused(5, "could not tell")

	// The other way round.
	criu := h.start("criu", counts())
	h.extra = append(h.extra, "CKARCHIVE_RUNTIME=runc", "CKARCHIVE_RUNTIME_ROOT="+h.runtime)
	other := criu.export("criu.tar", "--base", h.built.base)
	h.restoreRefused("other", []string{"--runtime", env.Program(t, "runsc"), "--base", h.built.base, other}, 5, "runsc: runtime cannot restore images of CRIU")
	h.restoreRefused("flag", []string{"--runtime-flag", "network=host", "--base", h.built.base, other}, 2, "--runtime-flag")
}

// Whatever ends ckarchive, the sandbox goes on by itself, and nothing is left.
func TestSandboxInterrupted(t *testing.T) {
	h := sandboxHost(t)
	c := h.startSandbox("c", env.BundleOptions{Args: []string{"--memory", "96"}})
	out := h.path("out")
	must(t, os.Mkdir(out, 0o755))
	path := filepath.Join(out, "c.tar")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		for queue := slices.Clone(phases); len(queue) > 0; {
			p := queue[0]
			queue = queue[1:]
			if p.after > 50*time.Millisecond {
				continue
			}
			status, said := h.interrupt(sig, p.task, p.after, "--compress", "none", "--base", h.built.base, c.ID, path)
			if p.over(status, &queue) {
				c = h.restoreSandbox(strconv.Itoa(int(sig))+p.id(), path, c)
				must(t, os.Remove(path))
				continue
			}
			if want := 128 + int(sig); status != want {
				t.Fatalf("%s, %s: status %d, want %d: %s", sig, p.name, status, want, said)
			}
			h.unharmedSandbox(c)
			if !within(t.Context(), patience, func() bool {
				return len(entries(t, filepath.Join(h.root, "spool"))) == 0 && len(entries(t, out)) == 0
			}) {
				t.Errorf("%s, %s: left behind: %q in the spool, %q beside the file", sig, p.name, entries(t, filepath.Join(h.root, "spool")), entries(t, out))
			}
		}
	}
	h.ok("recover").want(0, "nothing to recover")

	full := h.tinyDisk("full", "8m")
	if o := h.run("--root", full, "export", "--base", h.built.base, c.ID, path); o.status != 5 && o.status != 6 || !strings.Contains(o.stderr, "space") {
		t.Errorf("with a full spool: %s", o)
	}
	h.unharmedSandbox(c)
	h.ok("export", "--base", h.built.base, c.ID, path)
	h.restoreSandbox("last", path, c)
}

// One that was found paused stays so. Without --base the archive needs nothing at the other end.
func TestSandboxPaused(t *testing.T) {
	h := sandboxHost(t)
	c := h.startSandbox("c", env.BundleOptions{})
	c.Command(t, "pause", c.ID)
	path := h.path("c.tar")
	h.ok("export", "--leave-running", c.ID, path)
	if got := c.State(t).Status; got != "paused" {
		t.Errorf("it is %s afterwards, want paused", got)
	}
	h.ok("export", "--force", c.ID, path)
	c.WaitEnd(t)
	log := h.path("r.log")
	said := decode[restored](h.ok("--json", "restore", "--detach", "--log", log, "--id", h.id("r"), "--map-mount", "/vol="+h.path("volume"), path))
	h.goesOn(c.Log, env.Adopt(t, env.Container{ID: said.ID, Runtime: "runsc", Root: h.path("runsc"), PID: said.PID, Log: log, Shared: h.path("volume")}))
}

// A sandbox without an overlay writes into its root file system, which is archived while it stands still;
// one with the host's network gets that again only if it is granted.
func TestSandboxPlain(t *testing.T) {
	h := sandboxHost(t)
	opts := env.BundleOptions{
		Args:          []string{"/bin/sh", "-c", "n=0; while :; do n=$((n+1)); echo $n >> /written; echo tick $n; sleep 0.02; done"},
		NoCgroupMount: true,
	}
	bundle := env.Bundle(t, h.path("c"), opts)
	h.copyBase(filepath.Join(bundle, "rootfs"))
	log, pidFile := h.path("c.log"), h.path("c.pid")
	out, err := os.Create(log)
	must(t, err)
	cmd := exec.CommandContext(t.Context(), env.Program(t, "runsc"), "--root", h.path("runsc"), "--network", "host", "--overlay2", "none",
		"run", "--detach", "--bundle", bundle, "--pid-file", pidFile, h.id("c"))
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Run())
	must(t, out.Close())
	pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, pidFile)))
	must(t, err)
	c := env.Adopt(t, env.Container{ID: h.id("c"), Runtime: "runsc", Root: h.path("runsc"), PID: pid, Log: log})
	await(t, "ticks", func() bool { return len(ticksIn(t, log)) > 3 })

	if o := h.ok("check", c.ID); !strings.Contains(o.stdout, "archived from there") {
		t.Errorf("check does not say where the files are: %s", o)
	}
	path := h.path("c.tar")
	h.ok("export", "--base", h.built.base, c.ID, path)
	c.WaitEnd(t)
	h.restoreRefused("no", []string{"--base", h.built.base, path}, 5, "--runtime-flag network=")
	r := h.path("r.log")
	said := decode[restored](h.ok("--json", "restore", "--detach", "--log", r, "--id", h.id("r"), "--runtime-flag", "network=host", "--base", h.built.base, path))
	env.Adopt(t, env.Container{ID: said.ID, Runtime: "runsc", Root: h.path("runsc"), PID: said.PID, Log: r})
	await(t, "ticks", func() bool { return len(ticksIn(t, r)) > 3 })
	if got, want := ticksIn(t, r)[0], last(ticksIn(t, log))+1; got != want {
		t.Errorf("it goes on with tick %d, want %d", got, want)
	}
	for i, n := range strings.Fields(readFile(t, filepath.Join(said.Rootfs, "written"))) {
		if want := strconv.Itoa(i + 1); n != want {
			t.Fatalf("line %d of its file is %s, want %s", i+1, n, want)
		}
	}
}

// In the foreground ckarchive has the output, the signals and the exit status of the container.
func TestSandboxForeground(t *testing.T) {
	h := sandboxHost(t)
	c := h.startSandbox("c", env.BundleOptions{})
	path := h.path("c.tar")
	h.ok("export", "--base", h.built.base, c.ID, path)
	for _, tt := range []struct {
		name   string
		end    func(cmd *os.Process, c *env.Container)
		status int
	}{
		{"usr1", func(_ *os.Process, c *env.Container) { c.Command(t, "kill", c.ID, "USR1") }, 7},
		{"term", func(p *os.Process, _ *env.Container) { must(t, p.Signal(syscall.SIGTERM)) }, 0},
		{"kill", func(_ *os.Process, c *env.Container) { c.Command(t, "kill", c.ID, "KILL") }, 137},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, pidFile := h.path(tt.name+".log"), h.path(tt.name+".pid")
			out, err := os.Create(log)
			must(t, err)
			var stderr bytes.Buffer
			args := append([]string{"restore", "--id", h.id(tt.name), "--pid-file", pidFile}, h.sandboxFlags()...)
			cmd := h.command(append(args, path)...)
			cmd.Stdout, cmd.Stderr = struct{ io.Writer }{out}, &stderr
			must(t, cmd.Start())
			await(t, "process ID", func() bool {
				b, err := os.ReadFile(pidFile)
				return err == nil && bytes.HasSuffix(b, []byte("\n"))
			})
			pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, pidFile)))
			must(t, err)
			r := env.Adopt(t, env.Container{ID: h.id(tt.name), Runtime: "runsc", Root: h.path("runsc"), PID: pid, Log: log, Shared: h.path("volume")})
			h.goesOn(c.Log, r)
			tt.end(cmd.Process, r)
			_ = cmd.Wait() // the status tells
			if got := statusOf(cmd.ProcessState); got != tt.status {
				t.Errorf("status %d, want %d: %s", got, tt.status, stderr.String())
			}
			must(t, out.Close())
			if left := named(h.path("runsc"), h.id(tt.name), 2); len(left) > 0 || exists(t, filepath.Join(h.root, "containers", h.id(tt.name))) {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A terminal goes over the console socket.
func TestSandboxTerminal(t *testing.T) {
	h := sandboxHost(t)
	c := h.startSandbox("c", env.BundleOptions{Terminal: true})
	path := h.path("c.tar")
	h.ok("export", "--base", h.built.base, c.ID, path)
	h.restoreRefused("no", append(h.sandboxFlags(), path), 5, "--console-socket")
	socket, shown := terminal(t, h)
	args := append([]string{"--json", "restore", "--detach", "--id", h.id("r"), "--console-socket", socket}, h.sandboxFlags()...)
	said := decode[restored](h.ok(append(args, path)...))
	h.goesOn(c.Log, env.Adopt(t, env.Container{ID: said.ID, Runtime: "runsc", Root: h.path("runsc"), PID: said.PID, Log: shown, Shared: h.path("volume")}))
}
