package env

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// NewContainerd gives a containerd without containers and images.
func NewContainerd(tb testing.TB, mark string) *CRI {
	tb.Helper()
	return newContainerd(tb, mark, RequireCRI(tb, "containerd"), RequireCRI(tb, "ctr"), containerdConfig)
}

// NewOldContainerd is [NewContainerd] with Debian 12's own, of version 1.6, which restores nothing through the CRI.
func NewOldContainerd(tb testing.TB, mark string) *CRI {
	tb.Helper()
	return newContainerd(tb, mark, Program(tb, "containerd"), Program(tb, "ctr"), oldContainerdConfig)
}

func newContainerd(tb testing.TB, mark, program, client, config string) *CRI {
	tb.Helper()
	c := newCRI(tb, "containerd", mark)
	c.client = client
	// It cannot be told to put the sockets of its shims elsewhere.
	tb.Cleanup(func() { _, _ = os.Remove("/run/containerd/s"), os.Remove("/run/containerd") })
	path := c.write(tb, "config.toml", fmt.Sprintf(config, c.path("root"), c.path("state"), c.path("temp"), c.socket(), c.path("ttrpc"), criPause, c.path("empty"), c.path("runc")))
	c.load = func(tb testing.TB, archive, name string) {
		tb.Helper()
		repository, _, _ := strings.Cut(name, ":")
		c.Ctr(tb, "images", "import", "--base-name", repository, archive)
	}
	c.serve(tb, program, "--config", path)
	return c
}

// The arguments of both are root, state and temporary directory, two sockets, the image of pods, an empty directory and runc's.
const (
	containerdConfig = `version = 3
root = %[1]q
state = %[2]q
temp = %[3]q
[grpc]
address = %[4]q
[ttrpc]
address = %[5]q
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = %[6]q
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE nothing is protected from the kernel's choice when memory is short.
restrict_oom_score_adj = true
disable_apparmor = true
enable_experimental_restore_via_create = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = %[7]q
bin_dirs = [%[7]q]
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
Root = %[8]q
[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "127.0.0.1"
[plugins."io.containerd.nri.v1.nri"]
disable = true
`
	oldContainerdConfig = `version = 2
root = %[1]q
state = %[2]q
temp = %[3]q
[grpc]
address = %[4]q
[ttrpc]
address = %[5]q
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %[6]q
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = %[7]q
bin_dir = %[7]q
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = %[8]q
`
)

// Ctr runs containerd's client in the namespace of the CRI, and gives what it prints.
func (c *CRI) Ctr(tb testing.TB, args ...string) string {
	tb.Helper()
	return c.run(tb, c.client, append([]string{"--address", c.socket(), "--namespace", "k8s.io"}, args...)...)
}

// CtrRun starts a container with containerd's client, which gives it a network of its own with lo alone unless flags say
// otherwise. It ends with the test.
func (c *CRI) CtrRun(tb testing.TB, id, image string, args []string, flags ...string) *Container {
	tb.Helper()
	log := c.path("logs", id+".log")
	run := append([]string{"run", "--detach", "--cgroup", "/" + c.cgroup() + "/" + id, "--runc-root", c.path("runc"), "--log-uri", "file://" + log}, flags...)
	run = append(append(run, image, id), args...)
	tb.Cleanup(func() { c.CtrRemove(tb, id) })
	c.Ctr(tb, run...)
	return c.ctrTask(tb, id, log)
}

// CtrRestore lets containerd's client make a container of a checkpoint in its store. It ends with the test.
func (c *CRI) CtrRestore(tb testing.TB, id, checkpoint string) *Container {
	tb.Helper()
	tb.Cleanup(func() { c.CtrRemove(tb, id) })
	c.Ctr(tb, "containers", "restore", "--rw", "--live", id, checkpoint)
	return c.ctrTask(tb, id, c.path("logs", id+".log"))
}

// ctrTask finds the first process of a container of containerd's client.
func (c *CRI) ctrTask(tb testing.TB, id, log string) *Container {
	tb.Helper()
	said, err := c.ctr(tb, "tasks", "list")
	if err != nil {
		tb.Fatalf("list containerd's tasks: %v: %s", err, said)
	}
	for line := range strings.Lines(said) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != id {
			continue
		}
		pid, err := strconv.Atoi(f[1])
		if err != nil {
			tb.Fatalf("the PID of %s: %v", id, err)
		}
		return Watch(tb, Container{ID: id, PID: pid, Log: log})
	}
	tb.Fatalf("containerd has no task %s: %s", id, said)
	return nil
}

// CtrRemove ends a container of containerd's client, if there is one, and removes it.
func (c *CRI) CtrRemove(tb testing.TB, id string) {
	tb.Helper()
	for _, remove := range [][]string{{"tasks", "delete", "--force", id}, {"containers", "delete", id}} {
		if said, err := c.ctr(tb, remove...); err != nil && !strings.Contains(said, "not found") {
			tb.Errorf("ctr %s: %v: %s", strings.Join(remove, " "), err, said)
		}
	}
}

// ctr runs containerd's client and gives all that it prints.
func (c *CRI) ctr(tb testing.TB, args ...string) (string, error) {
	tb.Helper()
	return c.command(tb, c.client, append([]string{"--address", c.socket(), "--namespace", "k8s.io"}, args...)...)
}
