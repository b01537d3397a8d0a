package criu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestExplain gives every row of the table lines as CRIU 4.2.1 writes them.
func TestExplain(t *testing.T) {
	lines := map[string][]string{
		"mptcp-socket":         {"(00.010614) Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket 5a1"},
		"tcp-established":      {"(00.010614) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option."},
		"network-not-ready":    {"(00.031007)      1: Error (criu/sk-inet.c:1085): inet: Can't connect inet socket back: Network is unreachable"},
		"address-in-use":       {"(00.031007)      1: Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 12): Address already in use"},
		"file-locks":           {"(00.021007) Error (criu/file-lock.c:110): Some file locks are hold by dumping tasks! You can try --file-locks to dump them."},
		"network-in-images":    {"(00.001234) Error (criu/config.c:1129): Conflicting flags: --join-ns and --empty-ns"},
		"nested-namespace":     {`(00.05) Error (criu/namespaces.c:460): Can't dump nested pid namespace for 4242`},
		"tcp-in-flight":        {`(00.05) Error (criu/sk-inet.c:185): In-flight connection (l) for 3a1f`, `(00.05) Error (criu/sk-inet.c:186): In-flight connections can be ignored with the "--skip-in-flight" option.`},
		"socket-type":          {`(00.05) Error (criu/sk-inet.c:123): inet: Unsupported proto 132 for socket 3a1f`},
		"session-outside":      {`(00.05) Error (criu/cr-dump.c:1528): A session leader of 4242(7) is outside of its pid namespace`},
		"device-mapping":       {`(00.05) Error (criu/proc_parse.c:663): Can't handle non-regular mapping on 4242's map 7f0000000000`},
		"uprobes":              {`(00.05) Error (criu/proc_parse.c:614): PID 4242 has uprobes vma. Consider using --allow-uprobes.`},
		"io-uring":             {"pie: 1: Error (criu/pie/parasite.c:588): send_fds failed (-22)", "(00.035559) Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket"},
		"open-files":           {"(00.166182) Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket"},
		"file-type":            {"(00.021007) Error (criu/files-ext.c:94): Can't dump file 5 of that type [20600] (chr dev/fuse)"},
		"unix-stream-external": {"(00.021007) Error (criu/sk-unix.c:881): unix: Can't dump half of stream unix connection. name: (null); peer name: /run/x"},
		"unix-external":        {"(00.021007) Error (criu/sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk option."},
		"unix-other-namespace": {"(00.021007) Error (criu/sk-unix.c:351): unix: Unix socket 12345 not found", "(00.021007) Error (criu/sk-unix.c:418): unix: Unix socket 12345 without peer 12346"},
		"unix-peer-missing":    {"(00.031007)      1: Error (criu/sk-unix.c:1406): unix: Can't connect 12345 socket: No such file or directory"},
		"inotify-overlay":      {"(00.021007) Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle"},
		"stdout-host-file":     {"(00.016012) Error (criu/files-reg.c:1790): Can't lookup mount=27 for fd=1 path=/var/log/x", "(00.016012) Error (criu/files-reg.c:1790): Can't lookup mount=1042 for fd=2 path=/dev/pts/0"},
		"host-file":            {"(00.016012) Error (criu/files-reg.c:1790): Can't lookup mount=27 for fd=9 path=/srv/x"},
		"shell-job":            {"(00.021007) Error (criu/tty.c:1830): tty: Found dangling tty with sid 10 pgid 12 (pts) on peer fd 0.", "(00.021007) Error (criu/pstree.c:304): The root process 42 is not a session leader. Consider using --shell-job option"},
		"ghost-limit":          {"(00.021007) Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/x of 2097152 size, increase limit"},
		"link-remap":           {"(00.021007) Error (criu/files-reg.c:1122): Can't create link remap for /tmp/x. Use link-remap option."},
		"mount-not-mapped":     {"(00.021007)      1: Error (criu/mount.c:3141): mnt: No mapping for 208:(null) mountpoint"},
		"nested-mount":         {"(00.021007) Error (criu/mount.c:753): mnt: 79:./sys/firmware doesn't have a proper root mount"},
		"mountpoint-missing":   {"(00.021007)      1: Error (criu/mount-v2.c:634): mnt-v2: Can't stat mountpoint /tmp/.criu.mntns.x/13/etc/hf: No such file or directory"},
		"file-size":            {"(00.021007)      1: Error (criu/files-reg.c:2175): File tmp/log has bad size 10 (expect 6)"},
		"file-mode":            {"(00.021007)      1: Error (criu/files-reg.c:2294): File bin/x has bad mode 0100644 (expect 0100755)"},
		"file-build-id":        {"(00.021007)      1: Error (criu/files-reg.c:2153): File bin/busybox has bad build-ID"},
		"file-missing":         {"(00.021007)      1: Error (criu/files-reg.c:2353): Can't open file vol/log on restore: No such file or directory", "(00.021007)      1: Error (criu/files-reg.c:2267): Can't open file vol/log: No such file or directory"},
		"cpu-features":         {"(00.012007) Error (criu/arch/x86/cpu.c:223): cpu: CPU instruction capabilities do not match run time", "(00.012007) Error (criu/arch/x86/cpu.c:274): cpu: CPU xsave size mismatch (832/2696)"},
		"pid-in-use":           {"(00.012007)      1: Error (criu/cr-restore.c:1237): Can't fork for 9: File exists"},
		"userns-permission":    {"(00.012007)      1: Error (criu/image.c:635): Unable to open tty-info.img: Permission denied"},
		"no-space":             {"(00.021007) Error (criu/image.c:845): Can't write img file: No space left on device"},
		"tcp-close":            {"(00.000007) Error (criu/image.c:94): Need to set the --tcp-close options."},
		"plugin-missing":       {"(00.000007) Error (criu/image.c:198): Missing required plugin: cuda_plugin"},
		"image-version":        {"(00.000007) Error (criu/image.c:89): Not supported images version 99", "(00.000007) Error (criu/image.c:563): Magic doesn't match for inventory.img"},
		"network-lock":         {"(00.021007) Error (criu/net.c:3436): net: Locking network failed: iptables-restore returned 1. This may be connected to disabled CONFIG_NETFILTER_XT_MARK kernel build config option."},
		"cgroup":               {"(00.021007) Error (criu/cgroup.c:1448): cg: write to cgroup.subtree_control: Device or resource busy", "(00.021007) Error (criu/cgroup.c:1187): cg: Can't move 1 into unified//h2-ig/cgroup.procs (-1/20): No such file or directory"},
		"ptrace":               {"(00.000007) Error (compel/src/lib/infect.c:262): Unseizable non-zombie 5 found, state t, err -1/1"},
		"freeze-timeout":       {"(00.000007) Error (criu/cr-dump.c:1655): Timeout reached. Try to interrupt: 0"},
		"seccomp":              {"(00.021007) Error (criu/seccomp.c:149): seccomp: Can't fetch filter on tid_real 12 i 0: Invalid argument"},
		"permission":           {"(00.000007) Error (compel/src/lib/infect.c:307): Unable to set PTRACE_O_TRACESYSGOOD for 5: Operation not permitted"},
		"mount-unsupported":    {"(00.021007) Error (criu/mount.c:724): mnt: FS mnt ./x dev 0x30 root / unsupported id 7"},
	}
	for _, row := range knownCauses {
		if len(lines[row.code]) == 0 {
			t.Errorf("%s: no line in this test", row.code)
		}
		if row.cause == "" || row.remedy == "" {
			t.Errorf("%s: without a cause or a remedy", row.code)
		}
	}
	for code, log := range lines {
		// The harmless errors that come before in every log, and the line that comes after.
		all := append([]string{
			`(00.000) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted`,
			`(00.000) Error (criu/tun.c:85): tun: Unable to create tun: Operation not permitted`,
			`Error: ipv4: Address already assigned.`,
			`Error: ipv6: address already assigned.`,
			`(00.001) Error (criu/cgroup.c:1998): cg: cgroupd: recv req error: No such file or directory`,
		}, log...)
		all = append(all, `(00.100) Error (criu/cr-dump.c:2128): Dumping FAILED.`)
		path := filepath.Join(t.TempDir(), "dump.log")
		must(t, os.WriteFile(path, []byte(strings.Join(all, "\n")), 0o600))
		e := newError("dump", path, errRefused)
		if e.Code != code {
			t.Errorf("%s: explained as %q (%q)", code, e.Code, e.Lines)
		}
		if len(e.Lines) != len(log) {
			t.Errorf("%s: lines %q, want those of the cause only", code, e.Lines)
		}
		if !strings.Contains(e.Error(), e.Cause) || !strings.Contains(e.Error(), e.Lines[0]) || !strings.Contains(e.Error(), path) {
			t.Errorf("%s: text %q lacks the cause, CRIU's line or the log", code, e)
		}
	}
}

// TestExplainUnderOtherNames knows a cause by the lines that CRIU's helpers log of it.
func TestExplainUnderOtherNames(t *testing.T) {
	for line, want := range map[string]string{
		"Error (criu/files-ext.c:94): Can't dump file 600 of that type [600] (anon anon_inode:[io_uring])": "io-uring",
		"Error (criu/sockets.c:767): BUG! Unknown socket collected (family 29)":                            "socket-type",
		"Error (criu/namespaces.c:739): Can't dump nested time namespace for 42":                           "nested-namespace",
		"Error (criu/sk-inet.c:123): inet: Unsupported proto 262 for socket 3a1f":                          "mptcp-socket",
		"Error (criu/sk-unix.c:494): unix: In-flight connection on listening socket 77":                    "",
	} {
		path := filepath.Join(t.TempDir(), "dump.log")
		must(t, os.WriteFile(path, []byte("(00.05) "+line+"\n"), 0o600))
		if e := newError("dump", path, nil); e.Code != want {
			t.Errorf("%q is explained as %q, want %q", line, e.Code, want)
		}
	}
}

func TestParseLog(t *testing.T) {
	var many strings.Builder
	for _, n := range "123456789" {
		many.WriteString("(00.1) pie: 12: Error (criu/x.c:1): failure " + string(n) + "\n")
	}
	many.WriteString("(00.2) Warn  (criu/x.c:1): a warning\n(00.3) nothing\n(00.4) Error (criu/x.c:1): " + strings.Repeat("x", 1000))
	show, all := parseLog(strings.NewReader(many.String()))
	if len(show) != maxErrorLines || !slices.Contains(show, "failure 1") || slices.Contains(show, "a warning") {
		t.Errorf("shown: %q", show)
	}
	if len(all) != 11 || len(all[10]) > maxLineBytes+3 {
		t.Errorf("%d lines in all, the last of %d bytes", len(all), len(all[len(all)-1]))
	}
}

// TestErrorOfContext checks that a stop of our own is not explained by what CRIU logged about it.
func TestErrorOfContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "restore.log")
	must(t, os.WriteFile(path, []byte("(00.1) Error (criu/x.c:1): Can't send: Operation not permitted\n"), 0o600))
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, errLogTooLarge} {
		e := newError("restore", path, err)
		if e.Code != "" || !errors.Is(e, err) || !strings.Contains(e.Error(), err.Error()) {
			t.Errorf("%v: got %+v", err, e)
		}
	}
}
