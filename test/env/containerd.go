package env

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// NewContainerd gives a containerd without containers and images.
func NewContainerd(tb testing.TB, mark string) *CRI {
	tb.Helper()
	program := RequireCRI(tb, "containerd")
	c := newCRI(tb, "containerd", mark)
	// It cannot be told to put the sockets of its shims elsewhere.
	tb.Cleanup(func() { _, _ = os.Remove("/run/containerd/s"), os.Remove("/run/containerd") })
	config := c.write(tb, "config.toml", fmt.Sprintf(`version = 3
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
`, c.path("root"), c.path("state"), c.path("temp"), c.socket(), c.path("ttrpc"), criPause, c.path("empty"), c.path("runc")))
	c.load = func(tb testing.TB, archive, name string) {
		tb.Helper()
		repository, _, _ := strings.Cut(name, ":")
		c.Ctr(tb, "images", "import", "--base-name", repository, archive)
	}
	c.serve(tb, program, "--config", config)
	return c
}

// Ctr runs containerd's client in the namespace of the CRI, and gives what it prints.
func (c *CRI) Ctr(tb testing.TB, args ...string) string {
	tb.Helper()
	return c.run(tb, RequireCRI(tb, "ctr"), append([]string{"--address", c.socket(), "--namespace", "k8s.io"}, args...)...)
}
