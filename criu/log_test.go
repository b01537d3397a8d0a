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

// TestExplain gives every row of the table a line of a log. Those in the
// documentation of the measured cases are quoted as CRIU wrote them.
func TestExplain(t *testing.T) {
	lines := map[string][]string{
		"mptcp-socket":         {`(00.01) Error (criu/sk-inet.c:131): inet: Unsupported proto 262 for socket 5`},
		"tcp-established":      {`(00.010614) Error (criu/sk-inet.c:188): inet: Connected TCP socket, consider using --tcp-established option.`},
		"network-not-ready":    {`(00.03)      1: Error (criu/sk-inet.c:1039): inet: Can't connect inet socket back: Network is unreachable`},
		"address-in-use":       {`(00.03)      1: Error (criu/sk-inet.c:998): inet: Can't bind inet socket (id 12): Address already in use`},
		"file-locks":           {`(00.02) Error (criu/file-lock.c:111): Some file locks are hold by dumping tasks! You can try --file-locks to dump them.`},
		"io-uring":             {`(00.02) Error (criu/files.c:540): Unknown shit 600 (anon_inode:[io_uring])`},
		"unix-stream-external": {`(00.02) Error (criu/sk-unix.c:884): unix: Can't dump half of stream unix connection.`},
		"unix-external":        {`(00.02) Error (criu/sk-unix.c:861): unix: External socket is used. Consider using --ext-unix-sk option.`},
		"unix-other-namespace": {`(00.02) Error (criu/sk-unix.c:465): unix: Unix socket 12345 not found`, `(00.02) Error (criu/sk-unix.c:700): sockets: DGRAM socket without peer`},
		"unix-peer-missing":    {`(00.03)      1: Error (criu/sk-unix.c:1378): sk unix: Can't connect 0xc socket: No such file or directory`},
		"inotify-overlay":      {`(00.02) Error (criu/fsnotify.c:284): fsnotify: Can't dump that handle`},
		"stdout-host-file":     {`(00.016) Error (criu/files-reg.c:1900): Can't lookup mount=27 for fd=1 path=/var/log/x`, `(00.016) Error (criu/files-reg.c:1900): Can't lookup mount=1042 for fd=2 path=/dev/pts/0`},
		"host-file":            {`(00.016) Error (criu/files-reg.c:1900): Can't lookup mount=27 for fd=9 path=/srv/x`},
		"shell-job":            {`(00.02) Error (criu/tty.c:2001): tty: Found dangling tty with sid 10 pgid 12 (pts) on peer fd 0. Task attached to shell terminal. Consider using --shell-job option. More details on http://criu.org/Simple_loop`},
		"ghost-limit":          {`(00.02) Error (criu/files-reg.c:945): Can't dump ghost file /tmp/x of 2097152 size, increase limit`},
		"link-remap":           {`(00.02) Error (criu/files-reg.c:1215): Can't create link remap for /tmp/x. Use link-remap option.`},
		"mount-not-mapped":     {`(00.02)      1: Error (criu/mount.c:3047): mnt: No mapping for 208:(null) mountpoint`},
		"nested-mount":         {`(00.02) Error (criu/mount.c:1089): mnt: 79:./sys/firmware doesn't have a proper root mount`},
		"mountpoint-missing":   {`(00.02)      1: Error (criu/mount-v2.c:330): mnt-v2: Can't stat mountpoint /tmp/.criu.mntns.x/13/etc/hf: No such file or directory`},
		"file-size":            {`(00.02)      1: Error (criu/files-reg.c:2120): File tmp/log has bad size 10 (expect 6)`},
		"file-mode":            {`(00.02)      1: Error (criu/files-reg.c:2131): File bin/x has bad mode 0100644 (expect 0100755)`},
		"file-build-id":        {`(00.02)      1: Error (criu/files-reg.c:2029): File bin/busybox has bad build-ID`},
		"file-missing":         {`(00.02)      1: Error (criu/files-reg.c:2183): Can't open file vol/log on restore: No such file or directory`},
		"cpu-features":         {`(00.01) Error (criu/cpu.c:456): cpu: CPU capabilities do not match run time`},
		"pid-in-use":           {`(00.01)      1: Error (criu/cr-restore.c:1174): Can't fork for 9: File exists`},
		"userns-permission":    {`(00.01)      1: Error (criu/image.c:553): Unable to open tty-info.img: Permission denied`},
		"no-space":             {`(00.02) Error (criu/bfd.c:320): bfd: Error writing data: No space left on device`},
		"image-version":        {`(00.00) Error (criu/image.c:119): Not supported images version 99`},
		"network-lock":         {`(00.02) Error (criu/util.c:641): exited, status=1`, `(00.02) Error (criu/net.c:3205): net: iptables-restore failed`},
		"cgroup":               {`(00.02) Error (criu/cgroup.c:1200): cg: Failed writing to cgroup.subtree_control: Device or resource busy`},
		"ptrace":               {`(00.00) Error (compel/src/lib/infect.c:358): Unable to connect a transport socket: x`, `(00.00) Error (criu/seize.c:300): seize: Can't seize task 5`},
		"freeze-timeout":       {`(00.00) Error (criu/cr-dump.c:1800): Timeout reached. Try to interrupt: 1`},
		"seccomp":              {`(00.00) Error (criu/seccomp.c:120): seccomp: Can't suspend filters`},
		"permission":           {`(00.00) Error (criu/crtools.c:200): CRIU needs to have the CAP_SYS_ADMIN or the CAP_CHECKPOINT_RESTORE capability`},
		"mount-unsupported":    {`(00.00) Error (criu/mount.c:800): mnt: FS mnt ./x dev 0x30 root / unsupported id 7`},
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

func TestExplainFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dump.log")
	must(t, os.WriteFile(path, []byte("(00.02) Error (criu/file-lock.c:111): Some file locks are hold by dumping tasks! You can try --file-locks to dump them.\n"), 0o600))
	c, lines, known := Explain(path)
	if !known || c.Code != "file-locks" || c.Option != "file-locks" || len(lines) != 1 {
		t.Errorf("got %+v, %q, %v", c, lines, known)
	}
	if _, _, known := Explain(path + "x"); known {
		t.Error("a missing log is explained")
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
