package hostile

import (
	"archive/tar"
	"bytes"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// controls have nothing wrong that a restore would be refused for.
func controls(c, proven checkpoint) []sample {
	good := func(name string, archive func() []byte) sample { return sample{name: "good " + name, archive: archive} }
	half := len(c.bytes()) / 2 / block * block
	dot := slices.Clone(c)
	for i := range dot {
		dot[i].name = "./" + dot[i].name
	}
	dot = append(checkpoint{{name: "./", kind: tar.TypeDir}}, dot...)
	directory := c
	if slices.IndexFunc(c, func(m member) bool { return m.name == "checkpoint" || m.name == "checkpoint/" }) < 0 {
		directory = append(checkpoint{{name: "checkpoint/", kind: tar.TypeDir}}, c...)
	}
	return []sample{
		good("as it is", proven.bytes),
		good("without digests", c.bytes),
		good("without config.dump", c.without("config.dump").bytes),
		good("gzip", func() []byte { return packed(proven.bytes()) }),
		good("zstd", func() []byte { return zpacked(proven.bytes()) }),
		good("two members of gzip", func() []byte { return append(packed(c.bytes()[:half]), packed(c.bytes()[half:])...) }),
		good("two frames of zstd", func() []byte { return append(zpacked(c.bytes()[:half]), zpacked(c.bytes()[half:])...) }),
		good("names with a dot", dot.bytes),
		good("with its directory", directory.bytes),
		good("padded", func() []byte { return append(c.bytes(), make([]byte, tarRecord)...) }),
		good("metadata last", append(c.without("config.dump").without("spec.dump"), c[c.find("config.dump")], c[c.find("spec.dump")]).bytes),
		good("modes for all", c.with(member{name: "artifacts/x", edit: func(h []byte) { copy(h[100:], "0006777\x00") }}).bytes),
		good("attributes", c.with(member{name: "artifacts/x", pax: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff", "SCHILY.xattr.trusted.overlay.opaque": "y"}}).bytes),
		good("further members", c.with(member{name: "artifacts/notes", body: []byte("x")}, member{name: "ctr.log", body: []byte("\x1b[31mlog\x1b[0m\n")}).bytes),
		good("an unknown image", c.with(member{name: "checkpoint/evil-1.img", body: []byte("rubbish")}).bytes),
		good("unknown fields", c.document("config.dump", func(v map[string]any) { v["fromTheFuture"] = map[string]any{"x": 1} }).bytes),
		good("a name of control characters", c.document("config.dump", func(v map[string]any) { v["name"] = "x\x1b[2J\n\u009b\u202ey" }).bytes),
		good("an image of somewhere else", c.document("config.dump", func(v map[string]any) { v["rootfsImageName"] = "\x1b]0;evil.example.com/x:y\x07" }).bytes),
		good("a time far away", c.document("config.dump", func(v map[string]any) { v["createdTime"] = "9999-12-31T23:59:59.999999999Z" }).bytes),
		good("a member of strange bytes", c.with(member{name: "artifacts/\x1b[2J"}).bytes),
		good("labels", c.spec(func(s *specs.Spec) {
			s.Process.SelinuxLabel, s.Linux.MountLabel, s.Process.ApparmorProfile = "spc_t", "x", "unconfined"
		}).bytes),
		good("a cgroup that climbs", c.spec(func(s *specs.Spec) { s.Linux.CgroupsPath = "/../../x" }).bytes),
		good("the ipc namespace of a process", c.spec(func(s *specs.Spec) { // in whose place it gets a new one
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == specs.IPCNamespace {
					s.Linux.Namespaces[i].Path = "/proc/1/ns/ipc"
				}
			}
		}).bytes),
		good("annotations for runtimes", c.spec(func(s *specs.Spec) {
			s.Annotations = map[string]string{"org.criu.config": "/etc/passwd", "run.oci.handler": "wasm", "org.systemd.property.ExecStopPost": "['/bin/false']", "\x1b[2J": "\x1b[2J"}
		}).bytes),
		good("a long annotation", c.spec(func(s *specs.Spec) { s.Annotations = map[string]string{"x": strings.Repeat("x", 1<<20)} }).bytes),
		good("spared when memory is short", c.spec(func(s *specs.Spec) { score := -1000; s.Process.OOMScoreAdj = &score }).bytes),
		good("no filter in its configuration", c.spec(func(s *specs.Spec) { s.Linux.Seccomp = nil }).bytes),
		good("packed changes", c.put("rootfs-diff.tar", packed(c.body("rootfs-diff.tar"))).bytes),
		good("no changes", c.put("rootfs-diff.tar", checkpoint{}.bytes()).bytes),
		good("links of a root file system", c.put("rootfs-diff.tar", addTo(c.body("rootfs-diff.tar"),
			member{name: "run/app", kind: tar.TypeDir}, member{name: "lnk", kind: tar.TypeSymlink, link: "/run"}, member{name: "lnk/app/file", body: []byte("x")},
			member{name: "etc/localtime", kind: tar.TypeSymlink, link: "/usr/share/zoneinfo/UTC"}, member{name: "/absolute", body: []byte("x")},
			member{name: "set-uid", body: []byte("x"), edit: func(h []byte) { copy(h[100:], "0004755\x00") }},
		)).bytes),
		good("link to the host and a file through it", c.put("rootfs-diff.tar", addTo(c.body("rootfs-diff.tar"),
			member{name: "way", kind: tar.TypeSymlink, link: "/tmp"}, member{name: "way/file", body: []byte("x")},
		)).bytes),
		good("deletion through a link", c.put("rootfs-diff.tar", addTo(c.body("rootfs-diff.tar"), member{name: "way", kind: tar.TypeSymlink, link: "/tmp"})).
			put("deleted.files", []byte(`["way/nothing", "/way/../x"]`[:len(`["way/nothing"`)]+"]")).bytes),
	}
}

// addTo puts entries before the end of a tar.
func addTo(archive []byte, members ...member) []byte {
	open := bytes.TrimRight(archive, "\x00")
	open = archive[:(len(open)+block-1)/block*block]
	return append(append(slices.Clone(open), checkpoint(members).open()...), make([]byte, 2*block)...)
}
