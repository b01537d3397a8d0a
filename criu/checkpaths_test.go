package criu

import (
	"archive/tar"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fh"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fsnotify"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	remap_file_path "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	sk_unix "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-unix"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// named is an open file of number 9.
func named(name string) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(9), Reg: &regfile.RegFileEntry{Id: proto.Uint32(9), Name: &name}}
}

// bound is a mount of a part of what another one shows.
func bound(of *mnt.MntEntry, root, point string) *mnt.MntEntry {
	m := proto.CloneOf(of)
	m.MntId, m.Root, m.Mountpoint, m.ExtKey = proto.Uint32(99), &root, &point, nil
	return m
}

// socketAt is a unix socket with a name in a directory.
func socketAt(dir, name string) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_UNIXSK.Enum(), Id: proto.Uint32(9), Usk: &sk_unix.UnixSkEntry{Name: []byte(name), NameDir: &dir}}
}

func TestCheckPaths(t *testing.T) {
	base := t.TempDir()
	rootfs, volume := filepath.Join(base, "rootfs"), filepath.Join(base, "volume")
	for _, dir := range []string{filepath.Join(rootfs, "bin"), volume} {
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "sh"), nil, 0o755))
		must(t, os.Symlink("/etc", filepath.Join(dir, "out")))
	}
	root, proc := mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", ""), mount(mnt.Fstype_PROC, 2, 11, "/proc", "")
	dev, vol := mount(mnt.Fstype_TMPFS, 3, 13, "/dev", ""), mount(mnt.Fstype_AUTO, 4, 14, "/vol", "/vol")
	given, hosts := mount(mnt.Fstype_AUTO, 5, 15, "/given", "/given"), mount(mnt.Fstype_AUTO, 6, 16, "/hosts", "/hosts")
	spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/given", Type: "bind", Source: volume}, {Destination: "/hosts", Type: "bind", Source: "/etc/hosts"}}}
	for name, test := range map[string]struct {
		file *fdinfo.FileEntry
		more *mnt.MntEntry
		rule string // empty: accepted
	}{
		"program":                       {file: named("/bin/sh")},
		"file that is not there":        {file: named("/tmp/log")},
		"link":                          {file: named("/bin/out"), rule: "symbolic link"},
		"through a link":                {file: named("/bin/out/passwd"), rule: "symbolic link"},
		"through a link in a volume":    {file: named("/vol/out/passwd"), rule: "symbolic link"},
		"through a link in a bind":      {file: named("/given/out/passwd"), rule: "symbolic link"},
		"file of a volume":              {file: named("/vol/sh")},
		"below a file that is bound":    {file: named("/hosts/x")},
		"node":                          {file: named("/dev/null")},
		"link in /dev":                  {file: named("/dev/fd/3"), rule: "symbolic link"},
		"above":                         {file: named("/bin/../../x"), rule: "leads out"},
		"without a slash":               {file: named("x/y"), rule: "leads out"},
		"no name":                       {file: named(""), rule: "leads out"},
		"state of a task":               {file: named("/proc/1/status")},
		"descriptors of a task":         {file: named("/proc/1/fd")},
		"descriptor of a task":          {file: named("/proc/1/fd/3"), rule: "has open"},
		"descriptor of a thread":        {file: named("/proc/1/task/1/fd/3"), rule: "has open"},
		"root of a task":                {file: named("/proc/1/root"), rule: "has open"},
		"directory of whoever opens it": {file: named("/proc/self/status"), rule: "has open"},
		"kernel's state":                {file: named("/proc/sys/kernel/hostname")},
		"socket":                        {file: socketAt("/bin", "socket")},
		"socket by a link":              {file: socketAt("/bin/out", "socket"), rule: "symbolic link"},
		"socket above":                  {file: socketAt("/", "../socket"), rule: "leads out"},
		"abstract socket":               {file: socketAt("", "\x00../socket")},
		"part of the root":              {file: named("/bin/sh"), more: bound(root, "/bin", "/mnt")},
		"part by a link":                {file: named("/bin/sh"), more: bound(root, "/bin/out", "/mnt"), rule: "symbolic link"},
		"part of a volume by a link":    {file: named("/bin/sh"), more: bound(vol, "/out/x", "/mnt"), rule: "symbolic link"},
		"part of /dev":                  {file: named("/mnt/file"), more: bound(dev, "/shm", "/mnt")},
		"part of /dev by a link":        {file: named("/bin/sh"), more: bound(dev, "/fd/3", "/mnt"), rule: "symbolic link"},
		"file in a part of a link":      {file: named("/mnt/3"), more: bound(dev, "/fd", "/mnt"), rule: "symbolic link"},
		"descriptor in a part of /proc": {file: named("/mnt/fd/3"), more: bound(proc, "/1", "/mnt"), rule: "has open"},
	} {
		t.Run(name, func(t *testing.T) {
			mounts := []proto.Message{root, proc, dev, vol, given, hosts}
			if test.more != nil {
				mounts = append(mounts, test.more)
			}
			dir := writeSet(t, map[string][]byte{
				"mountpoints-7.img": encode(t, magicMounts, mounts...), "files.img": encode(t, magicFiles, test.file),
				"tmpfs-dev-13.tar.gz.img": tmpfs(t, dir("./"), file("./null"), link(tar.TypeSymlink, "./fd", "/proc/self/fd")),
			})
			err := CheckPaths(t.Context(), dir, spec, rootfs, map[string]string{"/vol": volume})
			if test.rule == "" {
				must(t, err)
				return
			}
			if !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), test.rule) {
				t.Errorf("error %v, want a rejection that says %q", err, test.rule)
			}
		})
	}
}

// TestCheckPathsRootOfType: a part of the root file system is one whatever type the images say of both.
func TestCheckPathsRootOfType(t *testing.T) {
	rootfs := t.TempDir()
	must(t, os.Mkdir(filepath.Join(rootfs, "bin"), 0o755))
	must(t, os.Symlink("/etc", filepath.Join(rootfs, "out")))
	for _, typ := range []mnt.Fstype{mnt.Fstype_TMPFS, mnt.Fstype_PROC, mnt.Fstype_AUTO} {
		for part, accepted := range map[string]bool{"/bin": true, "/out": false} {
			root := mount(typ, 1, 10, "/", "")
			dir := writeSet(t, map[string][]byte{
				"mountpoints-7.img": encode(t, magicMounts, root, bound(root, part, "/mnt")), "files.img": encode(t, magicFiles, named("/bin/sh")),
			})
			if err := CheckPaths(t.Context(), dir, &specs.Spec{}, rootfs, nil); (err == nil) != accepted {
				t.Errorf("%s of a root of type %s: error %v", part, typ, err)
			}
		}
	}
}

// TestCheckPathsReplaced: another file may have the name of one that was deleted, and be a link.
func TestCheckPathsReplaced(t *testing.T) {
	rootfs := t.TempDir()
	must(t, os.Symlink("lib.so.2", filepath.Join(rootfs, "lib.so")))
	must(t, os.Symlink("/etc", filepath.Join(rootfs, "out")))
	remap := encode(t, magicRemaps, &remap_file_path.RemapFilePathEntry{OrigId: proto.Uint32(9), RemapId: proto.Uint32(1)})
	for name, accepted := range map[string]bool{"/lib.so": true, "/out/lib.so": false} {
		dir := writeSet(t, map[string][]byte{
			"mountpoints-7.img": encode(t, magicMounts, mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", "")),
			"files.img":         encode(t, magicFiles, named(name)), "remap-fpath.img": remap,
		})
		if err := CheckPaths(t.Context(), dir, &specs.Spec{}, rootfs, nil); (err == nil) != accepted {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// watching is an inotify descriptor.
func watching(path string) *fdinfo.FileEntry {
	handle := &fh.FhEntry{}
	if path != "" {
		handle.Path = &path
	}
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_INOTIFY.Enum(), Id: proto.Uint32(1), Ify: &fsnotify.InotifyFileEntry{Wd: []*fsnotify.InotifyWdEntry{{FHandle: handle}}}}
}

func TestCheckRejectsFiles(t *testing.T) {
	for name, test := range map[string]struct {
		change map[string][]byte
		rule   string
	}{
		"name that leads out":    {map[string][]byte{FilesImage: encode(t, magicFiles, named("/../x"))}, "leads out"},
		"images of old":          {map[string][]byte{"unixsk.img": []byte("xxxxxxxx")}, "old versions"},
		"events of all files":    {map[string][]byte{FilesImage: encode(t, magicFiles, &fdinfo.FileEntry{Type: fdinfo.FdTypes_FANOTIFY.Enum(), Id: proto.Uint32(1)})}, "CAP_SYS_ADMIN"},
		"events, hidden":         {map[string][]byte{FilesImage: encode(t, magicFiles, &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(1), Ffy: &fsnotify.FanotifyFileEntry{}})}, "CAP_SYS_ADMIN"},
		"watched file by number": {map[string][]byte{FilesImage: encode(t, magicFiles, watching(""))}, "its number"},
		"watched file by name":   {map[string][]byte{FilesImage: encode(t, magicFiles, watching("/x"))}, ""},
		"programs' data":         {map[string][]byte{FilesImage: encode(t, magicFiles, &fdinfo.FileEntry{Type: fdinfo.FdTypes_BPFMAP.Enum(), Id: proto.Uint32(1)})}, "CAP_BPF"},
		"empty images of old":    {map[string][]byte{"unixsk.img": nil}, ""},
		"a file as it is":        {map[string][]byte{FilesImage: encode(t, magicFiles, named("/x"))}, ""},
		"the key of something":   {map[string][]byte{FilesImage: encode(t, magicFiles, &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(1), Reg: &regfile.RegFileEntry{Name: proto.String("file[1b:3]"), Ext: proto.Bool(true)}})}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			set := confinedSet(t)
			maps.Copy(set, test.change)
			spec := confinedSpec()
			spec.Process.Capabilities.Bounding = []string{"CAP_CHOWN"}
			_, err := Check(t.Context(), writeSet(t, set), CheckOptions{Spec: spec})
			if test.rule == "" {
				must(t, err)
				return
			}
			if !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), test.rule) {
				t.Errorf("error %v, want a rejection that says %q", err, test.rule)
			}
		})
	}
}

// FuzzPaths: a name that is accepted means a file of the container to whoever opens it with the root file system as a part of
// a path, which is how CRIU does it.
func FuzzPaths(f *testing.F) {
	for _, name := range []string{"/bin/sh", "/link/passwd", "/../x", "/./link", "x../..", "/bin/../link", "//link//x"} {
		f.Add(name)
	}
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		f.Setenv("TMPDIR", "/dev/shm")
	}
	base := f.TempDir()
	rootfs := filepath.Join(base, "rootfs")
	must(f, os.MkdirAll(filepath.Join(rootfs, "bin/d"), 0o755))
	must(f, os.WriteFile(filepath.Join(rootfs, "bin/sh"), nil, 0o755))
	for at, to := range map[string]string{"link": "/etc", "bin/up": "../..", "bin/d/l": "/"} {
		must(f, os.Symlink(to, filepath.Join(rootfs, at)))
	}
	dir := writeSet(f, map[string][]byte{"mountpoints-7.img": encode(f, magicMounts, mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", ""))})
	f.Fuzz(func(t *testing.T, name string) {
		if !utf8.ValidString(name) {
			t.Skip("no image holds it")
		}
		must(t, os.WriteFile(filepath.Join(dir, "files.img"), encode(t, magicFiles, named(name)), 0o600))
		if err := CheckPaths(t.Context(), dir, &specs.Spec{}, rootfs, nil); err != nil {
			if !errors.Is(err, archive.ErrRejected) {
				t.Errorf("%q: %v, want a rejection", name, err)
			}
			return
		}
		if at, err := filepath.EvalSymlinks(rootfs + "/" + name[1:]); err == nil && !isBelow(at, rootfs) {
			t.Errorf("%q is accepted, and is %s", name, at)
		}
	})
}
