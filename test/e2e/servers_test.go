package e2e

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// install copies a program of the machine and its libraries into a root file system.
func install(t *testing.T, rootfs, program string) {
	t.Helper()
	path := env.Program(t, program)
	files := []string{path}
	for field := range strings.FieldsSeq(command(t, "ldd", path)) {
		if strings.HasPrefix(field, "/") {
			files = append(files, field)
		}
	}
	for _, f := range files {
		to := filepath.Join(rootfs, f)
		must(t, os.MkdirAll(filepath.Dir(to), 0o755))
		command(t, "cp", "--dereference", f, to)
	}
}

// within runs a program of the machine in the network of the container.
func (c *container) within(argv ...string) (string, error) {
	argv = append([]string{"nsenter", "--target", strconv.Itoa(c.pid), "--net"}, argv...)
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	return strings.TrimSpace(string(out)), err
}

// A server keeps what it knows in memory, and its sockets.
func TestServers(t *testing.T) {
	for name, tt := range map[string]struct {
		program string
		args    []string
		files   map[string]string
		ready   []string // succeeds when the server answers
		fill    []string // gives it something to know
		ask     []string // the answer is the same afterwards
	}{
		"redis": {
			program: "redis-server",
			args:    []string{"/usr/bin/redis-server", "--save", "", "--enable-debug-command", "yes", "--io-threads", "2", "--dir", "/tmp"},
			ready:   []string{"redis-cli", "-e", "ping"},
			fill:    []string{"redis-cli", "-e", "debug", "populate", "100000", "key", "64"},
			ask:     []string{"redis-cli", "-e", "debug", "digest"},
		},
		"node": {
			program: "node",
			args:    []string{"/usr/bin/node", "/server.js"},
			files: map[string]string{"server.js": `const known = new Map();
require("http").createServer((request, response) => {
	if (request.url === "/fill") {
		for (let i = 0; i < 100000; i++) known.set("key" + i, Math.random());
	}
	let sum = 0;
	for (const value of known.values()) sum += value;
	response.end(known.size + " " + sum + "\n");
}).listen(8080, "127.0.0.1");
setInterval(() => {}, 10);
`},
			ready: []string{"busybox", "wget", "-qO-", "http://127.0.0.1:8080/"},
			fill:  []string{"busybox", "wget", "-qO-", "http://127.0.0.1:8080/fill"},
			ask:   []string{"busybox", "wget", "-qO-", "http://127.0.0.1:8080/"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, tt.program, tt.ask[0], "nsenter", "ldd")
			base := h.copyBase(h.path("base"))
			install(t, base, tt.program)
			for file, content := range tt.files {
				writeFile(t, filepath.Join(base, file), content)
			}
			opts := env.BundleOptions{Args: tt.args, Rootfs: h.path("rootfs"), Env: []string{"HOME=/tmp", "OPENSSL_CONF=/dev/null"}}
			command(t, "cp", "-a", "--reflink=auto", base, opts.Rootfs)
			c := h.launch("c", opts)
			ask := func(c *container, argv []string) string {
				t.Helper()
				var said string
				await(t, name+" at "+strings.Join(argv, " "), func() bool {
					var err error
					said, err = c.within(argv...)
					return err == nil
				})
				return said
			}
			ask(c, tt.ready)
			ask(c, tt.fill)
			want := ask(c, tt.ask)
			if len(want) < 8 {
				t.Fatalf("it knows nothing: %q", want)
			}
			path := c.export("c.tar.zst", "--base", base)
			for _, engine := range bothEngines() {
				t.Run(engine, func(t *testing.T) {
					on := *h
					on.t = t
					r := on.restore(engine, path, "--engine", engine, "--base", base)
					if got := ask(r, tt.ask); got != want {
						t.Errorf("it says %q, it said %q", got, want)
					}
				})
			}
		})
	}
}

// echo serves a connection until its end.
func echo(conn net.Conn) {
	_, _ = io.Copy(conn, conn) // it ends with the container
	_ = conn.Close()
}

// The other end of a unix socket is a process of the host: a new connection takes its place.
func TestInheritedSocket(t *testing.T) {
	h := newHost(t)
	must(t, os.Mkdir(h.path("vol"), 0o755))
	listener, err := net.Listen("unix", h.path("vol/s"))
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(conn)
		}
	}()
	opts := env.BundleOptions{Args: []string{"/bin/talker", "/vol/s"}}
	c := h.start("c", with(opts, env.Bind(h.path("vol"), "/vol")))
	socket := ""
	for _, fd := range entries(t, "/proc/"+strconv.Itoa(c.pid)+"/fd") {
		target, err := os.Readlink("/proc/" + strconv.Itoa(c.pid) + "/fd/" + fd)
		if err == nil && strings.HasPrefix(target, "socket:[") {
			socket = target
		}
	}
	inode := strings.TrimSuffix(strings.TrimPrefix(socket, "socket:["), "]")
	path := c.export("c.tar", "--base", h.built.base, "--external", "unix["+inode+"]")
	for _, engine := range bothEngines() {
		t.Run(engine, func(t *testing.T) {
			on := *h
			on.t = t
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.path("vol/s"), Net: "unix"})
			must(t, err)
			file, err := conn.File()
			must(t, err)
			r := &container{t: t, h: &on, id: on.id(engine), log: on.path(engine + ".restored.log"), direct: engine == "direct"}
			t.Cleanup(r.remove)
			cmd := on.command("--json", "restore", "--detach", "--log", r.log, "--id", r.id, "--engine", engine, "--base", h.built.base,
				"--map-mount", "/vol="+h.path("vol"), "--inherit-fd", "fd[3]:"+socket, path)
			cmd.ExtraFiles = []*os.File{file}
			said := decode[restored](on.end(cmd, nil).want(0))
			must(t, file.Close())
			must(t, conn.Close())
			r.pid = said.PID
			r.goesOnFrom(c)
		})
	}
}

// A pair of virtual interfaces of the container's own namespace is made again, and put into a
// bridge; addresses and routes come back.
func TestVeth(t *testing.T) {
	h := newHost(t, "ip", "nsenter")
	c := h.start("c", shell(""))
	outer := "cko" + strconv.Itoa(os.Getpid()%10000)
	command(t, "ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(c.pid))
	command(t, "ip", "link", "set", outer, "up")
	for _, args := range [][]string{{"addr", "add", "10.97.3.2/24", "dev", "eth0"}, {"link", "set", "lo", "up"}, {"link", "set", "eth0", "up"}, {"route", "add", "default", "via", "10.97.3.1"}} {
		if said, err := c.within(append([]string{"ip"}, args...)...); err != nil {
			t.Fatalf("ip %v: %v %s", args, err, said)
		}
	}
	path := c.export("c.tar", "--external", "veth[eth0]", "--base", h.built.base)
	bridge := "ckb" + strconv.Itoa(os.Getpid()%10000)
	command(t, "ip", "link", "add", bridge, "type", "bridge")
	t.Cleanup(func() { command(t, "ip", "link", "delete", bridge) })
	command(t, "ip", "addr", "add", "10.97.3.1/24", "dev", bridge)
	command(t, "ip", "link", "set", bridge, "up")
	r := h.restore("r", path, "--engine", "direct", "--base", h.built.base, "--veth", "eth0="+outer+"@"+bridge)
	r.goesOnFrom(c)
	if said := command(t, "ip", "link", "show", outer); !strings.Contains(said, "master "+bridge) || !strings.Contains(said, "UP") {
		t.Errorf("the outer interface is %s", said)
	}
	if said, err := r.within("ip", "route"); err != nil || !strings.Contains(said, "default via 10.97.3.1") {
		t.Errorf("routes %q, %v", said, err)
	}
	await(t, "answer to a ping", func() bool {
		_, err := r.within("busybox", "ping", "-c", "1", "-W", "5", "10.97.3.1")
		return err == nil
	})
}

// A time namespace keeps its offsets: the clock of the container goes on.
func TestTimeNamespace(t *testing.T) {
	if env.InCgroups(t, env.CgroupV2) { // crun refuses a machine with both versions
		return
	}
	h := newHost(t, "crun")
	const offset = 1000000 // seconds
	opts := env.BundleOptions{Args: []string{"/bin/sh", "-c", "while true; do read up rest </proc/uptime; echo tick $((j+=1)); echo up ${up%.*}; sleep 0.02; done"}}
	opts.Edit = func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: offset}, "monotonic": {Secs: offset}}
	}
	bundle := env.Bundle(t, h.path("c"), opts)
	rootfs := h.copyBase(filepath.Join(bundle, "rootfs"))
	made := env.Run(t, "crun", h.path("crun"), h.id("c"), bundle)
	c := &container{t: t, h: h, id: made.ID, pid: made.PID, bundle: bundle, rootfs: rootfs, log: made.Log}
	c.awaitTicks(3)
	path := c.export("c.tar", "--runtime", "crun", "--runtime-root", h.path("crun"), "--base", h.built.base)
	// runc 1.1 knows no time namespaces.
	r := h.restore("r", path, "--engine", "direct", "--base", h.built.base)
	r.goesOnFrom(c)
	if got := r.namespace("time"); got == namespace(t, "/proc/self/ns/time") {
		t.Error("it is in the time namespace of the host")
	}
	text := readFile(t, r.log)
	at := strings.LastIndex(strings.TrimRight(text[:strings.LastIndex(text, "\n")], "\n"), "up ")
	up, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(text[at+3:], "\n", 2)[0]))
	must(t, err)
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	if ahead := int64(up) - now.Sec; ahead < offset-60 || ahead > offset+60 {
		t.Errorf("its clock is %d s ahead of the host's, want %d", ahead, offset)
	}
}
