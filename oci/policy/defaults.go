package policy

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	capabilityPrefix = "CAP_"
	allCapabilities  = "ALL"
)

// capabilities are the names of all capabilities of Linux, without their prefix.
func capabilities() []string {
	return strings.Fields("AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE " +
		"DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN " +
		"NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT " +
		"SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM")
}

// defaultCapabilities are those that Docker and containerd give an unknown image; Podman gives
// eleven of them.
func defaultCapabilities() []string {
	return strings.Fields("AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID " +
		"SETPCAP SETUID SYS_CHROOT")
}

// guarded are the parts of /proc and /sys through which root in a container would change the host or
// read its memory. Every engine hides the ones and makes the others read-only.
func guarded() []string {
	return []string{
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
		"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware",
	}
}

// guardedType is the type of the file system that has a guarded path in it: without one mounted there is
// nothing to hide.
func guardedType(guarded string) string {
	if strings.HasPrefix(guarded, "/sys/") {
		return "sysfs"
	}
	return "proc"
}

// Guarded gives those parts of /proc and /sys that a spec hides or makes read-only and that must
// be so in the images too, since the mounts of a restored container are those of the images.
func Guarded(spec *specs.Spec) []string {
	if spec.Linux == nil {
		return nil
	}
	closed := slices.Concat(spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths)
	return slices.DeleteFunc(guarded(), func(p string) bool { return !slices.Contains(closed, p) })
}

// defaultMasked are the paths that Docker hides from a container.
func defaultMasked() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// defaultReadonly are the paths that Docker makes read-only.
func defaultReadonly() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// defaultDevice tells whether the runtimes let every container use a device: make any node, and
// use the harmless ones and pseudo terminals.
func defaultDevice(r specs.LinuxDeviceCgroup) bool {
	if r.Access == "m" && r.Type != "a" {
		return true
	}
	if r.Type != "c" || r.Major == nil {
		return false
	}
	type node struct{ major, minor int64 }
	n := node{*r.Major, wildcard}
	if r.Minor != nil {
		n.minor = *r.Minor
	}
	return n.major == 136 || slices.Contains([]node{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}}, n)
}

// wildcard is any number of a device.
const wildcard = -1

// kernelMount tells whether a container may mount a file system of this type by itself.
func kernelMount(fsType string) bool {
	return slices.Contains([]string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}, fsType)
}

// shareable are the namespaces that can be this host's by a grant. One that shares processes or
// mounts with the host is no container.
func shareable() []specs.LinuxNamespaceType {
	return []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
}

// ofPod tells of the namespaces that a container shares with its pod and can do without: what is in
// them comes with the images, or is the name of the host. Of a network namespace only its operator can
// make another one.
func ofPod(t specs.LinuxNamespaceType) bool {
	return t == specs.IPCNamespace || t == specs.UTSNamespace
}

// namespaced gives the namespace that a kernel parameter belongs to, empty if it is the whole
// host's.
func namespaced(sysctl string) specs.LinuxNamespaceType {
	name := strings.ReplaceAll(sysctl, "/", ".")
	switch {
	case strings.HasPrefix(name, "net."):
		return specs.NetworkNamespace
	case strings.HasPrefix(name, "fs.mqueue."), slices.Contains([]string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
	}, name):
		return specs.IPCNamespace
	case name == "kernel.domainname", name == "kernel.hostname":
		return specs.UTSNamespace
	}
	return ""
}

// unsafeAnnotations begin the names that runtimes and engines act on.
func unsafeAnnotations() []string {
	return []string{
		"org.systemd.property.", "org.criu.", "run.oci.", "module.wasm.", "cdi.k8s.io/", "bundle",
		"io.katacontainers.", "krun.", "com.github.containers.virtualization.", "dev.gvisor.",
	}
}
