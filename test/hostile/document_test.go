package hostile

import (
	"archive/tar"
	"bytes"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// documents have something wrong with the metadata.
func documents(c, proven checkpoint) []sample {
	all := func(name, says string, c checkpoint) sample {
		return sample{name: "metadata " + name, read: rejected, restore: rejected, says: says, archive: c.bytes}
	}
	// The digests of all members go through with them.
	forged := func(name, says string, c checkpoint) sample {
		s := all(name, says, c)
		s.late = true
		return s
	}
	// What it is a checkpoint of is not said: a mistake of who names it.
	bare := sample{name: "metadata without spec.dump", read: usage, restore: usage, says: "bare images", archive: c.without("spec.dump").bytes}
	directory := c.without("spec.dump").with(member{name: "spec.dump", kind: tar.TypeDir})
	list := []sample{bare, {name: "metadata that are a directory", read: usage, restore: usage, says: "bare images", archive: directory.bytes}}
	for _, name := range []string{"config.dump", "spec.dump"} {
		body := c.body(name)
		list = append(list,
			all("empty "+name, name, c.put(name, nil)),
			all("cut "+name, name, c.put(name, body[:len(body)/2])),
			all("null "+name, name, c.put(name, []byte("null"))),
			all("list "+name, name, c.put(name, []byte("[]"))),
			all("deep "+name, name, c.put(name, bytes.Repeat([]byte("["), 1_000_000))),
			all("two values "+name, name, c.put(name, append(body, "{}"...))),
			all("bytes "+name, name, c.document(name, func(map[string]any) {}).put(name, append([]byte("{\"x\": \"\xff\xfe\","), c.document(name, func(map[string]any) {}).body(name)[1:]...))),
			all("key twice "+name, name, c.put(name, append([]byte(`{"X": 1, "x": 2,`), c.document(name, func(map[string]any) {}).body(name)[1:]...))),
			all("too large "+name, name, c.put(name, append([]byte(`{"x": "`+strings.Repeat("x", 32<<20)+`",`), c.document(name, func(map[string]any) {}).body(name)[1:]...))),
		)
	}
	list = append(list,
		all("id that is a number", "config.dump", c.document("config.dump", func(v map[string]any) { v["id"] = 1 })),
		all("args that are a number", "spec.dump", c.document("spec.dump", func(v map[string]any) { v["process"] = map[string]any{"args": 1} })),
		forged("member that is missing", "checkpoint/", proven.without(proven.image("pages-"))),
		forged("member that is not listed", "artifacts/x", proven.with(member{name: "artifacts/x", body: []byte("x")})),
		forged("member that was changed", "rootfs-diff.tar", proven.put("rootfs-diff.tar", append(proven.body("rootfs-diff.tar"), make([]byte, tarRecord)...))),
		forged("image that was changed", "core-", flipped(proven, "core-")),
		forged("memory that was changed", "pages-", flipped(proven, "pages-")),
		all("format of the future", "format version 99", proven.document("ckarchive.json", func(v map[string]any) { v["formatVersion"] = 99 })),
		all("listed twice", "twice", proven.document("ckarchive.json", func(v map[string]any) {
			members, _ := v["members"].([]any)
			v["members"] = append(members, members[0])
		})),
		all("listed outside", "member name", proven.document("ckarchive.json", func(v map[string]any) {
			members, _ := v["members"].([]any)
			v["members"] = append(members, map[string]any{"name": "../x", "size": 0, "sha256": strings.Repeat("0", 64)})
		})),
		all("digest that is none", "digest", proven.document("ckarchive.json", func(v map[string]any) {
			members, _ := v["members"].([]any)
			first, _ := members[0].(map[string]any)
			first["sha256"] = "../../x"
		})),
	)
	return list
}

const tarRecord = 10240

func flipped(c checkpoint, prefix string) checkpoint {
	name := c.image(prefix)
	body := c.body(name)
	body[len(body)-1] ^= 1
	return c.put(name, body)
}

// configurations ask for what was not granted.
func configurations(c checkpoint, canary string) []sample {
	ask := func(name, says string, edit func(*specs.Spec)) sample {
		return sample{name: "asks for " + name, restore: refused, says: says, archive: func() []byte { return c.spec(edit).bytes() }}
	}
	evil := []specs.Hook{{Path: "/bin/touch", Args: []string{"touch", canary + "/new"}}}
	hook := func(name string, h specs.Hooks) sample {
		return ask("a hook "+name, "--allow-hooks", func(s *specs.Spec) { s.Hooks = &h })
	}
	mount := func(name, says string, m specs.Mount) sample {
		return ask(name, says, func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) })
	}
	without := func(t specs.LinuxNamespaceType, says string) sample {
		return ask("the host's "+string(t)+" namespace", says, func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
		})
	}
	joined := func(t specs.LinuxNamespaceType) sample {
		return ask("the "+string(t)+" namespace of a process", "--namespace "+string(t), func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == t {
					s.Linux.Namespaces[i].Path = "/proc/1/ns/" + string(t)
				}
			}
		})
	}
	list := []sample{
		hook("before all", specs.Hooks{Prestart: evil}), hook("at the creation", specs.Hooks{CreateRuntime: evil}), hook("in the container", specs.Hooks{CreateContainer: evil}),
		hook("before the start", specs.Hooks{StartContainer: evil}), hook("after the start", specs.Hooks{Poststart: evil}), hook("after the end", specs.Hooks{Poststop: evil}),
		mount("a directory of the host", "--map-mount /x", specs.Mount{Destination: "/x", Type: "bind", Source: canary, Options: []string{"rbind"}}),
		mount("a hidden directory of the host", "--map-mount /x", specs.Mount{Destination: "/x", Type: "none", Source: canary, Options: []string{"bind"}}),
		mount("an overlay of the host", "overlay", specs.Mount{Destination: "/x", Type: "overlay", Options: []string{"lowerdir=/"}}),
		mount("a disk", "ext4", specs.Mount{Destination: "/x", Type: "ext4", Source: "/dev/vda"}),
		mount("a mount outside", "/x/../../y", specs.Mount{Destination: "/x/../../y", Type: "tmpfs"}),
		mount("a mount at a relative place", "mount", specs.Mount{Destination: "x", Type: "tmpfs"}),
		mount("a writable /sys", "paths:unmasked", specs.Mount{Destination: "/x", Type: "sysfs"}),
		without(specs.PIDNamespace, "pid namespace"), without(specs.MountNamespace, "mount namespace"), without(specs.NetworkNamespace, "host:network"),
		without(specs.IPCNamespace, "host:ipc"), without(specs.UTSNamespace, "host:uts"),
		joined(specs.PIDNamespace), joined(specs.NetworkNamespace), joined(specs.MountNamespace),
		ask("a disk's node", "--allow device:/dev/vda", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/vda", Type: "b", Major: 254}}
		}),
		ask("all devices", "--allow device:a:*:*", func(s *specs.Spec) {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
		}),
		ask("a filter of somebody else", "seccomp", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActNotify, ListenerPath: canary + "/socket"}
		}),
		ask("a shared root", "mount:shared", func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" }),
		ask("a kernel parameter", "sysctl:kernel.core_pattern", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|" + canary} }),
		ask("open paths", "paths:unmasked", func(s *specs.Spec) { s.Linux.ReadonlyPaths = nil }),
		ask("visible paths", "paths:unmasked", func(s *specs.Spec) { s.Linux.MaskedPaths = nil }),
		ask("a later specification", "ociVersion", func(s *specs.Spec) { s.Version = "99.0.0" }),
		ask("a name of control characters", "mount", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x\x1b[2J\n\u009b\u202e", Type: "bind", Source: "\x07\x1b]0;x\x07", Options: []string{"bind"}})
		}),
		ask("a terminal", "console-socket", func(s *specs.Spec) { s.Process.Terminal = true }),
	}
	for _, name := range []string{"SYS_ADMIN", "SYS_MODULE", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "BPF"} {
		list = append(list, ask("the capability "+name, "--allow cap:"+name, func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_"+name)
		}))
	}
	for name, edit := range map[string]func(*specs.Spec){
		"process": func(s *specs.Spec) { s.Process = nil }, "root": func(s *specs.Spec) { s.Root = nil }, "linux": func(s *specs.Spec) { s.Linux = nil },
	} {
		list = append(list, sample{name: "configuration without " + name, restore: rejected, says: "no root, process or linux", archive: func() []byte { return c.spec(edit).bytes() }})
	}
	return list
}

// rootFileSystems have something wrong with what changed in the root file system.
func rootFileSystems(c checkpoint, canary string) []sample {
	diff := func(name, says string, members ...member) sample {
		return sample{name: "root file system " + name, restore: rejected, says: says, late: true, archive: c.put("rootfs-diff.tar", checkpoint(members).bytes()).bytes}
	}
	file := func(name string) member { return member{name: name, body: []byte("x")} }
	symlink := func(name, to string) member { return member{name: name, kind: tar.TypeSymlink, link: to} }
	hardlink := func(name, to string) member { return member{name: name, kind: tar.TypeLink, link: to} }
	// Device nodes can be granted.
	node := func(s sample) sample {
		s.restore = refused
		return s
	}
	whole := c.body("rootfs-diff.tar")
	return []sample{
		diff("that climbs", "..", file("../new")),
		diff("that climbs far", "..", file("a/../../../"+canary+"/new")),
		diff("with a link to the host", "hard link", hardlink("x", canary+"/file")),
		diff("with a link that climbs", "hard link", hardlink("x", "../../../"+canary+"/file")),
		diff("with a link through a link", "hard link", symlink("s", canary), hardlink("x", "s/file")),
		diff("with a whiteout of its parent", "whiteout", file("etc/.wh...")),
		diff("with a whiteout of itself", "whiteout", file("etc/.wh..")),
		diff("with a whiteout of nothing", "whiteout", file("etc/.wh.")),
		node(diff("with a disk's node", "--allow device:/x", member{name: "x", kind: tar.TypeBlock, edit: func(h []byte) { copy(h[329:], "0000010\x000000000\x00") }})),
		node(diff("with memory's node", "--allow device:/x", member{name: "x", kind: tar.TypeChar, edit: func(h []byte) { copy(h[329:], "0000001\x000000001\x00") }})),
		diff("with a root that is a link", "root", symlink("./", canary)),
		diff("with an unknown type", "type", member{name: "x", kind: 'V', body: []byte("x")}),
		{name: "root file system that is cut", restore: rejected, says: "cut off", late: true, archive: c.put("rootfs-diff.tar", whole[:len(whole)-1024]).bytes},
		{name: "root file system of rubbish", restore: rejected, late: true, archive: c.put("rootfs-diff.tar", bytes.Repeat([]byte("x"), 4096)).bytes},
		{name: "deletion of the root", restore: rejected, says: "root", late: true, archive: c.put("deleted.files", []byte(`["/"]`)).bytes},
		{name: "deletion of a dot", restore: rejected, says: "root", late: true, archive: c.put("deleted.files", []byte(`["."]`)).bytes},
		{name: "deletion of nothing", restore: rejected, says: "root", late: true, archive: c.put("deleted.files", []byte(`[""]`)).bytes},
		{name: "deletion outside", restore: rejected, says: "..", late: true, archive: c.put("deleted.files", []byte(`["../../../`+canary+`/file"]`)).bytes},
		{name: "deletions without end", restore: rejected, says: "deleted.files", late: true, archive: c.put("deleted.files", bytes.Repeat([]byte("["), 17<<20)).bytes},
		{name: "deletions that are no list", restore: rejected, says: "deleted.files", late: true, archive: c.put("deleted.files", []byte(`{"a": 1}`)).bytes},
	}
}
