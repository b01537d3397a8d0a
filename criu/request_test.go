package criu

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// runcMounts is the mount table of a runc container with a volume that has a
// submount, on cgroup v1.
const runcMounts = `100 90 254:0 /b/rootfs / rw,relatime - ext4 /dev/vda rw
101 100 0:50 / /proc rw - proc proc rw
102 100 0:51 / /dev rw - tmpfs tmpfs rw,size=65536k,mode=755
103 102 0:52 / /dev/pts rw - devpts devpts rw
104 102 0:53 / /dev/shm rw - tmpfs shm rw
105 102 0:48 / /dev/mqueue rw - mqueue mqueue rw
106 100 0:54 / /sys ro - sysfs sysfs ro
107 106 0:55 / /sys/fs/cgroup ro - tmpfs tmpfs rw
108 107 0:30 /ctr /sys/fs/cgroup/cpu ro master:1 - cgroup cgroup rw,cpu
109 107 0:31 /ctr /sys/fs/cgroup/memory ro master:2 - cgroup cgroup rw,memory
110 100 254:0 /srv/data /vol rw - ext4 /dev/vda rw
111 110 254:16 /x /vol/sub rw - ext4 /dev/vdb rw
112 101 0:50 /bus /proc/bus ro - proc proc rw
113 101 0:51 /null /proc/keys rw - tmpfs tmpfs rw,size=65536k,mode=755
114 101 0:56 / /proc/acpi ro - tmpfs tmpfs ro
`

// crunMounts holds the masks that crun makes: from the host's /dev and from a directory of its own.
const crunMounts = `100 90 0:60 / / rw - overlay overlay rw
101 100 0:50 / /proc rw - proc proc rw
113 101 0:6 /null /proc/keys rw - devtmpfs devtmpfs rw
114 101 254:0 /run/crun/.empty-directory /proc/acpi ro - ext4 /dev/vda rw
115 100 0:60 /data /alias rw - overlay overlay rw
116 100 0:70 / /dev/shm rw - tmpfs shm rw
`

func parseMounts(t *testing.T, text string) []*mountinfo.Info {
	t.Helper()
	infos, err := mountinfo.GetMountsFromReader(strings.NewReader(text), nil)
	must(t, err)
	return infos
}

func paths(ext []archive.External) []string {
	var ps []string
	for _, e := range ext {
		ps = append(ps, e.Path)
	}
	return ps
}

func bindSpec(dests ...string) *specs.Spec {
	s := &specs.Spec{Linux: &specs.Linux{}, Process: &specs.Process{}}
	for _, d := range dests {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: d, Source: "/host" + d, Options: []string{"rbind"}})
	}
	return s
}

func TestExternalMounts(t *testing.T) {
	for name, test := range map[string]struct {
		table string
		spec  *specs.Spec
		ownNS bool
		want  []string
	}{
		"runc":             {runcMounts, bindSpec("/vol/"), false, []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory", "/vol", "/vol/sub"}},
		"cgroup namespace": {runcMounts, bindSpec("/vol"), true, []string{"/vol", "/vol/sub"}},
		"crun":             {crunMounts, bindSpec(), false, []string{"/proc/keys", "/proc/acpi"}},
		"bound tmpfs":      {crunMounts, bindSpec("/dev/shm"), false, []string{"/proc/keys", "/proc/acpi", "/dev/shm"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := paths(externalMounts(parseMounts(t, test.table), test.spec, test.ownNS)); !slices.Equal(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestDumpRequest(t *testing.T) {
	spec := bindSpec("/vol")
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/x"}}
	f := facts{
		mounts:      parseMounts(t, runcMounts),
		cgroups:     parseCgroups("5:cpu:/ctr\n4:freezer:/ctr\n3:name=systemd:/ctr\n0::/\n"),
		self:        parseCgroups("5:cpu:/\n4:freezer:/\n0::/\n"),
		hierarchies: []hierarchy{{controllers: []string{"freezer"}, mount: "/sys/fs/cgroup/freezer", root: "/"}, {mount: "/sys/fs/cgroup/unified", root: "/"}},
		interfaces:  []string{"lo", "eth0"},
		netNS:       4026531840, pidNS: 4026531836,
	}
	o := &rpc.CriuOpts{ImagesDirFd: proto.Int32(3)}
	ext, err := dumpRequest(o, DumpOptions{
		Flags: Flags{FileLocks: true, NetworkLock: "nftables"}, Spec: spec, PID: 42, Rootfs: "/b/rootfs",
		LeaveRunning: true, GhostLimit: 4096, IrmapPaths: []string{"/etc"}, External: []string{"unix[7]"},
	}, f, nil)
	must(t, err)
	// prototext puts one or two spaces on purpose.
	got := strings.Join(strings.Fields(strings.ReplaceAll(prototext.MarshalOptions{Multiline: true}.Format(o), ":  ", ": ")), " ")
	want := `images_dir_fd: 3 pid: 42 leave_running: true ext_unix_sk: false tcp_established: false shell_job: false file_locks: true ` +
		`notify_scripts: true root: "/b/rootfs" link_remap: false cpu_cap: 13 force_irmap: true ` +
		`ext_mnt: { key: "/sys/fs/cgroup/cpu" val: "/sys/fs/cgroup/cpu" } ext_mnt: { key: "/sys/fs/cgroup/memory" val: "/sys/fs/cgroup/memory" } ` +
		`ext_mnt: { key: "/vol" val: "/vol" } ext_mnt: { key: "/vol/sub" val: "/vol/sub" } ` +
		`manage_cgroups: true manage_cgroups_mode: DEFAULT ghost_limit: 4096 irmap_scan_paths: "/etc" ` +
		`external: "net[4026531840]:extRootNetNS" external: "unix[7]" ` +
		`cgroup_dump_controller: "cpu" cgroup_dump_controller: "freezer" cgroup_dump_controller: "name=systemd" ` +
		`freeze_cgroup: "/sys/fs/cgroup/freezer/ctr" tcp_skip_in_flight: false orphan_pts_master: true tcp_close: false network_lock: NFTABLES`
	if got = strings.ReplaceAll(got, " {", ": {"); strings.ReplaceAll(got, "::", ":") != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if last := ext[len(ext)-1]; last.Kind != kindNet || last.Path != "/run/netns/x" {
		t.Errorf("last external %+v, want the network namespace", last)
	}
	// Interfaces of others in a namespace of its own: dumped without.
	spec.Linux.Namespaces[1].Path = ""
	o = &rpc.CriuOpts{}
	_, err = dumpRequest(o, DumpOptions{Spec: spec}, f, nil)
	must(t, err)
	if got, want := o.GetEmptyNs(), uint32(unix.CLONE_NEWNET); got != want {
		t.Errorf("empty namespaces %#x, want %#x", got, want)
	}
	// Unless the restore is told where their other ends go.
	o = &rpc.CriuOpts{}
	_, err = dumpRequest(o, DumpOptions{Spec: spec, External: []string{"veth[eth0]"}}, f, nil)
	must(t, err)
	if got := o.GetEmptyNs(); got != 0 {
		t.Errorf("empty namespaces %#x with the interface given, want none", got)
	}
	for _, bad := range []Flags{{NetworkLock: "x"}, {CgroupMode: "x"}} {
		if _, err := dumpRequest(&rpc.CriuOpts{}, DumpOptions{Spec: spec, Flags: bad}, f, nil); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}

// TestDumpOptions sets every option alone and wants what it adds to the request: an option that is
// dropped on the way fails here.
func TestDumpOptions(t *testing.T) {
	parent, images := t.TempDir(), t.TempDir()
	link, err := filepath.Rel(images, parent)
	must(t, err)
	request := func(set func(*DumpOptions)) []string {
		t.Helper()
		opts := DumpOptions{Spec: bindSpec(), PID: 42, Rootfs: "/b/rootfs", ImagesDir: images}
		set(&opts)
		must(t, opts.validate())
		o := &rpc.CriuOpts{ImagesDirFd: proto.Int32(3)}
		var sockets []archive.External
		for range opts.ExternalSockets {
			sockets = []archive.External{{Kind: kindUnix, Key: "unix[77]"}}
		}
		_, err := dumpRequest(o, opts, facts{}, sockets)
		must(t, err)
		text := prototext.MarshalOptions{Multiline: true, Indent: " "}.Format(o)
		var lines []string
		for line := range strings.Lines(text) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return lines
	}
	plain := request(func(*DumpOptions) {})
	for name, test := range map[string]struct {
		set  func(*DumpOptions)
		want string
	}{
		"leave-running":       {func(o *DumpOptions) { o.LeaveRunning = true }, "leave_running: true"},
		"tcp-established":     {func(o *DumpOptions) { o.TCPEstablished = true }, "tcp_established: true"},
		"tcp-close":           {func(o *DumpOptions) { o.TCPClose = true }, "tcp_close: true"},
		"tcp-skip-in-flight":  {func(o *DumpOptions) { o.TCPSkipInFlight = true }, "tcp_skip_in_flight: true"},
		"ext-unix-sk":         {func(o *DumpOptions) { o.ExtUnixSk = true }, "ext_unix_sk: true"},
		"external":            {func(o *DumpOptions) { o.External = []string{"unix[9]"} }, `external: "unix[9]"`},
		"external by name":    {func(o *DumpOptions) { o.ExternalSockets = []string{"/run/x"} }, `external: "unix[77]"`},
		"shell-job":           {func(o *DumpOptions) { o.ShellJob = true }, "shell_job: true"},
		"file-locks":          {func(o *DumpOptions) { o.FileLocks = true }, "file_locks: true"},
		"link-remap":          {func(o *DumpOptions) { o.LinkRemap = true }, "link_remap: true"},
		"ghost-limit":         {func(o *DumpOptions) { o.GhostLimit = 4096 }, "ghost_limit: 4096"},
		"freeze-timeout":      {func(o *DumpOptions) { o.FreezeTimeout = 90 * time.Second }, "timeout: 90"},
		"force-irmap":         {func(o *DumpOptions) { o.ForceIrmap = true }, "force_irmap: true"},
		"irmap-path":          {func(o *DumpOptions) { o.IrmapPaths = []string{"/srv"} }, `force_irmap: true irmap_scan_paths: "/srv"`},
		"empty-ns":            {func(o *DumpOptions) { o.EmptyNetNS = true }, "empty_ns: 1073741824"},
		"network-lock":        {func(o *DumpOptions) { o.NetworkLock = "nftables" }, "network_lock: NFTABLES"},
		"network-lock skip":   {func(o *DumpOptions) { o.NetworkLock = "skip" }, "network_lock: SKIP"},
		"manage-cgroups-mode": {func(o *DumpOptions) { o.CgroupMode = "strict" }, "manage_cgroups_mode: STRICT"},
		"ignore cgroups":      {func(o *DumpOptions) { o.CgroupMode = "ignore" }, "manage_cgroups_mode: IGNORE"},
		"skip-file-rwx-check": {func(o *DumpOptions) { o.SkipRWXCheck = true }, "skip_file_rwx_check: true"},
		"mntns-compat-mode":   {func(o *DumpOptions) { o.MountCompat = true }, ""}, // for the restore alone
		"criu-config":         {func(o *DumpOptions) { o.ConfigFile = "/etc/criu/x.conf" }, `config_file: "/etc/criu/x.conf"`},
		"parent":              {func(o *DumpOptions) { o.Parent = parent }, `parent_img: "` + link + `" track_mem: true`},
		"auto-dedup":          {func(o *DumpOptions) { o.Parent, o.AutoDedup = parent, true }, `parent_img: "` + link + `" track_mem: true auto_dedup: true`},
		"page-server":         {func(o *DumpOptions) { o.PageServer = "192.0.2.1:9876" }, `ps: { address: "192.0.2.1" port: 9876 }`},
		"lazy-pages":          {func(o *DumpOptions) { o.LazyPages = "[::1]:27" }, `ps: { address: "::1" port: 27 } lazy_pages: true`},
	} {
		var added []string
		rest := slices.Clone(plain)
		for _, line := range request(test.set) {
			if i := slices.Index(rest, line); i >= 0 && line != "}" {
				rest = slices.Delete(rest, i, i+1)
				continue
			}
			added = append(added, line)
		}
		got := strings.Fields(strings.ReplaceAll(strings.Join(added, " "), "ps {", "ps: {"))
		want := strings.Fields(test.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: adds %q to the request, want %q", name, got, want)
		}
	}
}

func TestDumpOptionsRefused(t *testing.T) {
	whole := DumpOptions{Spec: bindSpec(), PID: 42, Rootfs: "/", ImagesDir: "x"}
	take := func(context.Context, string, io.Reader) error { return nil }
	for name, set := range map[string]func(*DumpOptions){
		"no spec":               func(o *DumpOptions) { o.Spec = nil },
		"no process":            func(o *DumpOptions) { o.PID = 0 },
		"nothing to dedup in":   func(o *DumpOptions) { o.AutoDedup = true },
		"two places":            func(o *DumpOptions) { o.LazyPages, o.PageServer = "127.0.0.1:1", "127.0.0.1:2" },
		"lazy and going on":     func(o *DumpOptions) { o.LazyPages, o.LeaveRunning = "127.0.0.1:1", true },
		"taken and sent":        func(o *DumpOptions) { o.TakePages, o.PageServer = take, "127.0.0.1:1" },
		"taken and served":      func(o *DumpOptions) { o.TakePages, o.LazyPages = take, "127.0.0.1:1" },
		"taken and freed again": func(o *DumpOptions) { o.TakePages, o.Parent, o.AutoDedup = take, "/", true },
	} {
		opts := whole
		set(&opts)
		if opts.validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	must(t, whole.validate())
	for _, address := range []string{"127.0.0.1", "localhost:1", "127.0.0.1:0", "127.0.0.1:65536", ":1", "127.0.0.1:x", ""} {
		if host, port, err := SplitAddress(address); err == nil {
			t.Errorf("address %q is read as %s and %d, want an error", address, host, port)
		}
	}
}

func TestFreezeCgroup(t *testing.T) {
	v1 := []hierarchy{{controllers: []string{"freezer"}, mount: "/f", root: "/"}}
	v2 := []hierarchy{{mount: "/sys/fs/cgroup", root: "/outer"}}
	for name, test := range map[string]struct {
		hs              []hierarchy
		container, self string
		want            string
	}{
		"v1":         {v1, "4:freezer:/c\n", "4:freezer:/\n", "/f/c"},
		"v1 root":    {v1, "4:freezer:/\n", "4:freezer:/x\n", ""},
		"ours too":   {v1, "4:freezer:/c\n", "4:freezer:/c/sub\n", ""},
		"v2":         {v2, "0::/outer/c\n", "0::/outer\n", "/sys/fs/cgroup/c"},
		"v2 sibling": {v2, "0::/outer/c\n", "0::/outer/cc\n", "/sys/fs/cgroup/c"},
	} {
		if got := freezeCgroup(test.hs, parseCgroups(test.container), parseCgroups(test.self)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestHierarchies(t *testing.T) {
	got := hierarchies(parseMounts(t, `1 0 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
2 0 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
3 0 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
4 0 0:33 / /tmp rw - tmpfs tmpfs rw
`))
	if len(got) != 3 || !slices.Equal(got[0].controllers, []string{"cpu", "cpuacct"}) || !slices.Equal(got[1].controllers, []string{"name=systemd"}) || !got[2].v2() {
		t.Errorf("got %+v", got)
	}
	c := &cgroups{path: "/x", hierarchies: got}
	for mp, want := range map[string]string{
		"/sys/fs/cgroup/cpu": "/sys/fs/cgroup/cpu,cpuacct/x", "/sys/fs/cgroup/cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/x",
		"/sys/fs/cgroup/systemd": "/sys/fs/cgroup/systemd/x", "/sys/fs/cgroup/unified": "/sys/fs/cgroup/unified/x", "/sys/fs/cgroup/rdma": "",
	} {
		if got, _ := c.source(ImageMount{Mountpoint: mp}); got != want {
			t.Errorf("%s: source %q, want %q", mp, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	limit, quota, pids, major := int64(1<<20), int64(-1), int64(-1), int64(10)
	shares := uint64(1024)
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Quota: &quota, Shares: &shares}, Pids: &specs.LinuxPids{Limit: &pids},
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &major, Access: "rw"}},
	}
	text := func(settings []setting) string {
		var lines []string
		for _, s := range settings {
			if !strings.Contains(defaultDevices, s.value) || s.value == "a" {
				lines = append(lines, s.file+"="+s.value)
			}
		}
		return strings.Join(lines, " ")
	}
	if got, want := text(settingsV1(r)), "memory.limit_in_bytes=1048576 cpu.shares=1024 cpu.cfs_quota_us=-1 pids.max=max devices.deny=a devices.allow=c 10:* rw"; got != want {
		t.Errorf("v1\ngot  %s\nwant %s", got, want)
	}
	if got, want := text(settingsV2(r)), "memory.max=1048576 cpu.weight=39 cpu.max=max 100000 pids.max=max"; got != want {
		t.Errorf("v2\ngot  %s\nwant %s", got, want)
	}
}

func TestDescriptors(t *testing.T) {
	id, flags := parseFdinfo([]byte("pos:\t0\nflags:\t0100001\nmnt_id:\t27\nino:\t3\n"))
	if id != 27 || flags != 0o100001 {
		t.Errorf("fdinfo: mount %d, flags %#o", id, flags)
	}
	pipes := oneSidedPipes([]openFile{
		{fd: 0, link: "pipe:[1]", flags: unix.O_RDONLY},
		{fd: 1, link: "/tmp/log", flags: unix.O_WRONLY},
		{pid: 2, fd: 1, link: "pipe:[2]", flags: unix.O_WRONLY},
		{pid: 2, fd: 5, link: "pipe:[3]", flags: unix.O_WRONLY}, // both ends: inner
		{pid: 3, fd: 0, link: "pipe:[3]", flags: unix.O_RDONLY},
	})
	if len(pipes) != 2 || pipes[0] != "pipe:[1]" || pipes[1] != "pipe:[2]" {
		t.Errorf("one-sided pipes %v", pipes)
	}
	regular := openFile{fd: 1, link: "/log", mountID: 27, flags: unix.O_WRONLY, stat: unix.Stat_t{Mode: unix.S_IFREG, Ino: 0xa1, Size: 21}}
	ext, ok := externalFile(regular, map[int]bool{3: true})
	if want := (archive.External{Kind: kindFile, Key: "file[1b:a1]", Path: "/log", Mode: unix.S_IFREG, Flags: 1, Size: 21, FD: 1}); !ok || ext != want {
		t.Errorf("external file %+v, want %+v", ext, want)
	}
	tty := openFile{link: "/dev/pts/3", mountID: 27, stat: unix.Stat_t{Mode: unix.S_IFCHR, Rdev: unix.Mkdev(136, 3), Dev: 0x15}}
	if ext, ok = externalFile(tty, nil); !ok || ext.Key != "tty[8803:15]" {
		t.Errorf("external tty %+v", ext)
	}
	for name, f := range map[string]openFile{
		"known mount": {link: "/log", mountID: 3, stat: unix.Stat_t{Mode: unix.S_IFREG}},
		"memfd":       {link: "/memfd:x (deleted)", mountID: 27, stat: unix.Stat_t{Mode: unix.S_IFREG}},
		"pipe":        {link: "pipe:[1]", mountID: 27, stat: unix.Stat_t{Mode: unix.S_IFIFO}},
		"directory":   {link: "/x", mountID: 27, stat: unix.Stat_t{Mode: unix.S_IFDIR}},
	} {
		if ext, ok := externalFile(f, map[int]bool{3: true}); ok {
			t.Errorf("%s: external %+v, want none", name, ext)
		}
	}
	got := describe([]string{devNull, "/log", "/log"}, []archive.External{{Kind: kindFile, Key: "file[1b:a1]", Path: "/log", FD: 1}})
	if want := []string{devNull, "file[1b:a1]", "file[1b:a1]"}; !slices.Equal(got, want) {
		t.Errorf("descriptors %q, want %q", got, want)
	}
	got = describe([]string{devNull, "pipe:[1]"}, []archive.External{{Kind: kindFile, Key: "file[1b:a1]", Path: "/log", FD: 1}})
	if want := []string{devNull, "pipe:[1]", devNull}; !slices.Equal(got, want) {
		t.Errorf("descriptors %q, want the recorded pipe: %q", got, want)
	}
}

func TestReadDescriptors(t *testing.T) {
	dir := t.TempDir()
	if got, err := ReadDescriptors(dir); err != nil || got != nil {
		t.Errorf("without a file: %q, %v", got, err)
	}
	must(t, writeDescriptors(dir, []string{devNull, "pipe:[1]"}))
	if got, err := ReadDescriptors(dir); err != nil || !slices.Equal(got, []string{devNull, "pipe:[1]"}) {
		t.Errorf("got %q, %v", got, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, archive.Descriptors), []byte(`{"a":1}`), 0o600))
	if _, err := ReadDescriptors(dir); err == nil {
		t.Error("an object: no error")
	}
}

// TestRestoreRequest wants every option of a restore in CRIU's request.
func TestRestoreRequest(t *testing.T) {
	dir := mountsDir(t, mount(mnt.Fstype_UNSUPPORTED, 6, 60, "/vol", "/vol"))
	must(t, writeDescriptors(dir, []string{devNull, "pipe:[5]", "pipe:[5]"}))
	vol, ns := t.TempDir(), filepath.Join(t.TempDir(), "ns")
	must(t, os.WriteFile(ns, nil, 0o600))
	spec := bindSpec("/vol")
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: ns}, {Type: specs.UTSNamespace, Path: ns}}
	file, err := os.Open(os.DevNull)
	must(t, err)
	defer file.Close()
	r := &restore{opts: RestoreOptions{
		Flags: Flags{
			TCPEstablished: true, TCPClose: true, ExtUnixSk: true, ShellJob: true, FileLocks: true,
			MountCompat: true, SkipRWXCheck: true, CgroupMode: "full", ConfigFile: "/c",
		},
		Spec: spec, Rootfs: t.TempDir(), ImagesDir: dir, MountMap: map[string]string{"/vol": vol},
		Files: map[string]*os.File{"socket:[7]": file}, External: []string{"unix[7]"}, Veth: map[string]string{"eth0": "host0@br0"},
		WeakSysctls: true, ConsumeImages: true, LSMProfile: "apparmor:x", LSMMountContext: "c",
	}, cgroups: &cgroups{path: "/x", hierarchies: []hierarchy{{controllers: []string{"cpu"}, mount: "/sys/fs/cgroup/cpu", root: "/"}}}}
	o := &rpc.CriuOpts{ImagesDirFd: proto.Int32(3)}
	must(t, r.request(o, "/root"))
	got := strings.Join(strings.Fields(strings.ReplaceAll(prototext.MarshalOptions{Multiline: true}.Format(o), ":  ", ": ")), " ")
	got = strings.NewReplacer(vol, "VOL", ns, "NS", " {", ": {").Replace(got)
	got = strings.ReplaceAll(got, "::", ":")
	want := `images_dir_fd: 3 ext_unix_sk: true tcp_established: true evasive_devices: true shell_job: true file_locks: true ` +
		`notify_scripts: true root: "/root" auto_dedup: true ext_mnt: { key: "/vol" val: "VOL" } manage_cgroups: true ` +
		`cg_root: { ctrl: "cpu" path: "/x" } rst_sibling: true inherit_fd: { key: "socket:[7]" fd: 4 } ` +
		`inherit_fd: { key: "pipe:[5]" fd: 1 } inherit_fd: { key: "pipe:[5]" fd: 2 } manage_cgroups_mode: FULL ` +
		`external: "unix[7]" external: "veth[eth0]:host0@br0" join_ns: { ns: "net" ns_file: "NS" } join_ns: { ns: "uts" ns_file: "NS" } ` +
		`weak_sysctls: true orphan_pts_master: true config_file: "/c" tcp_close: true lsm_profile: "apparmor:x" ` +
		`lsm_mount_context: "c" mntns_compat_mode: true skip_file_rwx_check: true`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
