package hostile

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"runtime"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// magicSeccomp begins seccomp.img behind the common magic number.
const magicSeccomp = 1681993801

// imagesOf have something wrong with the images of CRIU.
func imagesOf(c checkpoint, canary string) []sample {
	bad := func(name, says string, c checkpoint) sample {
		return sample{name: "images " + name, restore: rejected, says: says, late: true, archive: c.bytes}
	}
	// The reading verbs look at what names the checkpoint.
	worse := func(name, says string, c checkpoint) sample {
		s := bad(name, says, c)
		s.read, s.late = rejected, false
		return s
	}
	// What this host cannot restore, and another might.
	elsewhere := func(name, says string, c checkpoint) sample {
		s := bad(name, says, c)
		s.restore, s.late = refused, true
		return s
	}
	inventories := func(edit func(*inventory.InventoryEntry)) checkpoint {
		return images(c, "inventory.img", func(e *inventory.InventoryEntry) []proto.Message { edit(e); return []proto.Message{e} })
	}
	tree := func(edit func(*pstree.PstreeEntry) []proto.Message) checkpoint { return images(c, "pstree.img", edit) }
	cores := func(edit func(*criu_core.CoreEntry)) checkpoint {
		return images(c, "core-1.img", func(e *criu_core.CoreEntry) []proto.Message { edit(e); return []proto.Message{e} })
	}
	mounts := func(edit func(*mnt.MntEntry) []proto.Message) checkpoint { return images(c, "mountpoints-", edit) }
	added := func(typ mnt.Fstype, source, at string) checkpoint {
		return mounts(func(m *mnt.MntEntry) []proto.Message {
			if m.GetMountpoint() != "/proc" {
				return []proto.Message{m}
			}
			e := proto.CloneOf(m)
			e.Fstype, e.Source, e.Mountpoint = proto.Uint32(uint32(typ)), &source, &at
			e.MntId, e.RootDev, e.Flags = proto.Uint32(99999), proto.Uint32(77777), proto.Uint32(0)
			return []proto.Message{m, e}
		})
	}
	groups := func(edit func(*cgroup.CgroupDirEntry)) checkpoint {
		return images(c, "cgroup.img", func(e *cgroup.CgroupEntry) []proto.Message {
			for _, ctl := range e.GetControllers() {
				for _, d := range ctl.GetDirs() {
					edit(d)
				}
			}
			return []proto.Message{e}
		})
	}
	property := func(name, value string) checkpoint {
		return groups(func(d *cgroup.CgroupDirEntry) {
			d.Properties = append(d.Properties, &cgroup.CgroupPropEntry{Name: &name, Value: &value})
		})
	}
	filters := func(list ...*seccomp.SeccompFilter) checkpoint {
		b, err := proto.Marshal(&seccomp.SeccompEntry{SeccompFilters: list})
		if err != nil {
			panic(err)
		}
		magic, _ := entries(c.body("checkpoint/pstree.img"))
		image := binary.LittleEndian.AppendUint32(slices.Clone(magic[:4]), magicSeccomp)
		return c.put("checkpoint/seccomp.img", append(binary.LittleEndian.AppendUint32(image, uint32(len(b))), b...))
	}
	tmpfs := func(members ...member) checkpoint {
		return c.put(c.image("tmpfs-dev-"), packed(checkpoint(members).bytes()))
	}
	body := func(prefix string, edit func([]byte) []byte) checkpoint {
		name := c.image(prefix)
		return c.put(name, edit(c.body(name)))
	}
	pages := func(edit func(*pagemap.PagemapEntry)) checkpoint {
		name := c.image("pagemap-1.img")
		magic, list := entries(c.body(name))
		out := append(slices.Clone(magic), 0, 0, 0, 0)
		binary.LittleEndian.PutUint32(out[8:], uint32(len(list[0])))
		out = append(out, list[0]...)
		for _, raw := range list[1:] {
			var e pagemap.PagemapEntry
			if err := proto.Unmarshal(raw, &e); err != nil {
				panic(err)
			}
			edit(&e)
			b, err := proto.Marshal(&e)
			if err != nil {
				panic(err)
			}
			out = append(binary.LittleEndian.AppendUint32(out, uint32(len(b))), b...)
		}
		return c.put(name, out)
	}
	same := func(e *pstree.PstreeEntry) []proto.Message { return []proto.Message{e} }
	march := criu_core.CoreEntry_S390
	if runtime.GOARCH == "s390x" {
		march = criu_core.CoreEntry_X86_64
	}
	program := bytes.Repeat([]byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f}, 1)
	none := slices.DeleteFunc(slices.Clone(c), func(m member) bool { return strings.HasPrefix(m.name, "checkpoint/") && m.kind != tar.TypeDir })
	leftovers := slices.DeleteFunc(slices.Clone(c), func(m member) bool {
		return m.name == "checkpoint/inventory.img" || m.name == "checkpoint/pstree.img"
	})
	return []sample{
		worse("that are not there", "inventory.img", none),
		worse("of a dump that failed", "inventory.img", leftovers),
		worse("without an inventory", "inventory.img", c.without("checkpoint/inventory.img")),
		elsewhere("of the future", "image version 99", inventories(func(e *inventory.InventoryEntry) { e.ImgVersion = proto.Uint32(99) })),
		bad("with a wrong magic number", "magic", body("inventory.img", func(b []byte) []byte { b[0] ^= 1; return b })),
		bad("with an empty one", "mm-1.img", body("mm-1.img", func([]byte) []byte { return nil })),
		bad("with an entry of gigabytes", "entry of 4294967295 bytes", body("core-1.img", func(b []byte) []byte { binary.LittleEndian.PutUint32(b[8:], 1<<32-1); return b })),
		bad("with a cut entry", "core-1.img", body("core-1.img", func(b []byte) []byte { return b[:len(b)-1] })),
		bad("with rubbish in an entry", "core-1.img", body("core-1.img", func(b []byte) []byte { copy(b[12:], bytes.Repeat([]byte{0xff}, 64)); return b })),
		bad("with too little memory", "pages of", body("pages-1.img", func(b []byte) []byte { return b[:len(b)-4096] })),
		bad("with too much memory", "pages of", body("pages-1.img", func(b []byte) []byte { return append(b, make([]byte, 4096)...) })),
		bad("without memory", "pages-1.img", c.without(c.image("pages-1.img"))),
		bad("with a petabyte of memory", "pagemap-1.img", pages(func(e *pagemap.PagemapEntry) { e.NrPages = proto.Uint64(1 << 40) })),
		bad("with memory out of order", "out of order", pages(func(e *pagemap.PagemapEntry) { e.Vaddr = proto.Uint64(4096) })),
		bad("without a page map", "pagemap-1.img", c.without("checkpoint/pagemap-1.img")),
		bad("without a core", "core-1.img", c.without("checkpoint/core-1.img")),
		bad("without a tree", "pstree.img", c.without("checkpoint/pstree.img")),
		bad("of a task below itself", "own ancestor", tree(func(e *pstree.PstreeEntry) []proto.Message { e.Ppid = e.Pid; return same(e) })),
		bad("of a task that is there twice", "twice", tree(func(e *pstree.PstreeEntry) []proto.Message { return []proto.Message{e, e} })),
		bad("of a task without a parent", "is missing", tree(func(e *pstree.PstreeEntry) []proto.Message { e.Ppid = proto.Uint32(99); return same(e) })),
		bad("of a thread that is not there", "core-9999.img", tree(func(e *pstree.PstreeEntry) []proto.Message { e.Threads = append(e.Threads, 9999); return same(e) })),
		bad("of a million threads", "core-", tree(func(e *pstree.PstreeEntry) []proto.Message {
			for tid := range uint32(1_000_000) {
				e.Threads = append(e.Threads, 10_000+tid)
			}
			return same(e)
		})),
		elsewhere("of another architecture", "architecture", cores(func(e *criu_core.CoreEntry) { e.Mtype = &march })),
		bad("with a capability", "CAP_SYS_ADMIN", cores(func(e *criu_core.CoreEntry) { e.ThreadCore.Creds.CapEff[0] |= 1 << 21 })),
		bad("with all bounds", "the spec does not grant", cores(func(e *criu_core.CoreEntry) { e.ThreadCore.Creds.CapBnd = []uint32{1<<32 - 1, 0x1ff} })),
		bad("without credentials", "no credentials", cores(func(e *criu_core.CoreEntry) { e.ThreadCore.Creds = nil })),
		bad("with a filter that is missing", "filter 7", cores(func(e *criu_core.CoreEntry) {
			e.ThreadCore.SeccompMode, e.ThreadCore.SeccompFilter = criu_core.SeccompMode_filter.Enum(), proto.Uint32(7)
		})),
		bad("with a filter that stands on itself", "stands on itself", filters(&seccomp.SeccompFilter{Filter: program, Prev: proto.Uint32(0)})),
		bad("with a filter that asks another process", "flags", filters(&seccomp.SeccompFilter{Filter: program, Flags: proto.Uint32(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)})),
		bad("with a filter that is no program", "no program", filters(&seccomp.SeccompFilter{Filter: []byte("x")})),
		bad("with a property that climbs", "property", property("../../../.."+canary+"/file", "x")),
		bad("with the use of all devices", "a *:* rwm", property("devices.list", "a *:* rwm")),
		bad("with a cgroup that climbs", "directory", groups(func(d *cgroup.CgroupDirEntry) { d.DirName = proto.String("/../../x") })),
		bad("with a disk", "not one of a container", added(mnt.Fstype_AUTO, "/dev/vda", "/mnt")),
		bad("with the host's devices", "not one of a container", added(mnt.Fstype_DEVTMPFS, "devtmpfs", "/mnt")),
		bad("with the kernel's debugger", "not one of a container", added(mnt.Fstype_DEBUGFS, "debugfs", "/mnt")),
		bad("with formats of programs", "not one of a container", added(mnt.Fstype_BINFMT_MISC, "binfmt_misc", "/mnt")),
		bad("with an overlay", "not one of a container", added(mnt.Fstype_OVERLAYFS, "overlay", "/mnt")),
		bad("with a second /proc", "is open", added(mnt.Fstype_PROC, "proc", "/mnt")),
		bad("with a writable /sys", "/sys is writable", added(mnt.Fstype_SYSFS, "sysfs", "/mnt")),
		bad("with a writable /proc/sys", "/proc/sys is open", mounts(func(m *mnt.MntEntry) []proto.Message {
			if m.GetMountpoint() == "/proc/sys" {
				m.Flags = proto.Uint32(m.GetFlags() &^ unix.MS_RDONLY)
				m.SbFlags = proto.Uint32(0)
			}
			return []proto.Message{m}
		})),
		bad("with a /proc/sys that its file system closes", "/proc/sys is open", mounts(func(m *mnt.MntEntry) []proto.Message {
			if m.GetMountpoint() == "/proc/sys" {
				m.Flags, m.SbFlags = proto.Uint32(m.GetFlags()&^unix.MS_RDONLY), proto.Uint32(unix.MS_RDONLY)
			}
			return []proto.Message{m}
		})),
		bad("with a /proc/sys in the form of old versions", "/proc/sys is open", mounts(func(m *mnt.MntEntry) []proto.Message {
			if m.GetMountpoint() == "/proc/sys" {
				m.SbFlags = nil
			}
			return []proto.Message{m}
		})),
		bad("with a /proc over the closed one", "is open", mounts(func(m *mnt.MntEntry) []proto.Message {
			if m.GetMountpoint() != "/proc" {
				return []proto.Message{m}
			}
			e := proto.CloneOf(m)
			e.MntId, e.RootDev, e.ParentMntId = proto.Uint32(99999), proto.Uint32(77777), m.MntId
			return []proto.Message{m, e}
		})),
		bad("with policies of AppArmor", "AppArmor", c.put("checkpoint/apparmor.img", []byte("policy"))),
		bad("with another user namespace", "userns-9.img", c.put("checkpoint/userns-9.img", []byte("xxxxxxxx"))),
		bad("with a file through a link", "no directory", tmpfs(member{name: "./d", kind: tar.TypeSymlink, link: canary}, member{name: "./d/file", body: []byte("x")})),
		bad("with a file that climbs", "leads out", tmpfs(member{name: "./../../" + canary + "/file", body: []byte("x")})),
		bad("with an absolute file", "leads out", tmpfs(member{name: canary + "/file", body: []byte("x")})),
		bad("with a link to the host", "link", tmpfs(member{name: "./l", kind: tar.TypeLink, link: canary + "/file"})),
		bad("with a disk's node", "device node", tmpfs(member{name: "./x", kind: tar.TypeBlock, edit: func(h []byte) { copy(h[329:], "0000010\x000000000\x00") }})),
		bad("with a packed nothing", "tmpfs-dev-", c.put(c.image("tmpfs-dev-"), []byte("\x1f\x8brubbish and more of it"))),
	}
}
