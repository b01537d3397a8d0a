package criu

import "regexp"

// knownCause is a row of the table of known failures.
type knownCause struct {
	pattern *regexp.Regexp // matches a line of CRIU's log, without its prefix
	code    string         // stable
	cause   string
	remedy  string
	option  string // the option of a dump or restore that helps, if there is one
}

// knownCauses are tried in order, each on all lines: particular ones first, as
// one failure makes CRIU log several lines.
//
//nolint:gochecknoglobals // a constant table
var knownCauses = []knownCause{
	{
		regexp.MustCompile(`Unsupported proto 262`), "mptcp-socket",
		"a task has a Multipath TCP socket (the default of Go 1.24 and later), which CRIU cannot dump",
		"run the program with GODEBUG=multipathtcp=0 in its environment", "",
	},
	{
		regexp.MustCompile(`Connected TCP socket, consider using`), "tcp-established",
		"a task has an established TCP connection",
		"use the tcp-established option to keep connections, or the tcp-close option to restore them closed", "tcp-established",
	},
	{
		regexp.MustCompile(`Can't connect inet socket back|Network is unreachable`), "network-not-ready",
		"a TCP connection cannot be restored because its address is not there",
		"set up the network of the container before the restore, or use the tcp-close option", "tcp-close",
	},
	{
		regexp.MustCompile(`Conflicting flags: --join-ns and --empty-ns`), "network-in-images",
		"the runtime restores the network namespace of the images, or none where they hold none, and joins no other",
		"restore with the direct engine, which joins one, or leave the network namespace away", "",
	},
	{
		regexp.MustCompile(`Can't bind inet socket|Can't bind`), "address-in-use",
		"an address or port that the container listens on is not free here",
		"free the port, or restore in a network namespace of its own", "",
	},
	{
		regexp.MustCompile(`Some file locks are hold`), "file-locks",
		"a task holds file locks",
		"use the file-locks option", "file-locks",
	},
	{
		regexp.MustCompile(`io_uring|send_fds failed \(-22\)`), "io-uring",
		"a task uses io_uring, which CRIU cannot dump",
		"run the program without io_uring (UV_USE_IO_URING=0 for libuv and Node.js)", "",
	},
	{
		regexp.MustCompile(`Can't retrieve FDs from socket|Too many open files`), "open-files",
		"a task has more files open than CRIU may have",
		"raise the limit for open files, ulimit -n", "",
	},
	{
		regexp.MustCompile(`Can't dump half of stream unix connection|Can't dump name-less external socket`), "unix-stream-external",
		"a task is connected to a unix socket outside of the container",
		"use the external option with the name of the socket, or close the connection before the dump", "external",
	},
	{
		regexp.MustCompile(`External socket is used`), "unix-external",
		"a task uses a unix socket with an end outside of the container",
		"use the ext-unix-sk option", "ext-unix-sk",
	},
	{
		regexp.MustCompile(`Unix socket \d+ (?:not found|without peer)`), "unix-other-namespace",
		"a task is connected to a unix socket of another network namespace, which CRIU cannot dump",
		"log to a pipe instead of a socket (a journald socket is one)", "",
	},
	{
		regexp.MustCompile(`unix: Can't connect \S+ socket`), "unix-peer-missing",
		"the unix socket that a task was connected to is not here",
		"start the server that listens on it before the restore, at the same path", "",
	},
	{
		regexp.MustCompile(`fsnotify: .*Can't dump that handle|fsnotify: Can't find suitable path`), "inotify-overlay",
		"a task watches files with inotify on a file system without file handles (overlay)",
		"use the force-irmap option with the watched directories", "force-irmap",
	},
	{
		regexp.MustCompile(`Can't lookup mount=\d+ for fd=[012] `), "stdout-host-file",
		"a standard descriptor of the container is a file of the host",
		"let the container write to a pipe, or dump with the direct engine, which handles it", "engine",
	},
	{
		regexp.MustCompile(`Can't lookup mount=`), "host-file",
		"a task has a file open that lies outside of the container's mounts",
		"close it, or dump with the direct engine, which handles it", "engine",
	},
	{
		regexp.MustCompile(`Found dangling tty|is not a session leader`), "shell-job",
		"the container is attached to a terminal outside of it",
		"use the shell-job option, or start the container with a terminal of its own", "shell-job",
	},
	{
		regexp.MustCompile(`Can't dump ghost file .* increase limit`), "ghost-limit",
		"a task has a deleted file open that is larger than the limit for such files",
		"use the ghost-limit option with a larger size", "ghost-limit",
	},
	{
		regexp.MustCompile(`Can't create link remap for`), "link-remap",
		"a task has a deleted file open that has other names",
		"use the link-remap option", "link-remap",
	},
	{
		regexp.MustCompile(`No mapping for .* mountpoint`), "mount-not-mapped",
		"the images need a mount that was not given",
		"map every mount of the container that is listed as external", "map-mount",
	},
	{
		regexp.MustCompile(`doesn't have a proper root mount`), "nested-mount",
		"a mount in the container comes from the host and the spec does not tell",
		"dump with the direct engine, which finds such mounts, or name it as external", "engine",
	},
	{
		regexp.MustCompile(`Can't stat mountpoint|Can't mount at .*No such file`), "mountpoint-missing",
		"a mount point is missing in the root file system",
		"use the root file system that belongs to the checkpoint", "",
	},
	{
		regexp.MustCompile(`has bad size`), "file-size",
		"a file that a task has open is not of the size that it had",
		"restore with the root file system and volumes of the moment of the dump", "",
	},
	{
		regexp.MustCompile(`has bad mode`), "file-mode",
		"a file that a task has open does not have the mode that it had",
		"restore with the root file system and volumes of the moment of the dump, or use skip-file-rwx-check", "skip-file-rwx-check",
	},
	{
		regexp.MustCompile(`has bad build-ID`), "file-build-id",
		"a program or library is not the one that the container ran",
		"restore with the same image, of the same digest", "",
	},
	{
		regexp.MustCompile(`Can't open file .*No such file`), "file-missing",
		"a file that a task has open is missing",
		"restore with the same image, the root file system changes and all volumes", "",
	},
	{
		regexp.MustCompile(`cpu: (?:CPU |FPU feature|missing support|Image carries)`), "cpu-features",
		"this CPU lacks features of the one that the checkpoint was taken on",
		"restore on a host with at least the same CPU features; see the cpu option to accept the risk", "cpu",
	},
	{
		regexp.MustCompile(`Can't fork for \d+: File exists|Pid \d+ do not match expected`), "pid-in-use",
		"a PID of the container is in use in its PID namespace",
		"restore in a PID namespace of its own, or end the process that has the PID", "",
	},
	{
		regexp.MustCompile(`Unable to open \S+\.img: Permission denied`), "userns-permission",
		"the images are not readable for the root user of the container's user namespace",
		"put them below directories that this user may enter", "",
	},
	{
		regexp.MustCompile(`No space left on device|Disk quota exceeded`), "no-space",
		"there is no space left for the images",
		"free space or use another directory", "",
	},
	{
		regexp.MustCompile(`Need to set the --tcp-close`), "tcp-close",
		"the images are of a dump whose TCP connections were to be closed",
		"use the tcp-close option", "tcp-close",
	},
	{
		regexp.MustCompile(`Missing required plugin`), "plugin-missing",
		"the images need a plugin of CRIU, for a GPU for example",
		"install the plugin and what it needs", "",
	},
	{
		regexp.MustCompile(`Can't dump nested \S+ namespace`), "nested-namespace",
		"a task has a user, PID, IPC, UTS, cgroup or time namespace of its own, which CRIU cannot dump",
		"end the sandboxed process, or run the program without its own sandbox (as --no-sandbox)", "",
	},
	{
		regexp.MustCompile(`In-flight connections? (?:\(l\)|can be)`), "tcp-in-flight",
		"a listening socket has connections that were not accepted yet",
		"wait until they are accepted, or use the tcp-skip-in-flight option to drop them", "tcp-skip-in-flight",
	},
	{
		regexp.MustCompile(`Unsupported proto|Unknown socket collected`), "socket-type",
		"a task has a socket of a family or protocol that CRIU cannot dump",
		"close it before the dump", "",
	},
	{
		regexp.MustCompile(`is outside of its pid namespace`), "session-outside",
		"a task belongs to a session whose leader is outside of the container's PID namespace",
		"start the container detached or with a terminal of its own (setsid)", "",
	},
	{
		regexp.MustCompile(`non-regular mapping`), "device-mapping",
		"a task has a device mapped into its memory, which CRIU cannot dump",
		"end the use of the device before the dump", "",
	},
	{
		regexp.MustCompile(`has uprobes vma`), "uprobes",
		"a tracing tool has put uprobes into a task",
		"end the tracing, or put allow-uprobes into a configuration file of CRIU", "",
	},
	{
		regexp.MustCompile(`Can't dump file \d+ of that type`), "file-type",
		"a task has a file of a kind open that CRIU cannot dump",
		"close it before the dump", "",
	},
	{
		regexp.MustCompile(`Not supported images version|Too old image|[Mm]agic doesn't match`), "image-version",
		"the images are of a version that this CRIU does not know",
		"use a CRIU at least as new as that of the dump", "",
	},
	{
		regexp.MustCompile(`FS mnt .*unsupported`), "mount-unsupported",
		"the container has a mount that CRIU cannot dump",
		"unmount it, or bind-mount it from the host", "",
	},
	{
		regexp.MustCompile(`Locking network failed`), "network-lock",
		"the network of the container could not be locked",
		"install iptables or nftables, or choose another network lock", "network-lock",
	},
	{
		regexp.MustCompile(`cg: `), "cgroup",
		"the cgroups of the container could not be restored",
		"use the manage-cgroups-mode option with the value ignore", "manage-cgroups-mode",
	},
	{
		regexp.MustCompile(`Unseizable|SEIZE \d+:`), "ptrace",
		"a task cannot be stopped: it is being traced, or another dump is at work",
		"end the debugger or wait for the other dump", "",
	},
	{
		regexp.MustCompile(`Timeout reached|Unable to freeze`), "freeze-timeout",
		"the tasks did not stop in time: one may hang in the kernel",
		"try again later, or with a longer timeout", "timeout",
	},
	{
		regexp.MustCompile(`seccomp: `), "seccomp",
		"a seccomp filter of a task could not be handled",
		"use a kernel and a CRIU with support for dumping seccomp filters", "",
	},
	{
		regexp.MustCompile(`Operation not permitted|Permission denied|CAP_`), "permission",
		"CRIU lacks a permission",
		"run as root with all capabilities", "",
	},
}

// explain looks the lines of a log up in the table of known causes.
func explain(lines []string) (knownCause, bool) {
	for _, row := range knownCauses {
		for _, line := range lines {
			if row.pattern.MatchString(line) {
				return row, true
			}
		}
	}
	return knownCause{}, false
}
