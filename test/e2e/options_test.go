package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/test/env"
)

// What the dump was given is taken over and said, and can be refused.
func TestOptionsOfTheDump(t *testing.T) {
	h := newHost(t)
	c := h.start("c", env.BundleOptions{Args: []string{"/bin/locker"}})
	path := c.export("c.tar", "--file-locks", "--base", h.built.base)
	for _, engine := range bothEngines() {
		t.Run(engine, func(t *testing.T) {
			on := *h
			on.t = t
			flags := []string{"--engine", engine, "--base", h.built.base}
			dry := on.ok(append(append([]string{"restore", "--dry-run", "--id", on.id("dry")}, flags...), path)...)
			if !strings.Contains(dry.stdout, "--file-locks (as dumped)") {
				t.Errorf("--dry-run does not say that locks are kept: %s", dry)
			}
			on.restore(engine, path, flags...).goesOnFrom(c)
			// Without its lock it ends, at once or a moment later.
			log := on.path(engine + "-no.log")
			lost := &container{t: t, h: &on, id: on.id(engine + "-no"), log: log}
			t.Cleanup(lost.remove)
			on.run(append(append([]string{"restore", "--detach", "--id", lost.id, "--log", log}, flags...), "--no-file-locks", path)...)
			await(t, "loss of the lock", func() bool { return strings.Contains(readFile(t, log), "lost") })
		})
	}
}

// Each option has its effect on the restored container, with both engines where both have it.
func TestRestoreOptions(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar", "--base", h.built.base)
	config := h.path("criu.conf")
	writeFile(t, config, "# by the operator\nlog-pid\n")
	for _, engine := range bothEngines() {
		for name, tt := range map[string]struct {
			flags []string
			same  func(t *testing.T, r *container)
		}{
			"cgroup path": {[]string{"--cgroup-path", "/" + h.id("cg") + "/" + engine}, func(t *testing.T, r *container) {
				groups := readFile(t, fmt.Sprintf("/proc/%d/cgroup", r.pid))
				if !strings.Contains(groups, ":/"+h.id("cg")+"/"+engine+"\n") {
					t.Errorf("its cgroups are\n%s", groups)
				}
			}},
			"name": {[]string{"--name", h.id("name-" + engine)}, func(t *testing.T, r *container) {
				o := h.ok("export", "--dry-run", h.id("name-"+engine), h.path("x.tar"))
				if !strings.Contains(o.stdout, r.id) {
					t.Errorf("export finds by the name: %s", o)
				}
			}},
			"cgroup mode":        {[]string{"--manage-cgroups-mode", "soft"}, nil},
			"older mounts":       {[]string{"--mntns-compat-mode"}, nil},
			"weak sysctls":       {[]string{"--weak-sysctls"}, nil},
			"configuration file": {[]string{"--criu-config", config}, nil},
		} {
			t.Run(engine+" "+name, func(t *testing.T) {
				on := *h
				on.t = t
				r := on.restore(strings.ReplaceAll(name, " ", "-")+"-"+engine, path, append([]string{"--engine", engine, "--base", h.built.base}, tt.flags...)...)
				r.wellFrom(c)
				if tt.same != nil {
					tt.same(t, r)
				}
			})
		}
	}
	h.restore("runtime-only", path, "--base", h.built.base, "--no-pivot", "--no-subreaper").wellFrom(c)
	h.restoreRefused("direct-pivot", []string{"--engine", "direct", "--base", h.built.base, "--no-pivot", path}, 2, "--no-pivot", "runtime")
	h.restoreRefused("runtime-veth", []string{"--base", h.built.base, "--veth", "eth0=host0", path}, 2, "--veth", "--engine direct")
}

// A file whose mode has changed is found, unless nobody looks.
func TestSkipFileRWXCheck(t *testing.T) {
	h := newHost(t)
	opts := shell("exec 9</etc/hosts;")
	c := h.start("c", opts)
	path := c.export("c.tar", "--base", h.built.base)
	for _, engine := range bothEngines() {
		t.Run(engine, func(t *testing.T) {
			on := *h
			on.t = t
			base := on.copyBase(on.path("changed-" + engine))
			must(t, os.Chmod(filepath.Join(base, "etc/hosts"), 0o755))
			flags := []string{"--engine", engine, "--rootfs", base}
			on.restoreRefused("no-"+engine, append(flags, path), 8, "mode")
			on.restore(engine, path, append(flags, "--skip-file-rwx-check")...).goesOnFrom(c)
		})
	}
}

// netns makes a network namespace with a pair of interfaces: the inner one has the address
// 10.98.NUMBER.2 and the host's end .1.
func netns(t *testing.T, name string, number int) (path, inner string) {
	t.Helper()
	env.Program(t, "ip")
	command(t, "ip", "netns", "add", name)
	t.Cleanup(func() { command(t, "ip", "netns", "delete", name) })
	outer := fmt.Sprintf("cke%d", number)
	inner = fmt.Sprintf("10.98.%d.2", number)
	command(t, "ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
	command(t, "ip", "addr", "add", fmt.Sprintf("10.98.%d.1/24", number), "dev", outer)
	command(t, "ip", "link", "set", outer, "up")
	for _, args := range [][]string{{"addr", "add", inner + "/24", "dev", "eth0"}, {"link", "set", "eth0", "up"}, {"link", "set", "lo", "up"}} {
		command(t, append([]string{"ip", "-n", name}, args...)...)
	}
	return "/run/netns/" + name, inner
}

// echoes is a container with a server that gives back every line.
func echoes(prelude string) env.BundleOptions {
	return shell(prelude + "nc -l -p 7000 -e /bin/cat &")
}

// A connection with somebody outside goes on in the network namespace that it was in.
func TestExternalNetwork(t *testing.T) {
	for i, engine := range bothEngines() {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t, "ip", "iptables")
			path, address := netns(t, h.token, i)
			opts := echoes("")
			opts.NetworkPath = path
			c := h.start("c", opts)
			var conn net.Conn
			await(t, "server", func() bool {
				var err error
				conn, err = net.DialTimeout("tcp", address+":7000", time.Second)
				return err == nil
			})
			defer conn.Close()
			said := bufio.NewReader(conn)
			exchange := func(text string) {
				t.Helper()
				must(t, conn.SetDeadline(time.Now().Add(patience)))
				_, err := fmt.Fprintln(conn, text)
				must(t, err)
				got, err := said.ReadString('\n')
				must(t, err)
				if got != text+"\n" {
					t.Errorf("the server says %q, want %q", got, text)
				}
			}
			exchange("before")
			file := c.export("c.tar", "--tcp-established", "--base", h.built.base)
			h.restoreRefused("no", []string{"--engine", engine, "--base", h.built.base, file}, 5, "--namespace")
			r := h.restore("r", file, "--engine", engine, "--base", h.built.base, "--namespace", "net="+path)
			r.goesOnFrom(c)
			if got, want := r.namespace("net"), namespace(t, path); got != want {
				t.Errorf("network namespace %d, want %d", got, want)
			}
			exchange("after")
		})
	}
}

// A container with namespaces of its own is restored into others.
func TestJoinedNamespaces(t *testing.T) {
	h := newHost(t, "ip", "unshare")
	path, _ := netns(t, h.token, 7)
	c := h.start("c", counts())
	file := c.export("c.tar", "--base", h.built.base)
	// A process that holds an IPC and a UTS namespace.
	holder := exec.Command("unshare", "--ipc", "--uts", "sleep", "1000")
	must(t, holder.Start())
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	of := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", holder.Process.Pid, kind) }
	await(t, "new namespaces", func() bool { return namespace(t, of("uts")) != namespace(t, "/proc/self/ns/uts") })
	for _, engine := range bothEngines() {
		for kind, at := range map[string]string{"net": path, "ipc": of("ipc"), "uts": of("uts")} {
			t.Run(engine+" "+kind, func(t *testing.T) {
				on := *h
				on.t = t
				if kind == "net" && engine == "runtime" {
					on.restoreRefused("own-net", []string{"--base", h.built.base, "--namespace", kind + "=" + at, file}, 2, "--engine direct")
					return
				}
				r := on.restore(engine+kind, file, "--engine", engine, "--base", h.built.base, "--namespace", kind+"="+at)
				r.wellFrom(c)
				if got, want := r.namespace(kind), namespace(t, at); got != want {
					t.Errorf("%s namespace %d, want %d", kind, got, want)
				}
			})
		}
	}
}
