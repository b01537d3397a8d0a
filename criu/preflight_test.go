package criu

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	tests := map[string]struct {
		text         string
		comm         string
		session, tty int
		ok           bool
	}{
		"plain":       {text: "12 (sh) S 1 12 7 34816 12 4194304 1", comm: "sh", session: 7, tty: 34816, ok: true},
		"parentheses": {text: "12 (a) S (b) R 1 12 0 0 -1", comm: "a) S (b", ok: true},
		"short":       {text: "12 (sh) S 1"},
		"no name":     {text: "12 S 1 12 7 0"},
		"no number":   {text: "12 (sh) S 1 12 x 0 1"},
		"empty":       {},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			comm, session, tty, err := parseStat(tt.text)
			if (err == nil) != tt.ok || comm != tt.comm || session != tt.session || tty != tt.tty {
				t.Errorf("got %q %d %d %v, want %q %d %d, ok %v", comm, session, tty, err, tt.comm, tt.session, tt.tty, tt.ok)
			}
		})
	}
}

func TestParseStatus(t *testing.T) {
	text := "Name:\tsh\nState:\tD (disk sleep)\nTracerPid:\t99\nNSpid:\t412\t7\t1\nNSsid:\t0\t0\n"
	if got, want := parseInnerIDs(text), (innerIDs{pid: 1, session: 0}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := parseThread(text), (threadFacts{state: 'D', tracer: 99}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := parseInnerIDs("Name:\tsh\n"), (innerIDs{pid: -1, session: -1}); got != want {
		t.Errorf("without the lines: got %+v, want %+v", got, want)
	}
}

func TestParseRollup(t *testing.T) {
	text := "5577-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  9999 kB\nPss_Anon: 77 kB\nPss_Shmem:  8 kB\nAnonymous:   100 kB\nSwap: 4 kB\nSwapPss: 3 kB\n"
	if got, want := parseRollup(text), int64(112<<10); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

func TestParseMaps(t *testing.T) {
	text := strings.Join([]string{
		"00400000-00401000 r-xp 00000000 fe:00 123                                /bin/sh",
		"7f00-7f10 rw-s 00000000 fe:00 9                          /tmp/a b (deleted)",
		"7f10-7f20 rw-s 00001000 fe:00 9                          /tmp/a b (deleted)",
		"7f20-7f30 rw-s 00000000 00:0f 2122                       anon_inode:[io_uring]",
		"7f30-7f40 rw-p 00000000 00:00 0 ",
		"00400000-07f00000 r-xp 12345678 fe:00 12345678                           /prog (deleted)",
		"7f40-7f50 rw-s 00000000 00:06 5                          /dev/nvidia0",
		"7ffe-7fff --xp 00000000 00:00 0                          [uprobes]",
		"",
	}, "\n")
	want := []mapping{
		{span: "7f00-7f10", path: "/tmp/a b (deleted)"},
		{span: "7f20-7f30", path: "anon_inode:[io_uring]"},
		{span: "400000-7f00000", path: "/prog (deleted)"},
		{span: "7f40-7f50", path: "/dev/nvidia0"},
		{span: "7ffe-7fff", path: "[uprobes]"},
	}
	if got := parseMaps(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseFileNotes(t *testing.T) {
	text := "pos:\t0\nflags:\t02\nmnt_id:\t31\nino:\t5\n" +
		"lock:\t1: FLOCK  ADVISORY  WRITE 123 fe:00:456 0 EOF\nlock:\t2: POSIX  ADVISORY  READ 123 fe:00:456 0 10\nlock:\t\n" +
		"inotify wd:2 ino:990e3a sdev:fe00003 mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:3a0e990061e2b51c\n" +
		"fanotify flags:0 event-flags:0\nfanotify mnt_id:12 mflags:0 mask:38 ignored_mask:0\n" +
		"fanotify ino:4 sdev:13 mflags:0 mask:3b ignored_mask:0 fhandle-bytes:2 fhandle-type:f8 f_handle:00ff\n"
	want := fileNotes{
		locks: []string{"FLOCK ADVISORY WRITE", "POSIX ADVISORY READ"},
		watches: []watch{
			{inode: 0x990e3a, dev: unix.Mkdev(254, 3), handleType: 1, handle: []byte{0x3a, 0x0e, 0x99, 0, 0x61, 0xe2, 0xb5, 0x1c}},
			{inode: 4, dev: unix.Mkdev(0, 0x13), handleType: 0xf8, handle: []byte{0, 0xff}},
		},
	}
	if got := parseFileNotes(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestTaskOfCannedProc reads a process from a directory like /proc.
func TestTaskOfCannedProc(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"7/stat":           "7 (sh) S 1 7 7 0 -1",
		"7/status":         "State:\tS (sleeping)\nTracerPid:\t0\nNSpid:\t7\t1\nNSsid:\t7\t1\n",
		"7/smaps_rollup":   "Anonymous: 4 kB\n",
		"7/maps":           "7f-80 rw-p 00000000 fe:00 9 /tmp/x (deleted)\n",
		"7/task/7/status":  "State:\tS (sleeping)\nTracerPid:\t0\n",
		"7/task/9/status":  "State:\tD (disk sleep)\nTracerPid:\t3\n",
		"7/task/9/wchan":   "folio_wait_bit_common",
		"7/task/10/status": "State:\tR (running)\nTracerPid:\t0\n",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(dir, "7/ns"), 0o755))
	must(t, os.Symlink("user:[1]", filepath.Join(dir, "7/ns/user")))
	got, err := procDir(dir).task(7)
	must(t, err)
	slices.SortFunc(got.threads, func(a, b threadFacts) int { return int(a.state) - int(b.state) })
	want := taskFacts{
		pid: 7, comm: "sh", session: 7, inner: innerIDs{pid: 1, session: 1}, memory: 4096,
		threads: []threadFacts{{state: 'D', tracer: 3, waits: "folio_wait_bit_common"}, {state: 'R'}, {state: 'S'}},
		links:   map[string]string{"user": "user:[1]", "pid": "", "ipc": "", "uts": "", "cgroup": "", "time": "", "time_for_children": ""},
		mapped:  []mapping{{span: "7f-80", path: "/tmp/x (deleted)"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := procDir(dir).task(8); !gone(err) {
		t.Errorf("error %v for a process that is not there", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "7/stat"), []byte("nonsense"), 0o600))
	if _, err := procDir(dir).task(7); err == nil || gone(err) {
		t.Errorf("error %v for a malformed stat", err)
	}
}

// codesOf gives what was found as "severity code".
func codesOf(r Report) []string {
	codes := []string{}
	for _, f := range r.Findings {
		codes = append(codes, string(f.Severity)+" "+f.Code)
	}
	return codes
}

// charDevice is an open character device.
func charDevice(link string, major, minor uint32, mount int) openFile {
	return openFile{fd: 5, link: link, mountID: mount, stat: unix.Stat_t{Mode: unix.S_IFCHR, Rdev: unix.Mkdev(major, minor), Ino: uint64(minor)}}
}

func plain(fd int, link string, mode uint32, mount int) openFile {
	return openFile{fd: fd, link: link, mountID: mount, stat: unix.Stat_t{Mode: mode, Nlink: 1, Ino: 77}}
}

func TestJudgeFiles(t *testing.T) {
	tests := map[string]struct {
		file  openFile
		notes fileNotes
		opts  PreflightOptions
		want  []string
	}{
		"null":             {file: charDevice("/dev/null", 1, 3, 1), want: []string{}},
		"null of the host": {file: charDevice("/dev/null", 1, 3, 2), want: []string{"info host-file"}},
		"tun":              {file: charDevice("/dev/net/tun", 10, 200, 1), want: []string{}},
		"fuse":             {file: charDevice("/dev/fuse", 10, 229, 1), want: []string{"blocker file-type"}},
		"fuse of the host": {file: charDevice("/dev/fuse", 10, 229, 2), want: []string{"blocker file-type"}},
		"vfio":             {file: charDevice("/dev/vfio/1", 240, 0, 1), want: []string{"blocker file-type"}},
		"pty":              {file: charDevice("/dev/pts/0", 136, 0, 1), want: []string{}},
		"pty of the host":  {file: charDevice("/dev/pts/0", 136, 0, 2), want: []string{"info host-file"}},
		"block device":     {file: plain(5, "/dev/vda", unix.S_IFBLK, 1), want: []string{"blocker file-type"}},
		"perf":             {file: plain(5, "anon_inode:[perf_event]", 0o600, 3), want: []string{"blocker file-type"}},
		"bpf program":      {file: plain(5, "anon_inode:bpf-prog", 0o600, 3), want: []string{"blocker file-type"}},
		"bpf map":          {file: plain(5, "anon_inode:bpf-map", 0o600, 3), want: []string{"warning file-type"}},
		"epoll":            {file: plain(5, "anon_inode:[eventpoll]", 0o600, 3), want: []string{}},
		"io_uring":         {file: plain(5, "anon_inode:[io_uring]", 0o600, 3), want: []string{"blocker io-uring"}},
		"pipe":             {file: plain(1, "pipe:[12]", unix.S_IFIFO, 3), want: []string{}},
		"memfd":            {file: plain(5, "/memfd:x (deleted)", unix.S_IFREG, 3), want: []string{}},
		"namespace":        {file: plain(5, "net:[12]", unix.S_IFREG, 3), want: []string{}},
		"file":             {file: plain(5, "/x", unix.S_IFREG, 1), want: []string{}},
		"host file":        {file: plain(5, "/x", unix.S_IFREG, 2), want: []string{"info host-file"}},
		"stdout":           {file: plain(1, "/x", unix.S_IFREG, 2), want: []string{"info stdout-host-file"}},
		"host directory":   {file: plain(5, "/x", unix.S_IFDIR, 2), want: []string{"blocker host-file"}},
		"stdout deleted":   {file: plain(1, "/x (deleted)", unix.S_IFREG, 2), want: []string{"blocker stdout-host-file"}},
		"lock":             {file: plain(5, "/x", unix.S_IFREG, 1), notes: fileNotes{locks: []string{"POSIX ADVISORY READ"}}, want: []string{"blocker file-locks"}},
		"lock allowed": {
			file: plain(5, "/x", unix.S_IFREG, 1), notes: fileNotes{locks: []string{"POSIX ADVISORY READ"}},
			opts: PreflightOptions{Flags: Flags{FileLocks: true}}, want: []string{"info file-locks"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &preflight{opts: tt.opts, survey: survey{tasks: []taskFacts{{
				pid: 7, files: []openFile{tt.file}, notes: []fileNotes{tt.notes}, mounts: []*mountinfo.Info{{ID: 1, Mountpoint: "/"}},
			}}}}
			p.files()
			if got := codesOf(p.finish()); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestJudgeDeletedFile(t *testing.T) {
	const mib = 1 << 20
	tests := map[string]struct {
		size  int64
		limit uint32
		want  []string
	}{
		"at the limit":         {size: mib, want: []string{}},
		"over the limit":       {size: mib + statBlock, want: []string{"blocker ghost-limit"}},
		"at a larger limit":    {size: 2 * mib, limit: 2 * mib, want: []string{"info ghost-limit"}},
		"over a larger limit":  {size: 2*mib + statBlock, limit: 2 * mib, want: []string{"blocker ghost-limit"}},
		"over a smaller limit": {size: mib, limit: mib / 2, want: []string{"blocker ghost-limit"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &preflight{opts: PreflightOptions{GhostLimit: tt.limit}}
			p.deletedFile(taskFacts{}, "/x (deleted)", unix.Stat_t{Blocks: tt.size / statBlock}, "x", "x")
			if got := codesOf(p.finish()); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestJudgeTasks(t *testing.T) {
	init := taskFacts{pid: 7, session: 7, inner: innerIDs{pid: 1, session: 1}, links: map[string]string{"user": "user:[1]", "time": "time:[2]", "time_for_children": "time:[2]"}}
	change := func(f func(*taskFacts)) taskFacts {
		task := init
		task.links = maps.Clone(init.links)
		f(&task)
		return task
	}
	terminal := []openFile{charDevice("/dev/pts/0", 136, 0, 1)}
	tests := map[string]struct {
		tasks []taskFacts
		opts  PreflightOptions
		pause bool
		want  []string
	}{
		"nothing": {tasks: []taskFacts{init}, want: []string{}},
		"traced":  {tasks: []taskFacts{change(func(t *taskFacts) { t.threads = []threadFacts{{state: 't', tracer: 9}} })}, want: []string{"blocker ptrace"}},
		"hanging": {
			tasks: []taskFacts{change(func(t *taskFacts) { t.threads = []threadFacts{{state: 'D', waits: "nfs_wait"}} })},
			want:  []string{"warning freeze-timeout"},
		},
		"paused": {
			tasks: []taskFacts{change(func(t *taskFacts) { t.threads = []threadFacts{{state: 'D', waits: "futex_do_wait"}} })},
			pause: true, want: []string{},
		},
		"of another session": {
			tasks: []taskFacts{change(func(t *taskFacts) { t.session, t.inner = 3, innerIDs{pid: 7, session: 3} })},
			want:  []string{"blocker shell-job"},
		},
		"of another session, allowed": {
			tasks: []taskFacts{change(func(t *taskFacts) { t.session, t.inner = 3, innerIDs{pid: 7, session: 3} })},
			opts:  PreflightOptions{Flags: Flags{ShellJob: true}}, want: []string{"info shell-job"},
		},
		"of a session out of sight": {
			tasks: []taskFacts{change(func(t *taskFacts) { t.session, t.inner = 0, innerIDs{pid: 1} })},
			opts:  PreflightOptions{Flags: Flags{ShellJob: true}}, want: []string{"blocker session-outside"},
		},
		"on an outer terminal": {
			tasks: []taskFacts{init, change(func(t *taskFacts) { t.pid, t.session, t.tty, t.files = 8, 3, 34816, terminal })},
			want:  []string{"blocker shell-job"},
		},
		"on an inner terminal": {
			tasks: []taskFacts{init, change(func(t *taskFacts) { t.pid, t.tty, t.files = 8, 34816, terminal })},
			want:  []string{},
		},
		"user namespace": {
			tasks: []taskFacts{init, change(func(t *taskFacts) { t.links["user"] = "user:[9]" })},
			want:  []string{"blocker nested-namespace"},
		},
		"time namespace": {
			tasks: []taskFacts{init, change(func(t *taskFacts) { t.links["time_for_children"] = "time:[9]" })},
			want:  []string{"blocker nested-namespace"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &preflight{opts: tt.opts, survey: survey{tasks: tt.tasks, paused: tt.pause}}
			p.tasks()
			p.sessions()
			p.namespaces()
			if got := codesOf(p.finish()); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestJudgeSockets(t *testing.T) {
	tests := map[string]struct {
		socket openSocket
		want   []string
	}{
		"netlink":     {openSocket{domain: unix.AF_NETLINK, typ: unix.SOCK_RAW}, []string{}},
		"vsock":       {openSocket{domain: unix.AF_VSOCK, typ: unix.SOCK_STREAM}, []string{"blocker socket-type"}},
		"udp":         {openSocket{domain: unix.AF_INET, typ: unix.SOCK_DGRAM, proto: unix.IPPROTO_UDP}, []string{}},
		"sctp":        {openSocket{domain: unix.AF_INET, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_SCTP}, []string{"blocker socket-type"}},
		"raw":         {openSocket{domain: unix.AF_INET, typ: unix.SOCK_RAW, proto: unix.IPPROTO_SCTP}, []string{}},
		"multipath":   {openSocket{domain: unix.AF_INET6, typ: unix.SOCK_STREAM, proto: protocolMPTCP}, []string{"blocker mptcp-socket"}},
		"listening":   {openSocket{domain: unix.AF_INET, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_TCP, tcp: tcpListen}, []string{}},
		"unconnected": {openSocket{domain: unix.AF_INET, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_TCP, tcp: tcpClose}, []string{}},
		"half closed": {openSocket{domain: unix.AF_INET, typ: unix.SOCK_STREAM, proto: unix.IPPROTO_TCP, tcp: 8}, []string{"blocker tcp-established"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &preflight{}
			p.socket(tt.socket)
			if got := codesOf(p.finish()); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// diagMessage makes a message of the kernel about a unix socket.
func diagMessage(typ uint16, inode, peer uint32, name string) []byte {
	ne := binary.NativeEndian
	attr := func(kind uint16, value []byte) []byte {
		b := ne.AppendUint16(ne.AppendUint16(nil, uint16(4+len(value))), kind)
		b = append(b, value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	body := make([]byte, unixDiagMessage)
	body[0], body[1] = unix.AF_UNIX, unix.SOCK_DGRAM
	ne.PutUint32(body[4:], inode)
	body = append(body, attr(unixDiagName, []byte(name))...)
	body = append(body, attr(unixDiagPeer, ne.AppendUint32(nil, peer))...)
	msg := make([]byte, unix.NLMSG_HDRLEN)
	ne.PutUint32(msg, uint32(unix.NLMSG_HDRLEN+len(body)))
	ne.PutUint16(msg[4:], typ)
	return append(msg, body...)
}

func TestParseUnixSockets(t *testing.T) {
	answer := slices.Concat(
		diagMessage(unix.SOCK_DIAG_BY_FAMILY, 11, 12, "/run/x\x00"),
		diagMessage(unix.SOCK_DIAG_BY_FAMILY, 12, 11, "\x00abstract"),
	)
	found := map[uint32]unixSocket{}
	done, err := parseUnixSockets(answer, found)
	want := map[uint32]unixSocket{
		11: {typ: unix.SOCK_DGRAM, name: "/run/x\x00", peer: 12},
		12: {typ: unix.SOCK_DGRAM, name: "\x00abstract", peer: 11},
	}
	if done || err != nil || !reflect.DeepEqual(found, want) {
		t.Errorf("got %v %v %+v, want %+v", done, err, found, want)
	}
	if done, err := parseUnixSockets(diagMessage(unix.NLMSG_DONE, 0, 0, ""), found); !done || err != nil {
		t.Errorf("the last message: got %v %v", done, err)
	}
	refused := diagMessage(unix.NLMSG_ERROR, 0, 0, "")
	binary.NativeEndian.PutUint32(refused[unix.NLMSG_HDRLEN:], uint32(0xffffffff)) // -1
	if _, err := parseUnixSockets(refused, found); !errors.Is(err, unix.EPERM) {
		t.Errorf("an error: got %v, want %v", err, unix.EPERM)
	}
	broken := diagMessage(unix.SOCK_DIAG_BY_FAMILY, 11, 12, "/run/x")
	binary.NativeEndian.PutUint16(broken[unix.NLMSG_HDRLEN+unixDiagMessage:], 2)
	if _, err := parseUnixSockets(broken, found); err == nil {
		t.Error("an attribute shorter than its head was taken")
	}
	if got, want := socketName("\x00abstract"), `"@abstract"`; got != want {
		t.Errorf("name %s, want %s", got, want)
	}
	if got, want := socketName("/run/x\x00"), `"/run/x"`; got != want {
		t.Errorf("name %s, want %s", got, want)
	}
}

func TestReport(t *testing.T) {
	p := &preflight{report: Report{Memory: 100 << 20, Tmpfs: 10 << 20, Tasks: 1}}
	p.add("nested-tmpfs", "/a", "/a")
	p.add("stdout-host-file", "1", "fd 1")
	for _, key := range []string{"1", "2", "3", "4", "5", "6", "7", "1"} {
		p.add("tcp-established", key, "fd "+key)
	}
	r := p.finish()
	if got, want := codesOf(r), []string{"blocker tcp-established", "warning nested-tmpfs", "info stdout-host-file"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	first := r.Findings[0]
	if got, want := first.Subject, "fd 1; fd 2; fd 3; fd 4; fd 5; and 2 more"; got != want || first.Count != 7 {
		t.Errorf("subject %q of %d, want %q of 7", got, first.Count, want)
	}
	row, _ := explain([]string{"Connected TCP socket, consider using --tcp-established option."})
	if first.Code != row.code || first.Text != row.cause || first.Remedy != row.remedy || first.Option != row.option {
		t.Errorf("finding %+v, want the words of the failure %+v", first, row)
	}
	if got, want := len(r.Blockers()), 1; got != want || len(r.Findings) != 3 {
		t.Errorf("%d blockers of %d findings, want %d of 3", got, len(r.Findings), want)
	}
	if got, want := r.Freeze, 245*time.Millisecond+5*time.Millisecond+37*time.Millisecond+190*time.Millisecond; got != want {
		t.Errorf("freeze %v, want %v", got, want)
	}
	b, err := json.Marshal(r)
	must(t, err)
	var back Report
	must(t, json.Unmarshal(b, &back))
	if !reflect.DeepEqual(back, r) {
		t.Errorf("after JSON %+v, want %+v", back, r)
	}
	if b, err := json.Marshal((&preflight{}).finish()); err != nil || !strings.Contains(string(b), `"findings":[]`) {
		t.Errorf("empty report %s %v, want an empty list", b, err)
	}
}

// TestCodesHaveWords checks that every code that is used is in one of the tables.
func TestCodesHaveWords(t *testing.T) {
	for _, code := range []string{
		"stray-process", "rootfs-mismatch", "ptrace", "freeze-timeout", "session-outside", "shell-job", "nested-namespace",
		"nested-mount", "nested-tmpfs", "mount-unsupported", "mount-newline", "mount-name", "tmpfs-size", "file-locks", "file-type", "io-uring",
		"host-file", "stdout-host-file", "link-remap", "ghost-limit", "uprobes", "device-mapping", "gpu-plugin",
		"inotify-overlay", "sockets-unseen", "socket-type", "mptcp-socket", "tcp-in-flight", "tcp-established",
		"unix-other-namespace", "unix-external", "unix-stream-external",
	} {
		if f := findingOf(code); f.Text == "" || f.Remedy == "" || f.Severity == "" {
			t.Errorf("code %q has no words: %+v", code, f)
		}
	}
}

func TestPreflightRejects(t *testing.T) {
	for name, opts := range map[string]PreflightOptions{
		"no spec":       {PID: os.Getpid()},
		"no process":    {Spec: &specs.Spec{}},
		"gone":          {Spec: &specs.Spec{}, PID: 1 << 30, Descriptors: []string{}},
		"gone, no list": {Spec: &specs.Spec{}, PID: 1 << 30},
	} {
		if r, err := Preflight(t.Context(), opts); err == nil {
			t.Errorf("%s: got %+v, want an error", name, r)
		}
	}
}
