package criu

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	ghost_file "github.com/checkpoint-restore/go-criu/v8/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// program is a filter of n instructions.
func program(n int) []byte { return bytes.Repeat([]byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f}, n) }

// seccompImg makes an image of filters; prev is -1 for one that stands on nothing.
func seccompImg(t testing.TB, prev ...int) []byte {
	e := &seccomp.SeccompEntry{}
	for i, p := range prev {
		f := &seccomp.SeccompFilter{Filter: program(i + 1)}
		if p >= 0 {
			f.Prev = proto.Uint32(uint32(p))
		}
		e.SeccompFilters = append(e.SeccompFilters, f)
	}
	return encode(t, magicSeccomp, e)
}

// filtered is the core of a task that a filter holds.
func filtered(filter uint32) *criu_core.CoreEntry {
	c := core(1, 0)
	c.ThreadCore.SeccompMode, c.ThreadCore.SeccompFilter = criu_core.SeccompMode_filter.Enum(), &filter
	return c
}

// thread is the core of a thread other than the first.
func thread(caps uint32) *criu_core.CoreEntry {
	c := core(1, caps)
	c.Tc, c.Ids = nil, nil
	return c
}

// confinedSpec is what a policy grants an archive of unknown origin.
func confinedSpec() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN"}}},
		Mounts: []specs.Mount{
			{Type: "sysfs", Options: []string{"ro"}}, {Type: "cgroup", Options: []string{"ro"}}, {Destination: "/data", Type: "bind", Options: []string{"ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.PIDNamespace}},
			Devices:    []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}},
			Resources:  &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	}
}

var guard = []string{"/proc/sys", "/proc/timer_list", "/proc/no-such-file-here", "/sys/firmware"}

func readonly(m *mnt.MntEntry) *mnt.MntEntry {
	m.Flags = proto.Uint32(unix.MS_RDONLY)
	return m
}

// kernelMounts are those of an ordinary container.
func kernelMounts() []proto.Message {
	sys, timers := readonly(mount(mnt.Fstype_PROC, 4, 11, "/proc/sys", "")), mount(mnt.Fstype_TMPFS, 5, 13, "/proc/timer_list", "")
	sys.Root = proto.String("/sys")
	sys.ParentMntId, timers.ParentMntId = proto.Uint32(2), proto.Uint32(2)
	return []proto.Message{
		mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", "/"), mount(mnt.Fstype_PROC, 2, 11, "./proc", ""), sys,
		timers, readonly(mount(mnt.Fstype_SYSFS, 6, 14, "/sys", "")),
		readonly(mount(mnt.Fstype_CGROUP, 7, 15, "/sys/fs/cgroup/pids", "")), mount(mnt.Fstype_DEVPTS, 8, 16, "/dev/pts", ""),
	}
}

// tmpfs packs entries as CRIU does.
func tmpfs(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	tw := tar.NewWriter(gz)
	for _, h := range headers {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }

func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }

func link(kind byte, name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: kind}
}

func device(kind byte, major, minor int64) tar.Header {
	return tar.Header{Name: "./dev", Typeflag: kind, Devmajor: major, Devminor: minor}
}

// confinedSet is an image set of an ordinary container that confinedSpec fits.
func confinedSet(t testing.TB) map[string][]byte {
	set := imageSet(t)
	tasks := []proto.Message{task(1, 0), task(5, 1)}
	set["pstree.img"] = encode(t, magicPstree, tasks...)
	set["mountpoints-7.img"] = encode(t, magicMounts, kernelMounts()...)
	set["tmpfs-dev-13.tar.gz.img"] = tmpfs(t, dir("./"), dir("./d/"), file("./d/f"), link(tar.TypeSymlink, "./d/s", "/etc/passwd"),
		link(tar.TypeLink, "./d/l", "./d/f"), device(tar.TypeChar, 1, 3))
	set["ghost-file-1.img"] = append(encode(t, magicGhost, &ghost_file.GhostFileEntry{
		Uid: proto.Uint32(0), Gid: proto.Uint32(0), Mode: proto.Uint32(unix.S_IFREG),
	}), "content"...)
	set["seccomp.img"] = seccompImg(t, -1, 0, 0)
	set["core-1.img"] = encode(t, magicCore, filtered(2))
	return set
}

func TestCheckAcceptsOrdinaryContainers(t *testing.T) {
	var set map[string][]byte
	for name, edit := range map[string]func(*specs.Spec){
		"as it is": func(*specs.Spec) {},
		"filtered": func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} },
		"fuse":     func(*specs.Spec) { set["tmpfs-12.tar.gz.img"] = tmpfs(t, device(tar.TypeChar, 10, 229)) },
		"writable": func(s *specs.Spec) { s.Mounts[0].Options = nil },
		"empty":    func(*specs.Spec) { set["tmpfs-12.tar.gz.img"] = nil },
		"user names": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 9}}
			set["userns-1.img"] = users(t, 1000)
		},
		"devices": func(*specs.Spec) {
			set["cgroup.img"] = encode(t, magicCgroup, devices("b *:* m\nc *:* m\nc 1:3 rwm\nc 10:200 rwm\nc 10:229 rw\nc 136:* rwm\n"))
		},
	} {
		set = confinedSet(t)
		spec := confinedSpec()
		edit(spec)
		if _, err := Check(t.Context(), writeSet(t, set), CheckOptions{Spec: spec, Guard: guard}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func users(t testing.TB, host uint32) []byte {
	return encode(t, magicUserns, &userns.UsernsEntry{UidMap: []*userns.UidGidExtent{
		{First: proto.Uint32(0), LowerFirst: &host, Count: proto.Uint32(9)},
	}})
}

func devices(list string) *cgroup.CgroupEntry {
	e := cgroupTree("sub", "devices.list")
	e.Controllers[0].Dirs[0].Children[0].Properties[0].Value = &list
	return e
}

// Each of these would give a task more than its spec.
func TestCheckRejectsBeyondSpec(t *testing.T) {
	type set = map[string][]byte
	put := func(name string, magic uint32, entries ...proto.Message) func(set) {
		return func(s set) { s[name] = encode(t, magic, entries...) }
	}
	mounts := func(edit func([]proto.Message) []proto.Message) func(set) {
		return func(s set) { s["mountpoints-7.img"] = encode(t, magicMounts, edit(kernelMounts())...) }
	}
	with := func(m *mnt.MntEntry) func(set) {
		return mounts(func(all []proto.Message) []proto.Message { return append(all, m) })
	}
	without := func(i int) func(set) {
		return mounts(func(all []proto.Message) []proto.Message { return slices.Delete(all, i, i+1) })
	}
	at := func(m *mnt.MntEntry, root string) *mnt.MntEntry { m.Root = &root; return m }
	ghost := func(mode, rdev uint32) func(set) {
		return put("ghost-file-1.img", magicGhost, &ghost_file.GhostFileEntry{Uid: proto.Uint32(0), Gid: proto.Uint32(0), Mode: &mode, Rdev: &rdev})
	}
	unpacked := func(headers ...tar.Header) func(set) {
		return func(s set) { s["tmpfs-dev-13.tar.gz.img"] = tmpfs(t, headers...) }
	}
	ids := func(pid int, edit func(*criu_core.TaskKobjIdsEntry)) func(set) {
		e := kernelObjects(10)
		edit(e)
		return put(fmt.Sprintf("ids-%d.img", pid), magicIDs, e)
	}
	threads := func(all ...uint32) proto.Message { e := task(1, 0); e.Threads = all; return e }
	old := filtered(0)
	old.Tc.OldSeccompMode = criu_core.SeccompMode_disabled.Enum()
	nobody := core(1, 0)
	nobody.ThreadCore.Creds = nil
	ambient := core(1, 0)
	ambient.ThreadCore.Creds.CapAmb = []uint32{1 << 12}
	future := core(1, 0)
	future.ThreadCore.Creds = proto.CloneOf(future.ThreadCore.Creds)
	future.ThreadCore.Creds.CapPrm = []uint32{0, 1 << 31}
	flagged := &seccomp.SeccompEntry{SeccompFilters: []*seccomp.SeccompFilter{
		{Filter: program(1)}, {Filter: program(1)}, {Filter: program(1), Flags: proto.Uint32(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)},
	}}
	for name, tt := range map[string]struct {
		change func(set)
		says   string
	}{
		"capability":         {put("core-1.img", magicCore, core(1, 1<<12)), "CAP_NET_ADMIN"},
		"ambient capability": {put("core-1.img", magicCore, ambient), "CAP_NET_ADMIN"},
		"unknown capability": {put("core-1.img", magicCore, future), "unknown capability 63"},
		"capability of a thread": {func(s set) {
			put("pstree.img", magicPstree, threads(1, 9), task(5, 1))(s)
			put("core-9.img", magicCore, thread(1<<12))(s)
		}, "core-9.img"},
		"no core of a thread": {put("pstree.img", magicPstree, threads(1, 9), task(5, 1)), "core-9.img"},
		"empty core of a thread": {func(s set) {
			put("pstree.img", magicPstree, threads(1, 9), task(5, 1))(s)
			s["core-9.img"] = encode(t, magicCore, &criu_core.CoreEntry{Mtype: core(1, 0).Mtype})
		}, "not the core of a thread"},
		"thread of two tasks":        {put("pstree.img", magicPstree, threads(1, 5), task(5, 1)), "there already"},
		"leader is another":          {put("pstree.img", magicPstree, threads(9, 1), task(5, 1)), "first thread"},
		"no credentials":             {put("core-1.img", magicCore, nobody), "no credentials"},
		"no filter":                  {put("core-1.img", magicCore, core(1, 0)), "no system call filter"},
		"no filter in the old field": {put("core-1.img", magicCore, old), "no system call filter"},
		"missing filter":             {put("core-1.img", magicCore, filtered(3)), "filter 3 is missing"},
		"filter on a missing one":    {func(s set) { s["seccomp.img"] = seccompImg(t, -1, 0, 7) }, "filter 7"},
		"filter on itself":           {func(s set) { s["seccomp.img"] = seccompImg(t, 2, 0, 1) }, "stands on itself"},
		"filter that notifies":       {put("seccomp.img", magicSeccomp, flagged), "flags 0x8"},
		"filter that is no program":  {put("seccomp.img", magicSeccomp, &seccomp.SeccompEntry{SeccompFilters: []*seccomp.SeccompFilter{{Filter: []byte("evil")}}}), "no program"},
		"two sets of filters":        {put("seccomp.img", magicSeccomp, &seccomp.SeccompEntry{}, &seccomp.SeccompEntry{}), "2 entries"},
		"/proc/sys":                  {without(2), "/proc/sys is open"},
		"/proc/timer_list":           {without(3), "/proc/timer_list is open"},
		"/proc/sys that is writable": {mounts(func(all []proto.Message) []proto.Message { all[2].(*mnt.MntEntry).Flags = proto.Uint32(0); return all }), "/proc/sys is open"},
		"/proc/sys that its file system closes": {mounts(func(all []proto.Message) []proto.Message {
			m := all[2].(*mnt.MntEntry)
			m.Flags, m.SbFlags = proto.Uint32(0), proto.Uint32(unix.MS_RDONLY)
			return all
		}), "/proc/sys is open"},
		"/proc/sys in an old image":   {mounts(func(all []proto.Message) []proto.Message { all[2].(*mnt.MntEntry).SbFlags = nil; return all }), "/proc/sys is open"},
		"/proc over a closed one":     {with(mount(mnt.Fstype_PROC, 9, 99, "/proc", "")), "/proc/sys is open"},
		"a mount that is there twice": {with(mount(mnt.Fstype_TMPFS, 2, 99, "/mnt", "")), "there twice"},
		"below /proc/sys":             {with(at(mount(mnt.Fstype_PROC, 9, 11, "/proc/sys/kernel", ""), "/sys/kernel")), "/proc/sys is open"},
		"another /proc":               {with(mount(mnt.Fstype_PROC, 9, 11, "/mnt", "")), "/proc/sys is open"},
		"a part of /proc":             {with(at(mount(mnt.Fstype_PROC, 9, 11, "/mnt", ""), "/sys/kernel")), "/proc/sys is open"},
		"a writable /sys":             {with(mount(mnt.Fstype_SYSFS, 9, 14, "/mnt", "")), "/sys is writable"},
		"writable cgroups":            {with(mount(mnt.Fstype_CGROUP2, 9, 15, "/mnt", "")), "control groups are writable"},
		"debugfs":                     {with(mount(mnt.Fstype_DEBUGFS, 9, 99, "/mnt", "")), "not one of a container"},
		"devtmpfs":                    {with(mount(mnt.Fstype_DEVTMPFS, 9, 99, "/mnt", "")), "not one of a container"},
		"binfmt_misc":                 {with(mount(mnt.Fstype_BINFMT_MISC, 9, 99, "/mnt", "")), "not one of a container"},
		"overlay of the host":         {with(mount(mnt.Fstype_OVERLAYFS, 9, 99, "/mnt", "")), "not one of a container"},
		"unknown file system":         {with(mount(77, 9, 99, "/mnt", "")), "not one of a container"},
		"mounts of the host":          {ids(1, func(o *criu_core.TaskKobjIdsEntry) { o.MntNsId = proto.Uint32(1) }), "mount namespace of its host"},
		"processes of the host":       {ids(1, func(o *criu_core.TaskKobjIdsEntry) { o.PidNsId = proto.Uint32(1) }), "pid namespace of its host"},
		"network of the host":         {ids(1, func(o *criu_core.TaskKobjIdsEntry) { o.NetNsId = proto.Uint32(1) }), "network namespace of its host"},
		"child in the host's mounts":  {ids(5, func(o *criu_core.TaskKobjIdsEntry) { o.MntNsId = proto.Uint32(1) }), "task 5 is in the mount namespace"},
		"no namespaces":               {func(s set) { delete(s, "ids-1.img") }, "ids-1.img"},
		"no namespaces of CRIU":       {put("inventory.img", magicInventory, &inventory.InventoryEntry{ImgVersion: proto.Uint32(2)}), "no namespaces of CRIU"},
		"user namespace":              {func(s set) { s["userns-3.img"] = users(t, 0) }, "userns-3.img"},
		"AppArmor":                    {func(s set) { s["apparmor.img"] = []byte("policy") }, "apparmor.img"},
		"disk by CRIU's key":          {with(mount(mnt.Fstype_AUTO, 9, 99, "/mnt", "CRIU:EXTERNAL_DEV")), "of the host"},
		"disk of the root's number": {with(&mnt.MntEntry{
			Fstype: proto.Uint32(uint32(mnt.Fstype_AUTO)), MntId: proto.Uint32(9), RootDev: proto.Uint32(10), Options: proto.String("errors=remount-ro"),
			Root: proto.String("/"), Mountpoint: proto.String("/mnt"),
		}), "not one of a container"},
		"disk as a second root": {put("mountpoints-9.img", magicMounts, mount(mnt.Fstype_AUTO, 9, 99, "/", "")), "not one of a container"},
		"above what is mounted": {with(at(mount(mnt.Fstype_TMPFS, 9, 99, "/mnt", ""), "/../x")), "leads out"},
		"root of who mounts":    {with(at(mount(mnt.Fstype_PROC, 9, 11, "/mnt", ""), "/self/root")), "leads out"},
		"writable bind":         {with(mount(mnt.Fstype_AUTO, 9, 99, "/data", "/data")), "the spec says ro"},
		"writable copy of a bind": {func(s set) {
			bind := readonly(mount(mnt.Fstype_AUTO, 9, 99, "/data", "/data"))
			with(bind)(s)
			s["mountpoints-9.img"] = encode(t, magicMounts, mount(mnt.Fstype_AUTO, 19, 99, "/mnt", ""))
		}, "the spec says ro"},
		"real time": {func(s set) {
			c := filtered(0)
			c.ThreadCore.SchedPolicy = proto.Uint32(unix.SCHED_RR)
			put("core-1.img", magicCore, c)(s)
		}, "real time"},
		"all devices":            {put("cgroup.img", magicCgroup, devices("a *:* rwm")), "a *:* rwm"},
		"a disk":                 {put("cgroup.img", magicCgroup, devices("c 1:3 rwm\nb 8:0 rm")), "b 8:0 rm"},
		"devices in other words": {put("cgroup.img", magicCgroup, devices("c 1:3")), "c 1:3"},
		"deleted node of a disk": {ghost(unix.S_IFBLK, 8<<8), "device node 8:0"},
		"deleted node of memory": {ghost(unix.S_IFCHR, 1<<8|1), "device node 1:1"},
		"no deleted file":        {put("ghost-file-1.img", magicGhost), "empty image"},
		"node of a disk":         {unpacked(device(tar.TypeBlock, 8, 0)), "device node 8:0"},
		"null as a disk":         {unpacked(device(tar.TypeBlock, 1, 3)), "device node 1:3"},
		"name that climbs":       {unpacked(file("./../x")), "leads out"},
		"absolute name":          {unpacked(file("/etc/x")), "leads out"},
		"file through a link":    {unpacked(link(tar.TypeSymlink, "./d", "/etc"), file("./d/x")), "in what is no directory"},
		"link to the host":       {unpacked(link(tar.TypeLink, "./l", "/etc/shadow")), "a link to what is not"},
		"link to a link":         {unpacked(link(tar.TypeSymlink, "./s", "/etc/shadow"), link(tar.TypeLink, "./l", "./s")), "a link to what is not"},
		"entry there twice":      {unpacked(link(tar.TypeSymlink, "./s", "/etc"), dir("./s/")), "there twice"},
		"root that is a link":    {unpacked(link(tar.TypeSymlink, "./", "/etc")), "no directory"},
		"entry of no type":       {unpacked(tar.Header{Name: "x", Typeflag: 'V'}), "entry of type"},
		"a tar that is cut":      {func(s set) { s["tmpfs-dev-13.tar.gz.img"] = s["tmpfs-dev-13.tar.gz.img"][:60] }, "tmpfs-dev-13.tar.gz.img"},
	} {
		t.Run(name, func(t *testing.T) {
			s := confinedSet(t)
			tt.change(s)
			spec := confinedSpec()
			spec.Linux.Seccomp = &specs.LinuxSeccomp{}
			if strings.Contains(name, "capabilit") {
				spec.Process.Capabilities.Bounding = nil
			}
			_, err := Check(t.Context(), writeSet(t, s), CheckOptions{Spec: spec, Guard: guard})
			if !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want a rejection that says %q", err, tt.says)
			}
		})
	}
}

// holding gives the core of a thread its filter.
func holding(c *criu_core.CoreEntry, filter uint32) *criu_core.CoreEntry {
	c.ThreadCore.SeccompMode, c.ThreadCore.SeccompFilter = criu_core.SeccompMode_filter.Enum(), &filter
	return c
}

func TestConfine(t *testing.T) {
	// Filters of 1 to 4 instructions: 2 and 3 stand on 1, 4 stands alone and is for all threads.
	set := confinedSet(t)
	e := &seccomp.SeccompEntry{SeccompFilters: []*seccomp.SeccompFilter{
		{Filter: program(1)},
		{Filter: program(2), Prev: proto.Uint32(0)},
		{Filter: program(3), Prev: proto.Uint32(0)},
		{Filter: program(4), Flags: proto.Uint32(unix.SECCOMP_FILTER_FLAG_TSYNC)},
	}}
	set["seccomp.img"] = encode(t, magicSeccomp, e)
	tree := []proto.Message{}
	put := func(parent uint32, pids ...uint32) {
		m := task(pids[0], parent)
		m.Threads = pids
		tree = append(tree, m)
	}
	cores := map[uint32]*criu_core.CoreEntry{
		1: filtered(2), 8: thread(0), 9: holding(thread(0), 2), // each thread its own
		10: core(1, 0), 11: thread(0), 12: thread(0), // none has any
		20: filtered(3), 21: thread(0), // the first has one for all
		30: core(1, 0), 31: core(1, 0), 5: core(6, 0),
	}
	cores[30].ThreadCore.SeccompMode = criu_core.SeccompMode_strict.Enum()
	cores[31].Tc.OomScoreAdj = proto.Int32(-1000)
	put(0, 1, 8, 9)
	put(1, 10, 11, 12)
	put(1, 20, 21)
	put(1, 30)
	put(1, 31)
	put(1, 5)
	set["pstree.img"] = encode(t, magicPstree, tree...)
	for pid, c := range cores {
		set[coreName(pid)] = encode(t, magicCore, c)
	}
	d := writeSet(t, set)
	must(t, Confine(t.Context(), d, program(9)))

	filters, err := readFilters(d)
	must(t, err)
	chain := func(pid uint32) string {
		c, err := readEntry[criu_core.CoreEntry](d, coreName(pid), magicCore)
		must(t, err)
		mode, f := seccompOf(c)
		if mode != criu_core.SeccompMode_filter {
			return mode.String()
		}
		var list []string
		filters.any(f, func(f *seccomp.SeccompFilter) bool {
			text := fmt.Sprint(len(f.GetFilter()) / filterBytes)
			if isShared(f) {
				text += " for all"
			}
			list = append(list, text)
			return false
		})
		return strings.Join(list, ", ")
	}
	for pid, want := range map[uint32]string{
		1: "9, 3, 1", 8: "9", 9: "9, 3, 1", 10: "9 for all", 11: "disabled", 12: "disabled",
		20: "9 for all, 4 for all", 21: "disabled", 30: "strict", 31: "9", 5: "disabled",
	} {
		if got := chain(pid); got != want {
			t.Errorf("thread %d: filters of %s instructions, want %s", pid, got, want)
		}
	}
	if len(filters) != 8 { // four of the images, and one on 3, on 4, on nothing, on nothing for all
		t.Errorf("%d filters, want 8", len(filters))
	}
	last, err := readEntry[criu_core.CoreEntry](d, coreName(31), magicCore)
	must(t, err)
	if got := last.GetTc().GetOomScoreAdj(); got != 0 {
		t.Errorf("task 31 is spared by %d", got)
	}
	// Once more changes nothing.
	before := snapshot(t, d)
	must(t, Confine(t.Context(), d, program(9)))
	if after := snapshot(t, d); after != before {
		t.Error("a second time changed the images")
	}
	// Every thread counts as held.
	filtersOfSpec := confinedSpec()
	filtersOfSpec.Linux.Seccomp = &specs.LinuxSeccomp{}
	for _, pid := range []uint32{10, 20, 30, 31} {
		leader := task(pid, 0)
		for tid := range cores {
			if cores[tid].Tc == nil && tid > pid && tid < pid+9 {
				leader.Threads = append(leader.Threads, tid)
			}
		}
		for name, b := range map[string][]byte{"mm": set["mm-1.img"], "pagemap": set["pagemap-1.img"]} {
			must(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("%s-%d.img", name, pid)), b, 0o600))
		}
		if _, err := checkTask(d, leader, filters, CheckOptions{Spec: filtersOfSpec}); err != nil {
			t.Errorf("task %d: %v", pid, err)
		}
	}
}

// A program that is there is not enough where it does not hold all threads.
func TestConfineIsNotEvaded(t *testing.T) {
	set := confinedSet(t)
	leader := task(1, 0)
	leader.Threads = []uint32{1, 8}
	set["pstree.img"] = encode(t, magicPstree, leader)
	set["core-1.img"] = encode(t, magicCore, filtered(1))
	set["core-8.img"] = encode(t, magicCore, thread(0))
	set["seccomp.img"] = encode(t, magicSeccomp, &seccomp.SeccompEntry{SeccompFilters: []*seccomp.SeccompFilter{
		{Filter: program(9)}, {Filter: program(1), Prev: proto.Uint32(0), Flags: proto.Uint32(unix.SECCOMP_FILTER_FLAG_TSYNC)},
	}})
	d := writeSet(t, set)
	must(t, Confine(t.Context(), d, program(9)))
	filters, err := readFilters(d)
	must(t, err)
	if len(filters) != 3 || !isShared(filters[2]) || filters[2].GetPrev() != 1 {
		t.Errorf("filters %v, want the program once more, for all threads", filters)
	}
}

func snapshot(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all strings.Builder
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		fmt.Fprintf(&all, "%s %x\n", e.Name(), b)
	}
	return all.String()
}

func TestConfineRejects(t *testing.T) {
	if err := Confine(t.Context(), writeSet(t, confinedSet(t)), []byte("evil")); err == nil {
		t.Error("a program that is none was taken")
	}
	for name, change := range map[string]func(map[string][]byte){
		"no tree":   func(s map[string][]byte) { delete(s, "pstree.img") },
		"no core":   func(s map[string][]byte) { delete(s, "core-1.img") },
		"no filter": func(s map[string][]byte) { delete(s, "seccomp.img") },
		"old filter": func(s map[string][]byte) {
			old := core(1, 0)
			old.Tc.OldSeccompMode = criu_core.SeccompMode_disabled.Enum()
			s["core-1.img"] = encode(t, magicCore, old)
		},
		"no threads": func(s map[string][]byte) {
			s["core-1.img"] = encode(t, magicCore, &criu_core.CoreEntry{Mtype: core(1, 0).Mtype})
		},
	} {
		set := confinedSet(t)
		change(set)
		if err := Confine(t.Context(), writeSet(t, set), program(1)); !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: error %v, want a rejection", name, err)
		}
	}
}

// FuzzSurroundings checks that images of what is around tasks are read to an end, and that what
// is accepted keeps within the spec.
func FuzzSurroundings(f *testing.F) {
	names := []string{"seccomp.img", "core-1.img", "pstree.img", "mountpoints-7.img", "cgroup.img", "tmpfs-dev-13.tar.gz.img", "ghost-file-1.img", "userns-3.img", "files.img"}
	set := confinedSet(f)
	set["userns-3.img"] = users(f, 0)
	for i, name := range names {
		f.Add(uint8(i), set[name])
	}
	delete(set, "userns-3.img")
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		f.Setenv("TMPDIR", "/dev/shm") // what is written durably a thousand times a second would wait for a disk
	}
	dir := writeSet(f, set) // of this worker alone
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		name := names[int(which)%len(names)]
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		defer func() {
			if _, ok := set[name]; !ok {
				must(t, os.Remove(filepath.Join(dir, name)))
			}
			for _, n := range []string{name, "core-1.img", "core-5.img", "seccomp.img"} { // what was put there, and what Confine changes
				if b, ok := set[n]; ok {
					must(t, os.WriteFile(filepath.Join(dir, n), b, 0o600))
				}
			}
		}()
		spec := confinedSpec()
		_, err := Check(t.Context(), dir, CheckOptions{Spec: spec, Guard: guard})
		if err != nil && !errors.Is(err, archive.ErrRejected) {
			t.Errorf("check: %v, want a rejection", err)
		}
		if cerr := Confine(t.Context(), dir, program(2)); cerr != nil {
			if !errors.Is(cerr, archive.ErrRejected) {
				t.Errorf("confine: %v, want a rejection", cerr)
			}
			return
		}
		spec.Linux.Seccomp = &specs.LinuxSeccomp{}
		if _, again := Check(t.Context(), dir, CheckOptions{Spec: spec, Guard: guard}); (err == nil) != (again == nil) {
			t.Errorf("check said %v, and %v of the confined images", err, again)
		}
	})
}

// CRIU writes the thread of a zombie without setting it: what was in memory there.
func TestCheckZombieThread(t *testing.T) {
	set := imageSet(t) // PID 5 is a zombie
	zombie := task(5, 1)
	zombie.Threads = []uint32{3328627200}
	set["pstree.img"] = encode(t, magicPstree, task(1, 0), zombie)
	if _, err := Check(t.Context(), writeSet(t, set), CheckOptions{}); err != nil {
		t.Error(err)
	}
	zombie.Threads = []uint32{3328627200, 5}
	set["pstree.img"] = encode(t, magicPstree, task(1, 0), zombie)
	if _, err := Check(t.Context(), writeSet(t, set), CheckOptions{}); err == nil {
		t.Error("a zombie of two threads: no error")
	}
}

// What a container of this host had here it may have again, restored by a runtime or directly: a task that runs in real time
// with limits of who started it, and a watch on a file that is known by its handle alone.
func TestOwnImages(t *testing.T) {
	realTime := filtered(0)
	realTime.ThreadCore.SchedPolicy = proto.Uint32(unix.SCHED_RR)
	for name, image := range map[string]struct {
		file  string
		magic uint32
		entry proto.Message
	}{
		"real time": {"core-1.img", magicCore, realTime},
		"handle":    {FilesImage, magicFiles, watching("")},
	} {
		t.Run(name, func(t *testing.T) {
			s := confinedSet(t)
			s[image.file] = encode(t, image.magic, image.entry)
			dir, spec := writeSet(t, s), confinedSpec()
			for _, own := range []bool{true, false} {
				_, err := Check(t.Context(), dir, CheckOptions{Spec: spec, Own: own})
				r := &restore{opts: RestoreOptions{Spec: spec, Rootfs: t.TempDir(), ImagesDir: dir, WorkDir: t.TempDir(), CgroupPath: "/x", Own: own}}
				for what, err := range map[string]error{"check": err, "direct restore": r.prepare(t.Context())} {
					if refused := errors.Is(err, archive.ErrRejected); refused == own || own && err != nil {
						t.Errorf("%s of images of this host (%t): error %v", what, own, err)
					}
				}
			}
		})
	}
}
