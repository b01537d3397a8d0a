package env

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// NewCRIO gives a CRI-O without containers and images.
func NewCRIO(tb testing.TB, mark string) *CRI {
	tb.Helper()
	program := RequireCRI(tb, "crio")
	Require(tb, "conmon", "skopeo")
	c := newCRI(tb, "cri-o", mark)
	config := c.write(tb, "crio.conf", fmt.Sprintf(`[crio]
root = %[1]q
runroot = %[2]q
storage_driver = "overlay"
log_dir = %[3]q
version_file = %[4]q
version_file_persist = ""
clean_shutdown_file = %[5]q
internal_wipe = false
[crio.api]
listen = %[6]q
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
enable_criu_support = true
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = %[7]q
namespaces_dir = %[8]q
container_exits_dir = %[9]q
container_attach_socket_dir = %[10]q
hooks_dir = [%[11]q]
cdi_spec_dirs = [%[11]q]
irqbalance_config_file = ""
irqbalance_config_restore_file = "disable"
apparmor_profile = "unconfined"
default_runtime = "runc"
[crio.runtime.runtimes.runc]
runtime_path = %[12]q
runtime_root = %[13]q
monitor_path = %[14]q
monitor_cgroup = "pod"
[crio.image]
signature_policy_dir = %[11]q
pause_image = %[15]q
[crio.network]
network_dir = %[11]q
plugin_dirs = [%[11]q]
[crio.nri]
enable_nri = false
`, c.path("root"), c.path("run"), c.path("logs"), c.path("version"), c.path("clean"), c.socket(), RequireCRI(tb, "pinns"),
		c.path("ns"), c.path("exits"), c.path("attach"), c.path("empty"), Program(tb, "runc"), c.path("runc"), Program(tb, "conmon"), criPause))
	c.load = func(tb testing.TB, archive, name string) {
		tb.Helper()
		storage := fmt.Sprintf("containers-storage:[overlay@%s+%s]%s", c.path("root"), c.path("run"), name)
		c.run(tb, Program(tb, "skopeo"), "--insecure-policy", "copy", "--quiet", "oci-archive:"+archive+":"+tagOf(name), storage)
	}
	tb.Cleanup(func() {
		// It mounts the directory of its layers on itself.
		if err := unix.Unmount(c.path("root", "overlay"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			tb.Errorf("unmount CRI-O's layers: %v", err)
		}
	})
	c.serve(tb, program, "--config", config, "--config-dir", "")
	return c
}
