package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/test/env"
)

// TestLeavePaused ends with an archive and a container that stands still.
func TestLeavePaused(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar.zst", "--leave-paused", "--base", h.built.base)
	if got := c.state(); got != "paused" {
		t.Errorf("the exported container is %s, want paused", got)
	}
	h.restore("r", path, "--base", h.built.base).wellFrom(c)
	c.runc("resume", c.id)
	c.unharmed()
}

// TestImagesDirectory exports a directory of images, which runc restores by itself and ckarchive too.
func TestImagesDirectory(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--children", "1", "--tmpfs", "/dev/shm"))
	images := h.path("images")
	if got := h.ok("export", "--base", h.built.base, c.id, "dir:"+images).line(); got != images {
		t.Errorf("export prints %q, want %q", got, images)
	}
	for _, name := range []string{"inventory.img", "pages-1.img", "descriptors.json", "spec.dump", "rootfs-diff.tar", "dump.log"} {
		if !exists(t, filepath.Join(images, name)) {
			t.Errorf("there is no %s among the images", name)
		}
	}
	h.run("export", "--base", h.built.base, c.id, "dir:"+images).refused(5, "stopped")
	h.ok("verify", "dir:"+images)
	h.restore("r", "dir:"+images, "--base", h.built.base).wellFrom(c)

	work := h.path("work")
	must(t, os.Mkdir(work, 0o700))
	// By runc alone. The files of the root file system are those of the moment of the dump: it was the last.
	id := h.id("alone")
	output, err := os.Create(h.path("alone.log"))
	must(t, err)
	defer output.Close()
	cmd := exec.CommandContext(t.Context(), "runc", "--root", h.runtime, "restore", "--detach", "--image-path", images, "--work-path", work, "--bundle", c.bundle, id)
	cmd.Stdout, cmd.Stderr = output, output
	r := &container{t: t, h: h, id: id, log: output.Name(), bundle: c.bundle, rootfs: c.rootfs}
	t.Cleanup(r.remove)
	if err := cmd.Run(); err != nil {
		t.Fatalf("runc restore: %v\n%s\n%s", err, tail(output.Name()), tail(filepath.Join(work, "restore.log")))
	}
	r.wellFrom(c)
}

// TestOptionsSeen gives options whose effect can be seen from outside.
func TestOptionsSeen(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "4"))
	work := h.path("work")
	must(t, os.Mkdir(work, 0o700))
	config := h.path("criu.conf")
	writeFile(t, config, "log-file other.log\n")
	for name, tt := range map[string]struct{ flags, log string }{
		"work path":     {"", "dump.log"},
		"configuration": {"--criu-config " + config, "other.log"},
	} {
		path := h.path(strings.ReplaceAll(name, " ", "-") + ".tar")
		h.ok(append(append([]string{"export", "--leave-running", "--work-path", work, "--base", h.built.base}, strings.Fields(tt.flags)...), c.id, path)...)
		if !strings.Contains(readFile(t, filepath.Join(work, tt.log)), "Dumping finished successfully") {
			t.Errorf("%s: CRIU's log is not in the work path", name)
		}
		must(t, os.Remove(filepath.Join(work, tt.log)))
		// They are members of the archive as well.
		if said := h.inspect(path); said.Metadata.Stats == nil || said.Metadata.Stats.PagesWritten == 0 {
			t.Errorf("%s: the archive has no statistics: %+v", name, said.Metadata.Stats)
		}
	}
	c.unharmed()
}

// TestCgroupsIgnored wants no cgroups in a dump without them.
func TestCgroupsIgnored(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	size := func(name string, flags ...string) int64 {
		images := h.path(name)
		h.ok(append(append([]string{"export", "--leave-running", "--base", h.built.base}, flags...), c.id, "dir:"+images)...)
		info, err := os.Stat(filepath.Join(images, "cgroup.img"))
		if os.IsNotExist(err) {
			return 0
		}
		must(t, err)
		return info.Size()
	}
	with, without := size("with"), size("without", "--manage-cgroups-mode", "ignore")
	if with == 0 || without >= with {
		t.Errorf("cgroups take %d bytes, and %d where they are ignored", with, without)
	}
	c.unharmed()
}

// TestGhostLimit takes a large deleted file when it may.
func TestGhostLimit(t *testing.T) {
	h := newHost(t)
	opts := counts()
	opts.Args = []string{"/bin/sh", "-c", "dd if=/dev/zero of=/tmp/a bs=1M count=3 2>/dev/null; exec 9</tmp/a; rm /tmp/a; exec /bin/workload --tick 10ms"}
	c := h.start("c", opts)
	h.run("export", "--base", h.built.base, c.id, h.path("c.tar")).refused(5, "--ghost-limit")
	path := c.export("c.tar", "--ghost-limit", "4MiB", "--base", h.built.base)
	h.restore("r", path, "--base", h.built.base).wellFrom(c)
}

// TestRuntimeOptions hands a runtime what it has, and refuses the rest by name before anything is touched.
func TestRuntimeOptions(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	h.run("export", "--engine", "runtime", "--ghost-limit", "5MiB", "--mntns-compat-mode", "--file-locks", c.id, h.path("c.tar")).
		refused(2, "runc lacks --ghost-limit, --mntns-compat-mode", "--engine direct")
	c.unharmed()
	work := h.path("work")
	must(t, os.Mkdir(work, 0o700))
	config := h.path("criu.conf")
	writeFile(t, config, "skip-in-flight\n")
	path := c.export("c.tar.zst", "--engine", "runtime", "--work-path", work, "--criu-config", config, "--manage-cgroups-mode", "full", "--file-locks", "--base", h.built.base)
	if !strings.Contains(readFile(t, filepath.Join(work, "dump.log")), "Version:") {
		t.Error("the log is not in the work path")
	}
	if got := h.inspect(path).Metadata.Options; got["manage-cgroups-mode"] != "full" || got["file-locks"] != "true" || got["work-path"] != "" {
		t.Errorf("the archive says of options: %v", got)
	}
	h.restore("r", path, "--base", h.built.base).wellFrom(c)
}

// TestPreDump either writes memory early or says why not, before the container is touched.
func TestPreDump(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	first, second := "dir:"+h.path("first"), "dir:"+h.path("second")
	type row struct {
		Name string
		OK   bool
	}
	tracks := slices.Contains(decode[[]row](h.ok("--json", "check")), row{"soft-dirty", true})
	if !tracks {
		for _, engine := range []string{"direct", "runtime"} {
			h.run("export", "--engine", engine, "--pre-dump", c.id, first).refused(5, "does not track changes of memory", "--pre-dump")
			h.run("export", "--engine", engine, "--parent", h.dir, c.id, second).refused(5, "does not track changes of memory", "--parent")
		}
		if exists(t, h.path("first")) || exists(t, h.path("second")) {
			t.Error("a directory was left")
		}
		c.unharmed()
		return
	}
	h.ok("export", "--pre-dump", c.id, first)
	c.unharmed()
	h.ok("export", "--parent", h.path("first"), "--base", h.built.base, c.id, second)
	if got, err := os.Readlink(h.path("second", "parent")); err != nil || got != "../first" && got != "first" {
		t.Errorf("the link to the parent is %q, %v", got, err)
	}
}

// freePort is a port of 127.0.0.1 that nothing listens on. It is none of those that the kernel gives to whoever asks for any:
// one of the other tests that run at this time might get it before it is used.
func freePort(t *testing.T) string {
	t.Helper()
	var lowest int
	_, err := fmt.Sscan(readFile(t, "/proc/sys/net/ipv4/ip_local_port_range"), &lowest)
	must(t, err)
	const least = 1024
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", least+rand.IntN(max(lowest-least, 1))))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatalf("there is no free port below %d", lowest)
	return ""
}

// TestPageServer sends the memory elsewhere: both halves together are a whole checkpoint.
func TestPageServer(t *testing.T) {
	for _, engine := range []string{"direct", "runtime"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c-"+engine, counts("--children", "1"))
			address := freePort(t)
			host, port, _ := net.SplitHostPort(address)
			memory, images := h.path("memory-"+engine), h.path("images-"+engine)
			must(t, os.Mkdir(memory, 0o700))
			server := exec.CommandContext(t.Context(), env.Program(t, "criu"), "page-server", "--images-dir", memory, "--address", host, "--port", port, "-o", "server.log", "-v4")
			must(t, server.Start())
			await(t, "page server", func() bool { return listener(t, port) == host })
			h.ok("export", "--engine", engine, "--page-server", address, "--base", h.built.base, c.id, "dir:"+images)
			must(t, server.Wait())
			if exists(t, filepath.Join(images, "pages-1.img")) {
				t.Error("memory is in the directory of images")
			}
			h.run("restore", "--base", h.built.base, "--id", h.id("no-"+engine), "dir:"+images).refused(3, "pagemap")
			found, err := filepath.Glob(filepath.Join(memory, "page*.img"))
			must(t, err)
			for _, image := range found {
				must(t, os.Rename(image, filepath.Join(images, filepath.Base(image))))
			}
			// The proof of the directory covers what export wrote: the memory is taken on trust.
			must(t, os.Remove(filepath.Join(images, "ckarchive.json")))
			h.restore("r-"+engine, "dir:"+images, "--base", h.built.base).wellFrom(c)
		})
	}
}

// TestLazyPages moves a container whose memory follows it, page by page.
func TestLazyPages(t *testing.T) {
	h := newHost(t)
	largePipes(t)
	c := h.start("c", counts("--memory", "32"))
	images, address := h.path("images"), freePort(t)
	host, port, _ := net.SplitHostPort(address)
	ready, write, err := os.Pipe()
	must(t, err)
	cmd := h.command("export", "--lazy-pages", "--page-server", address, "--status-fd", "3", "--base", h.built.base, c.id, "dir:"+images)
	cmd.ExtraFiles = []*os.File{write}
	ended := make(chan outcome, 1)
	go func() { ended <- h.end(cmd, nil) }()
	must(t, ready.SetReadDeadline(time.Now().Add(patience)))
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		write.Close()
		t.Fatalf("nobody said that memory is served: %v: %s", err, <-ended)
	}
	write.Close()
	if got := listener(t, port); got != host {
		t.Errorf("the memory is served at %q, want %q alone", got, host)
	}
	info, err := os.Stat(filepath.Join(images, "pages-1.img"))
	if err == nil && info.Size() > 16<<20 {
		t.Errorf("%d bytes of memory are in the directory, want them to be served", info.Size())
	}
	work := h.path("work")
	must(t, os.Mkdir(work, 0o700))
	daemon := exec.CommandContext(t.Context(), env.Program(t, "criu"), "lazy-pages", "--images-dir", images, "--work-dir", work, "--page-server", "--address", host, "--port", port, "-o", "lazy.log", "-v4")
	must(t, daemon.Start())
	await(t, "socket of the lazy-pages daemon", func() bool { return exists(t, filepath.Join(work, "lazy-pages.socket")) })
	id := h.id("lazy")
	output, err := os.Create(h.path("lazy.log"))
	must(t, err)
	defer output.Close()
	restore := exec.CommandContext(t.Context(), "runc", "--root", h.runtime, "restore", "--detach", "--lazy-pages", "--image-path", images, "--work-path", work, "--bundle", c.bundle, id)
	restore.Stdout, restore.Stderr = output, output
	r := &container{t: t, h: h, id: id, log: output.Name(), bundle: c.bundle, rootfs: c.rootfs}
	t.Cleanup(r.remove)
	if err := restore.Run(); err != nil {
		t.Fatalf("runc restore --lazy-pages: %v\n%s\n%s", err, tail(output.Name()), tail(filepath.Join(work, "restore.log")))
	}
	(<-ended).want(0)
	must(t, daemon.Wait())
	c.wantState("stopped")
	r.wellFrom(c)
}

// listener gives the address at which a port is listened on, as hexadecimal digits of /proc/net/tcp say.
func listener(t *testing.T, port string) string {
	t.Helper()
	var number int
	_, err := fmt.Sscan(port, &number)
	must(t, err)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for line := range strings.Lines(readFile(t, table)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", number)) {
				continue
			}
			if strings.HasPrefix(f[1], "0100007F:") {
				return "127.0.0.1"
			}
			return f[1]
		}
	}
	return ""
}

// largePipes lets CRIU have the pipe that it needs, where root may not have it anyway.
func largePipes(t *testing.T) {
	t.Helper()
	const path, want = "/proc/sys/fs/pipe-max-size", 4 << 20
	before := readFile(t, path)
	var size int
	_, err := fmt.Sscan(before, &size)
	must(t, err)
	if size < want {
		must(t, os.WriteFile(path, fmt.Appendln(nil, want), 0))
		t.Cleanup(func() { must(t, os.WriteFile(path, []byte(before), 0)) })
	}
}

// TestLazyPagesInterrupted gives up while nobody has come for the memory: the container goes on.
func TestLazyPagesInterrupted(t *testing.T) {
	h := newHost(t)
	largePipes(t)
	c := h.start("c", counts())
	ready, write, err := os.Pipe()
	must(t, err)
	cmd := h.command("export", "--lazy-pages", "--page-server", freePort(t), "--status-fd", "3", "--base", h.built.base, c.id, "dir:"+h.path("images"))
	cmd.ExtraFiles = []*os.File{write}
	must(t, cmd.Start())
	write.Close()
	must(t, ready.SetReadDeadline(time.Now().Add(patience)))
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("nobody said that memory is served: %v", err)
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d, want that of an interrupt", got)
	}
	if exists(t, h.path("images")) {
		t.Error("images without their memory were left")
	}
	c.unharmed()
}

// external is what an archive says of an object outside of the container.
type external struct{ Kind, Key, Path string }

// TestExternalSocket keeps a connection to a server of the host out of the dump by the server's name.
func TestExternalSocket(t *testing.T) {
	h := newHost(t)
	dir, err := os.MkdirTemp(env.ShortTemp, "ckarchive") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			accepted <- conn
		}
		close(accepted)
	}()
	c := h.hazard("c", "unix", []string{"unix", "/sockets/s"}, env.Bind(dir, "/sockets"))
	conn := <-accepted
	t.Cleanup(func() { conn.Close() })
	h.run("export", "--leave-running", "--base", h.built.base, c.id, h.path("no.tar")).refused(5, "unix socket outside", "--external")
	h.run("export", "--leave-running", "--external", "/absent", "--external", socket, "--base", h.built.base, c.id, h.path("no.tar")).refused(6, "/absent")
	path := c.export("c.tar", "--leave-running", "--external", socket, "--base", h.built.base)
	meta := h.inspect(path).Metadata
	if !slices.ContainsFunc(meta.Externals, func(e external) bool { return e.Kind == "unix" && e.Path == socket }) {
		t.Errorf("the archive does not name the socket: %+v", meta.Externals)
	}
	if meta.Options["external"] != socket {
		t.Errorf("the archive says of options: %v", meta.Options)
	}
}

// hazard starts a container of criu/testdata/hazard, which does what CRIU dislikes.
func (h *host) hazard(name, mode string, args []string, mounts ...specs.Mount) *container {
	h.t.Helper()
	program := h.path("hazard")
	if !exists(h.t, program) {
		cmd := exec.CommandContext(h.t.Context(), "go", "build", "-o", program+"/hazard", "github.com/ckarchive/ckarchive/criu/testdata/hazard")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			h.t.Fatalf("build hazard: %v\n%s", err, said)
		}
	}
	opts := env.BundleOptions{Args: append([]string{"/hazard/hazard", mode}, args...)}
	opts.Mounts = append(mounts, env.Bind(program, "/hazard", "ro"))
	return h.start(name, opts)
}

// frozen watches whether a container is ever stopped: by its freezer, or by a tracer such as CRIU. A dump stops
// it for a quarter of a second at least, so that no look at it every millisecond misses one.
func (c *container) frozen(during func()) bool {
	c.t.Helper()
	done := make(chan struct{})
	seen := make(chan bool)
	go func() {
		stopped := false
		for {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
			state, _ := os.ReadFile("/sys/fs/cgroup/freezer/" + c.id + "/freezer.state")
			if tracer := field(string(b), "TracerPid:"); tracer != "0" && tracer != "" || strings.Contains(string(state), "FR") {
				stopped = true
			}
			select {
			case <-done:
				seen <- stopped
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	during()
	close(done)
	return <-seen
}

func field(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TestCheckVerdicts looks at ten containers, and touches none.
func TestCheckVerdicts(t *testing.T) {
	h := newHost(t)
	type finding struct{ Code, Severity, Option string }
	type verdict struct {
		Container           string
		Findings            []finding
		Memory, Files, Disk int64
		Freeze              int64
	}
	for _, tt := range []struct {
		name    string
		start   func(name string) *container
		status  int
		code    string
		remedy  string   // on standard error
		options []string // with which all is well
	}{
		{"plain", func(n string) *container { return h.start(n, counts("--memory", "16")) }, 0, "", "", nil},
		{"connection", func(n string) *container { return h.start(n, counts("--tcp")) }, 5, "tcp-established", "--tcp-established", []string{"--profile", "server"}},
		{"lock", func(n string) *container { return h.start(n, env.BundleOptions{Args: []string{"/bin/locker"}}) }, 5, "file-locks", "--file-locks", []string{"--file-locks"}},
		{"io_uring", func(n string) *container { return h.hazard(n, "io-uring", nil) }, 5, "io-uring", "without io_uring", nil},
		{"multipath", func(n string) *container { return h.hazard(n, "mptcp", nil) }, 5, "mptcp-socket", "multipathtcp=0", nil},
		{"not accepted", func(n string) *container { return h.hazard(n, "in-flight", nil) }, 5, "tcp-in-flight", "--tcp-skip-in-flight", []string{"--tcp-skip-in-flight"}},
		{"second name", func(n string) *container { return h.hazard(n, "link", nil) }, 5, "link-remap", "--link-remap", []string{"--link-remap"}},
		{"deleted", func(n string) *container { return h.hazard(n, "mapped", nil) }, 5, "ghost-limit", "--ghost-limit", []string{"--ghost-limit", "8MiB"}},
		{"user namespace", func(n string) *container { return h.hazard(n, "userns", nil) }, 5, "nested-namespace", "sandbox", nil},
		{"vsock", func(n string) *container { return h.hazard(n, "vsock", nil) }, 5, "socket-type", "close it", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.start(strings.ReplaceAll(tt.name, " ", "-"))
			c.t = t
			defer c.remove()
			check := func(args ...string) (o outcome) {
				if c.frozen(func() { o = h.run(append(append([]string{"--json", "check"}, args...), c.id)...) }) {
					t.Errorf("check has stopped the container")
				}
				return o
			}
			o := check().want(tt.status, tt.remedy)
			v := decode[verdict](o)
			if v.Container != c.id || v.Memory <= 0 || v.Files <= 0 || v.Disk < v.Memory+v.Files || v.Freeze < int64(100*time.Millisecond) {
				t.Errorf("check says %+v", v)
			}
			if blocked := slices.IndexFunc(v.Findings, func(f finding) bool { return f.Severity == "blocker" }); tt.code == "" && blocked >= 0 || tt.code != "" && (blocked < 0 || v.Findings[blocked].Code != tt.code) {
				t.Errorf("check finds %+v, want the blocker %q", v.Findings, tt.code)
			}
			if len(tt.options) > 0 {
				check(tt.options...).want(0)
			}
			if tt.code == "" {
				return
			}
			// export says the same, and does not touch it either.
			if c.frozen(func() { h.run("export", "--leave-running", c.id, h.path("no.tar")).refused(5, tt.remedy) }) {
				t.Error("export has stopped a container that it refuses")
			}
			c.awaitTicks(1)
		})
	}
	// The eye that saw no freeze sees one.
	c := h.start("seen", counts())
	seen := false
	for i := 0; i < 3 && !seen; i++ { // a busy machine may keep it shut for a while
		seen = c.frozen(func() { c.export(fmt.Sprintf("seen%d.tar", i), "--leave-running", "--base", h.built.base) })
	}
	if !seen {
		t.Error("three dumps went by unseen")
	}
}

// TestForceAgainstVerdict lets the dump fail by itself.
func TestForceAgainstVerdict(t *testing.T) {
	h := newHost(t)
	c := h.hazard("c", "userns", nil)
	h.run("export", "--force", "--base", h.built.base, c.id, h.path("c.tar")).refused(6, "going on all the same", "Can't dump nested user namespace", "keeps running")
	c.awaitTicks(1)
}

// TestProfile takes options from a built-in profile and from a file.
func TestProfile(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--tcp"))
	must(t, os.MkdirAll(h.path(".config/ckarchive/profiles"), 0o755))
	writeFile(t, h.path(".config/ckarchive/profiles/mine.toml"), "[options]\ntcp-established = true\nleave-running = true\n")
	path := h.path("c.tar")
	h.ok("export", "--profile", "mine", "--base", h.built.base, c.id, path)
	if got := h.inspect(path).Metadata.Options["tcp-established"]; got != "true" {
		t.Errorf("the archive says %q of tcp-established, want what the profile says", got)
	}
	c.unharmed()
	h.run("export", "--profile", "server", "--tcp-established=false", "--leave-running", c.id, h.path("no.tar")).refused(5, "--tcp-established")
	h.run("export", "--profile", "absent", c.id, h.path("no.tar")).refused(2, "absent", "jvm, postgres, server")
	c.unharmed()
}
