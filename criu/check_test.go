package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pipe"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	sk_inet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-inet"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ckarchive/ckarchive/archive"
)

// complete sets the required fields that a test leaves out.
func complete(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.Message() != nil && f.IsList():
			for j := range m.Get(f).List().Len() {
				complete(m.Get(f).List().Get(j).Message())
			}
		case f.Message() != nil && (m.Has(f) || f.Cardinality() == protoreflect.Required):
			complete(m.Mutable(f).Message())
		case f.Cardinality() == protoreflect.Required && !m.Has(f):
			m.Set(f, f.Default())
		}
	}
}

// encode makes an image.
func encode(t testing.TB, magic uint32, entries ...proto.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	word := func(w uint32) { b.Write(binary.LittleEndian.AppendUint32(nil, w)) }
	word(magicCommon)
	word(magic)
	for _, e := range entries {
		complete(e.ProtoReflect())
		m, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		word(uint32(len(m)))
		b.Write(m)
	}
	return b.Bytes()
}

func task(pid, ppid uint32) *pstree.PstreeEntry {
	return &pstree.PstreeEntry{Pid: &pid, Ppid: &ppid, Pgid: &pid, Sid: &pid, Threads: []uint32{pid}}
}

func mount(typ mnt.Fstype, id, dev uint32, point, key string) *mnt.MntEntry {
	m := &mnt.MntEntry{
		Fstype: proto.Uint32(uint32(typ)), MntId: &id, RootDev: &dev, ParentMntId: proto.Uint32(1), Flags: proto.Uint32(0),
		Root: proto.String("/"), Mountpoint: &point, Source: proto.String("src"), Options: proto.String(""), SbFlags: proto.Uint32(0),
	}
	if key != "" {
		m.ExtKey = &key
	}
	return m
}

func core(state uint32, caps uint32) *criu_core.CoreEntry {
	march := map[string]criu_core.CoreEntryMarch{"amd64": criu_core.CoreEntry_X86_64, "arm64": criu_core.CoreEntry_AARCH64}[runtime.GOARCH]
	z := proto.Uint32(0)
	return &criu_core.CoreEntry{
		Mtype: &march,
		Tc: &criu_core.TaskCoreEntry{
			TaskState: &state, ExitCode: z, Personality: z, Flags: z, BlkSigset: proto.Uint64(0), Comm: proto.String("sh"),
		},
		Ids: &criu_core.TaskKobjIdsEntry{VmId: z, FilesId: proto.Uint32(2), FsId: z, SighandId: z},
		ThreadCore: &criu_core.ThreadCoreEntry{FutexRla: proto.Uint64(0), FutexRlaLen: z, Creds: &creds.CredsEntry{
			Uid: z, Gid: z, Euid: proto.Uint32(33), Egid: z, Suid: z, Sgid: z, Fsuid: z, Fsgid: z, Secbits: z, CapBnd: []uint32{caps, 0},
		}},
	}
}

func memory() *mm.MmEntry {
	z := proto.Uint64(0)
	return &mm.MmEntry{
		MmStartCode: z, MmEndCode: z, MmStartData: z, MmEndData: z, MmStartStack: z, MmStartBrk: z, MmBrk: z,
		MmArgStart: z, MmArgEnd: z, MmEnvStart: z, MmEnvEnd: z, ExeFileId: proto.Uint32(9),
	}
}

func pages(addr, n uint64, flags uint32) *pagemap.PagemapEntry {
	return &pagemap.PagemapEntry{Vaddr: &addr, CompatNrPages: proto.Uint32(0), NrPages: &n, Flags: &flags}
}

func pagemapHead(id uint32) *pagemap.PagemapHead { return &pagemap.PagemapHead{PagesId: &id} }

func cgroupTree(dir, prop string) *cgroup.CgroupEntry {
	return &cgroup.CgroupEntry{Controllers: []*cgroup.CgControllerEntry{{
		Cnames: []string{"cpu"},
		Dirs: []*cgroup.CgroupDirEntry{{DirName: proto.String("/ctr/x"), Children: []*cgroup.CgroupDirEntry{{
			DirName: &dir, Properties: []*cgroup.CgroupPropEntry{{Name: &prop, Value: proto.String("1")}},
		}}}},
	}}}
}

// kernelObjects are those of a process that shares none with one of another number.
func kernelObjects(n uint32) *criu_core.TaskKobjIdsEntry {
	return &criu_core.TaskKobjIdsEntry{
		VmId: &n, FilesId: &n, FsId: &n, SighandId: &n, PidNsId: &n, NetNsId: &n, IpcNsId: &n, UtsNsId: &n, MntNsId: &n, UserNsId: &n, TimeNsId: &n,
	}
}

// imageSet is a small checkpoint: two tasks, one of them a zombie.
func imageSet(t testing.TB) map[string][]byte {
	z := proto.Uint32(0)
	return map[string][]byte{
		"inventory.img": encode(t, magicInventory, &inventory.InventoryEntry{ImgVersion: proto.Uint32(2), RootIds: kernelObjects(1)}),
		"ids-1.img":     encode(t, magicIDs, kernelObjects(10)),
		"pstree.img":    encode(t, magicPstree, task(1, 0), task(5, 1)),
		"core-1.img":    encode(t, magicCore, core(1, 1<<21)),
		"core-5.img":    encode(t, magicCore, core(6, 0)),
		"mm-1.img":      encode(t, magicMM, memory()),
		"pagemap-1.img": encode(t, magicPagemap, pagemapHead(1), pages(0x1000, 2, pagePresent), pages(0x9000, 3, 2)),
		"pages-1.img":   make([]byte, 2*os.Getpagesize()),
		"cgroup.img":    encode(t, magicCgroup, cgroupTree("sub", "cpu.shares")),
		"mountpoints-7.img": encode(t, magicMounts, mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", "/"),
			mount(mnt.Fstype_PROC, 2, 11, "./proc", ""), mount(mnt.Fstype_AUTO, 3, 12, "/vol", "/vol")),
		"fdinfo-2.img": encode(t, magicFdinfo,
			&fdinfo.FdinfoEntry{Id: proto.Uint32(21), Flags: z, Type: fdinfo.FdTypes_INETSK.Enum(), Fd: proto.Uint32(3)},
			&fdinfo.FdinfoEntry{Id: proto.Uint32(20), Flags: z, Type: fdinfo.FdTypes_PIPE.Enum(), Fd: proto.Uint32(1)}),
		"files.img": encode(t, magicFiles,
			&fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(9), Reg: &regfile.RegFileEntry{Name: proto.String("/bin/sh")}},
			&fdinfo.FileEntry{Type: fdinfo.FdTypes_PIPE.Enum(), Id: proto.Uint32(20), Pipe: &pipe.PipeEntry{PipeId: proto.Uint32(77)}},
			&fdinfo.FileEntry{Type: fdinfo.FdTypes_INETSK.Enum(), Id: proto.Uint32(21), Isk: &sk_inet.InetSkEntry{
				Proto: proto.Uint32(6), Family: proto.Uint32(2), State: proto.Uint32(10), SrcPort: proto.Uint32(8080), DstPort: z, SrcAddr: []uint32{0x0100007f},
			}}),
	}
}

func writeSet(t testing.TB, set map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range set {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheckAccepts(t *testing.T) {
	set := imageSet(t)
	set["evil-1.img"] = []byte("an image that nobody knows")
	set["pagemap-99.img"] = encode(t, magicPagemap, pagemapHead(1), pages(0x1000, 50, pagePresent)) // a leftover
	got, err := Check(t.Context(), writeSet(t, set), CheckOptions{})
	must(t, err)
	if want := (Checked{Processes: 2, MemoryBytes: int64(2 * os.Getpagesize()), Architecture: runtime.GOARCH}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestCheckRejects(t *testing.T) {
	cut := func(name string, n int) func(map[string][]byte) {
		return func(s map[string][]byte) { s[name] = s[name][:len(s[name])-n] }
	}
	put := func(name string, magic uint32, entries ...proto.Message) func(map[string][]byte) {
		return func(s map[string][]byte) { s[name] = encode(t, magic, entries...) }
	}
	remove := func(name string) func(map[string][]byte) { return func(s map[string][]byte) { delete(s, name) } }
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}}, Linux: &specs.Linux{}}
	for name, test := range map[string]struct {
		change func(map[string][]byte)
		file   string
		rule   string
		spec   *specs.Spec
	}{
		"no images":           {func(s map[string][]byte) { clear(s) }, "checkpoint", "no CRIU images", nil},
		"no inventory":        {remove("inventory.img"), "inventory.img", "missing", nil},
		"newer version":       {put("inventory.img", magicInventory, &inventory.InventoryEntry{ImgVersion: proto.Uint32(99)}), "inventory.img", "image version 99", nil},
		"bad magic":           {func(s map[string][]byte) { s["inventory.img"][5] ^= 1 }, "inventory.img", "magic number", nil},
		"empty image":         {func(s map[string][]byte) { s["mm-1.img"] = nil }, "mm-1.img", "shorter than its magic", nil},
		"no entries":          {put("mm-1.img", magicMM), "mm-1.img", "empty image", nil},
		"no mm":               {remove("mm-1.img"), "mm-1.img", "missing", nil},
		"no core":             {remove("core-5.img"), "core-5.img", "missing", nil},
		"no pagemap":          {remove("pagemap-1.img"), "pagemap-1.img", "missing", nil},
		"no pages":            {remove("pages-1.img"), "pages-1.img", "missing", nil},
		"entry size":          {func(s map[string][]byte) { binary.LittleEndian.PutUint32(s["core-1.img"][8:], 1<<32-1) }, "core-1.img", "entry of 4294967295 bytes", nil},
		"cut entry size":      {func(s map[string][]byte) { s["core-1.img"] = append(s["core-1.img"], 1, 2) }, "core-1.img", "cut within the size", nil},
		"cut entry":           {cut("core-1.img", 1), "core-1.img", "are left", nil},
		"short pages":         {cut("pages-1.img", 1), "pages-1.img", "2 pages", nil},
		"long pages":          {func(s map[string][]byte) { s["pages-1.img"] = append(s["pages-1.img"], 0) }, "pages-1.img", "2 pages", nil},
		"pagemap overflow":    {put("pagemap-1.img", magicPagemap, pagemapHead(1), pages(0, 1<<52, pagePresent)), "pagemap-1.img", "too many", nil},
		"pagemap huge":        {put("pagemap-1.img", magicPagemap, pagemapHead(1), pages(0, 1<<40, pagePresent)), "pages-1.img", "1099511627776 pages", nil},
		"pagemap order":       {put("pagemap-1.img", magicPagemap, pagemapHead(1), pages(0x2000, 1, pagePresent), pages(0x1000, 1, pagePresent)), "pagemap-1.img", "out of order", nil},
		"tree loop":           {put("pstree.img", magicPstree, task(1, 0), task(5, 6), task(6, 5)), "pstree.img", "own ancestor", nil},
		"tree self":           {put("pstree.img", magicPstree, task(1, 1)), "pstree.img", "own ancestor", nil},
		"tree twice":          {put("pstree.img", magicPstree, task(1, 0), task(1, 0)), "pstree.img", "twice", nil},
		"tree two roots":      {put("pstree.img", magicPstree, task(1, 0), task(5, 0)), "pstree.img", "without a parent", nil},
		"tree lost parent":    {put("pstree.img", magicPstree, task(1, 0), task(5, 4)), "pstree.img", "is missing", nil},
		"tree empty":          {put("pstree.img", magicPstree), "pstree.img", "no tasks", nil},
		"cgroup property":     {put("cgroup.img", magicCgroup, cgroupTree("sub", "../../../etc/x")), "cgroup.img", "property", nil},
		"cgroup directory":    {put("cgroup.img", magicCgroup, cgroupTree("..", "cpu.shares")), "cgroup.img", "directory", nil},
		"host disk":           {put("mountpoints-7.img", magicMounts, mount(mnt.Fstype_AUTO, 3, 12, "/vol", "")), "mountpoints-7.img", "not one of a container", nil},
		"capability":          {func(map[string][]byte) {}, "core-1.img", "CAP_SYS_ADMIN", spec},
		"foreign arch":        {put("core-1.img", magicCore, &criu_core.CoreEntry{Mtype: criu_core.CoreEntry_S390.Enum(), Tc: core(6, 0).GetTc()}), "core-5.img", "architecture", nil},
		"host packet filters": {func(s map[string][]byte) { s["iptables-9.img"] = []byte("*filter"); s["core-1.img"] = s["core-5.img"] }, "iptables-9.img", "host's network", spec},
	} {
		t.Run(name, func(t *testing.T) {
			set := imageSet(t)
			test.change(set)
			_, err := Check(t.Context(), writeSet(t, set), CheckOptions{Spec: test.spec})
			if !errors.Is(err, archive.ErrRejected) {
				t.Fatalf("error %v, want a rejection", err)
			}
			if !strings.Contains(err.Error(), test.file) || !strings.Contains(err.Error(), test.rule) {
				t.Errorf("error %q, want it to name %q and %q", err, test.file, test.rule)
			}
		})
	}
}

func TestCheckRejectsLinks(t *testing.T) {
	dir := writeSet(t, imageSet(t))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "core-7.img")))
	if _, err := Check(t.Context(), dir, CheckOptions{}); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("error %v, want a rejection", err)
	}
}

func TestInspect(t *testing.T) {
	dir := writeSet(t, imageSet(t))
	must(t, os.Remove(filepath.Join(dir, "pages-1.img"))) // not needed
	in, err := Inspect(t.Context(), dir)
	must(t, err)
	p := in.Root
	if p == nil || p.PID != 1 || p.Comm != "sh" || p.Exe != "/bin/sh" || p.UID != 33 || p.State != "alive" {
		t.Fatalf("root %+v", p)
	}
	if len(p.Children) != 1 || p.Children[0].PID != 5 || p.Children[0].State != "zombie" {
		t.Errorf("children %+v", p.Children)
	}
	if want := []OpenFile{{FD: 1, Type: "pipe", Path: "pipe:[77]"}}; fmt.Sprint(p.Files) != fmt.Sprint(want) {
		t.Errorf("files %+v, want %+v", p.Files, want)
	}
	if want := []Socket{{FD: 3, Protocol: "tcp", State: "listen", Source: "127.0.0.1:8080"}}; fmt.Sprint(p.Sockets) != fmt.Sprint(want) {
		t.Errorf("sockets %+v, want %+v", p.Sockets, want)
	}
	if len(in.Mounts) != 3 || in.Mounts[1].Mountpoint != "/proc" || in.Mounts[2].Key != "/vol" {
		t.Errorf("mounts %+v", in.Mounts)
	}
}

// FuzzImage checks that reading images of anybody ends, without a panic.
func FuzzImage(f *testing.F) {
	names := []string{"inventory.img", "pstree.img", "core-1.img", "mm-1.img", "pagemap-1.img", "cgroup.img", "mountpoints-7.img", "fdinfo-2.img", "files.img"}
	set := imageSet(f)
	for i, name := range names {
		f.Add(uint8(i), set[name])
	}
	dir := writeSet(f, set) // of this worker alone
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		name := names[int(which)%len(names)]
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		defer func() { must(t, os.WriteFile(filepath.Join(dir, name), set[name], 0o600)) }()
		if _, err := Check(t.Context(), dir, CheckOptions{}); err == nil {
			// What Check accepts can be read.
			if _, err := ExternalMounts(dir); err != nil {
				t.Errorf("checked images: %v", err)
			}
		}
		if _, err := Inspect(t.Context(), dir); err != nil && !errors.Is(err, archive.ErrRejected) {
			t.Errorf("inspect: %v, want a rejection", err)
		}
	})
}
