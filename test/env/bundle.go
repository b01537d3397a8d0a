package env

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// BundleOptions says what is special about a container. The zero value is
// what `runc spec` makes, with the workload in it and a writable root.
type BundleOptions struct {
	Args            []string // nil: the workload with its defaults
	Env             []string // in addition to PATH
	Rootfs          string   // empty: "rootfs" in the bundle
	ReadOnly        bool     // the root file system
	Terminal        bool
	Mounts          []specs.Mount // in addition to the usual ones
	HostNetwork     bool          // no network namespace
	NetworkPath     string        // join this network namespace
	NoCgroupMount   bool
	CgroupNamespace bool
	CgroupsPath     string            // empty: the runtime's choice
	Edit            func(*specs.Spec) // the last word; may be nil
}

// Bundle makes the directory dir and its config.json, and returns dir.
func Bundle(tb testing.TB, dir string, opts BundleOptions) string {
	tb.Helper()
	content, err := json.MarshalIndent(Spec(opts), "", "\t")
	if err != nil {
		tb.Fatalf("encode runtime spec: %v", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatalf("make bundle: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), content, 0o644); err != nil {
		tb.Fatalf("write runtime spec: %v", err)
	}
	return dir
}

// Bind is a bind mount of source at destination.
func Bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)}
}

// Tmpfs is a tmpfs at destination.
func Tmpfs(destination string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=65536k"}}
}

// Spec is the runtime spec of a container.
func Spec(opts BundleOptions) *specs.Spec {
	args := opts.Args
	if len(args) == 0 {
		args = []string{"/bin/workload"}
	}
	root := opts.Rootfs
	if root == "" {
		root = "rootfs"
	}
	capabilities := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	spec := &specs.Spec{
		Version: "1.0.2", // runc 1.1 knows no later one
		Process: &specs.Process{
			Terminal: opts.Terminal,
			Args:     args,
			Env:      append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"}, opts.Env...),
			Cwd:      "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
			// No limits: a root without CAP_SYS_RESOURCE cannot set them again.
			Rlimits:         []specs.POSIXRlimit{},
			NoNewPrivileges: true,
		},
		Root:     &specs.Root{Path: root, Readonly: opts.ReadOnly},
		Hostname: "workload",
		Mounts:   append(usualMounts(!opts.NoCgroupMount), opts.Mounts...),
		Linux: &specs.Linux{
			CgroupsPath: opts.CgroupsPath,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if !opts.HostNetwork {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: opts.NetworkPath})
	}
	if opts.CgroupNamespace {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if opts.Edit != nil {
		opts.Edit(spec)
	}
	return spec
}

func usualMounts(cgroup bool) []specs.Mount {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	if cgroup {
		mounts = append(mounts, specs.Mount{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
		})
	}
	return mounts
}
