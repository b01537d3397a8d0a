package criu

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pidns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// mountsDir is a directory of images with these mounts below a root.
func mountsDir(t *testing.T, mounts ...*mnt.MntEntry) string {
	t.Helper()
	all := []proto.Message{mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", "/")}
	for _, m := range mounts {
		all = append(all, m)
	}
	return writeSet(t, map[string][]byte{"mountpoints-7.img": encode(t, magicMounts, all...)})
}

// Very many mounts are refused, and those that are not take seconds at most.
func TestManyMounts(t *testing.T) {
	spec := bindSpec("/vol")
	for len(spec.Mounts) < 4*maxMounts {
		spec.Mounts = append(spec.Mounts, spec.Mounts[0])
	}
	many := []*mnt.MntEntry{}
	for id := uint32(2); id <= maxMounts; id++ {
		key := ""
		if id%2 == 0 {
			key = "k" + strconv.Itoa(int(id))
		}
		many = append(many, mount(mnt.Fstype_TMPFS, id, 10, "/vol", key))
	}
	began := time.Now()
	must(t, checkMountImages(mountsDir(t, many...), []string{"mountpoints-7.img"}, CheckOptions{Spec: spec}))
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("%d mounts took %v", maxMounts, took)
	}
	many = append(many, mount(mnt.Fstype_TMPFS, maxMounts+1, 10, "/vol", ""))
	err := checkMountImages(mountsDir(t, many...), []string{"mountpoints-7.img"}, CheckOptions{Spec: spec})
	if !errors.Is(err, archive.ErrRejected) {
		t.Errorf("%d mounts: %v, want a rejection", maxMounts+1, err)
	}
}

func mask(point, key, root string) *mnt.MntEntry {
	m := mount(mnt.Fstype_UNSUPPORTED, 5, 50, point, key)
	m.Root = &root
	return m
}

func TestConfigFile(t *testing.T) {
	dir := mountsDir(t,
		mask("/proc/keys", "/dev/null", "/null"), mask("/proc/timer_list", "/dev/null", "/null"),
		mask("/proc/acpi", "/run/crun/.empty-directory", "/run/crun/.empty-directory"),
		mount(mnt.Fstype_UNSUPPORTED, 6, 60, "/vol", "/vol"),
		mount(mnt.Fstype_UNSUPPORTED, 7, 61, "/vol/sub", "/vol/sub"),
		mount(mnt.Fstype_CGROUP, 8, 62, "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu"),
	)
	must(t, writeDescriptors(dir, []string{devNull, "pipe:[5]", "file[1b:a1]"}))
	spec := bindSpec("/vol")
	spec.Linux.MaskedPaths = []string{"/proc/keys", "/proc/acpi", "/proc/timer_list"}
	got, err := ConfigFile(t.Context(), dir, spec, map[string]string{"/vol/sub": "/data/sub"}, ConfigOptions{
		EmptyDir: "/empty", TCPClose: true, ConsumeImages: true, SkipRWXCheck: true, MountCompat: true, WeakSysctls: true,
		External: []string{"unix[7]"}, Inherit: map[string]int{"socket:[7]": 4}, Lines: []string{"ghost-limit 4096"},
	})
	must(t, err)
	want := `external mnt[/dev/null]:/dev/null
external mnt[/run/crun/.empty-directory]:/empty
external mnt[/vol]:/host/vol
external mnt[/vol/sub]:/data/sub
inherit-fd fd[2]:file[1b:a1]
external unix[7]
inherit-fd fd[4]:socket:[7]
tcp-close
skip-file-rwx-check
mntns-compat-mode
weak-sysctls
auto-dedup
ghost-limit 4096
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestConfigFileRejects(t *testing.T) {
	for name, test := range map[string]struct {
		mounts []*mnt.MntEntry
		opts   ConfigOptions
		want   string
	}{
		"unmapped, all of them": {[]*mnt.MntEntry{mount(mnt.Fstype_AUTO, 3, 12, "/a", "/a"), mount(mnt.Fstype_AUTO, 4, 12, "/b", "/b")}, ConfigOptions{}, `"/a", "/b"`},
		"option in a key":       {[]*mnt.MntEntry{mount(mnt.Fstype_AUTO, 3, 12, "/vol", "x]:/y\naction-script /evil")}, ConfigOptions{}, "direct engine"},
		"one key, two sources":  {[]*mnt.MntEntry{mount(mnt.Fstype_AUTO, 3, 12, "/vol", "k"), mount(mnt.Fstype_AUTO, 4, 12, "/dev/null", "k")}, ConfigOptions{}, "the same key"},
		"end of a quotation":    {[]*mnt.MntEntry{mount(mnt.Fstype_AUTO, 3, 12, "/vol", `x y" --evil "`)}, ConfigOptions{}, "direct engine"},
		"comment in a key":      {[]*mnt.MntEntry{mount(mnt.Fstype_AUTO, 3, 12, "/vol", "x #y")}, ConfigOptions{}, "direct engine"},
		"escape in a key":       {[]*mnt.MntEntry{mount(mnt.Fstype_AUTO, 3, 12, "/vol", `x y\`)}, ConfigOptions{}, "direct engine"},
		"line in an option":     {nil, ConfigOptions{Lines: []string{"a\nb"}}, "control character"},
	} {
		_, err := ConfigFile(t.Context(), mountsDir(t, test.mounts...), bindSpec("/vol"), nil, test.opts)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.want)
		}
	}
	_, err := ConfigFile(t.Context(), mountsDir(t, mount(mnt.Fstype_AUTO, 3, 12, "/a", "/a")), bindSpec(), nil, ConfigOptions{})
	if !errors.Is(err, ErrUnmapped) {
		t.Errorf("error %v, want %v", err, ErrUnmapped)
	}
	dir := mountsDir(t)
	must(t, writeDescriptors(dir, []string{"file[1:2]\naction-script"}))
	if _, err := ConfigFile(t.Context(), dir, &specs.Spec{}, nil, ConfigOptions{}); err == nil {
		t.Error("an option in a descriptor: no error")
	}
}

// What stands for a standard descriptor is given once.
func TestConfigFileInheritsOnce(t *testing.T) {
	dir := mountsDir(t)
	must(t, writeDescriptors(dir, []string{devNull, "file[1b:a1]"}))
	got, err := ConfigFile(t.Context(), dir, bindSpec(), nil, ConfigOptions{Inherit: map[string]int{"file[1b:a1]": 5}})
	must(t, err)
	if want := "inherit-fd fd[5]:file[1b:a1]\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestConfigLine: CRIU's own parser takes what has spaces, and is not lenient with what is written otherwise.
func TestConfigLine(t *testing.T) {
	b := requireReal(t)
	parse := func(config string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "criu.conf")
		must(t, os.WriteFile(path, []byte(config), 0o600))
		// It gives up at the directory of images, behind the configuration.
		out, err := exec.Command(b.Path, "cpuinfo", "check", "--config", path, "--images-dir", "/nonexistent").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "nonexistent") && !strings.Contains(string(out), "configuration") {
			t.Fatalf("%s: %v", out, err)
		}
		return string(out)
	}
	if out := parse("external \"mnt[/with space]:/host/with space\"\n"); !strings.Contains(out, "Unsupported configuration file format") {
		t.Errorf("CRIU has learned to read spaces in a value: %s", out)
	}
	for path, want := range map[string]string{
		"/plain":      "external mnt[/plain]:/plain\n",
		"/ ":          "external \"mnt[/ ]:// \"\n",
		"/with space": "external             \"mnt[/with space]:/with space\"\n",
		"/tab\tand ä": "external             \"mnt[/tab\tand ä]:/tab\tand ä\"\n",
		"/' \\b":      "external     \"mnt[/' \\b]:/' \\b\"\n",
	} {
		must(t, configWord(path))
		got := configLine("external", "mnt["+path+"]:", path)
		if strings.Contains(want, "  ") && strings.Join(strings.Fields(got), " ") == strings.Join(strings.Fields(want), " ") {
			want = got // the number of spaces is CRIU's to judge
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if out := parse(got + "tcp-close\n"); strings.Contains(out, "configuration") {
			t.Errorf("%q: %s", got, out)
		}
	}
}

func TestJoinedNamespaces(t *testing.T) {
	spec := bindSpec()
	spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.NetworkNamespace, Path: "/n"},
		{Type: specs.IPCNamespace, Path: "/i"},
		{Type: specs.TimeNamespace, Path: "/t"},
		{Type: specs.CgroupNamespace, Path: "/c"},
	}
	own := encode(t, magicNetNS, &netdev.NetnsEntry{})
	external := encode(t, magicNetNS, &netdev.NetnsEntry{ExtKey: proto.String("extNet")})
	ipcAndTime := []joinedNamespace{{"ipc", "/i", ""}, {"time", "/t", ""}}
	for name, tt := range map[string]struct {
		image []byte
		key   string
		line  string
	}{
		"own": {own, "", "join-ns net:/n\n"}, "external": {external, "extNet", ""},
	} {
		dir := writeSet(t, map[string][]byte{"netns-9.img": tt.image, "mountpoints-7.img": encode(t, magicMounts)})
		got, err := joinedNamespaces(dir, spec)
		must(t, err)
		if want := append([]joinedNamespace{{"net", "/n", tt.key}}, ipcAndTime...); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
		config, err := ConfigFile(t.Context(), dir, spec, nil, ConfigOptions{})
		must(t, err)
		if string(config) != tt.line {
			t.Errorf("%s: configuration %q, want %q", name, config, tt.line)
		}
	}
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/p"}}
	dir := writeSet(t, map[string][]byte{"pidns-9.img": encode(t, magicPIDNS, &pidns.PidnsEntry{})})
	if _, err := joinedNamespaces(dir, spec); err == nil || !strings.Contains(err.Error(), "PID namespace of its own") {
		t.Errorf("error %v, want that the processes cannot change their PID namespace", err)
	}
	spec.Linux.Namespaces[0].Type = specs.MountNamespace
	if _, err := joinedNamespaces(dir, spec); err == nil {
		t.Error("a mount namespace to join: no error")
	}
}

func TestPrepareMountpoints(t *testing.T) {
	rootfs, file := t.TempDir(), filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(file, nil, 0o600))
	dir := mountsDir(t,
		mount(mnt.Fstype_PROC, 2, 11, "./proc", ""),
		mount(mnt.Fstype_AUTO, 3, 12, "/etc/hosts", "h"),
		mount(mnt.Fstype_AUTO, 4, 12, "/deep/vol", "v"),
	)
	sources := map[string]string{"h": file, "v": t.TempDir()}
	for range 2 { // the second time everything is there
		must(t, PrepareMountpoints(rootfs, dir, sources))
	}
	for name, isDir := range map[string]bool{"proc": true, "etc/hosts": false, "deep/vol": true} {
		if fi, err := os.Lstat(filepath.Join(rootfs, name)); err != nil || fi.IsDir() != isDir {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	// A link that leaves the root file system is not followed.
	outside := t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(rootfs, "out")))
	if err := PrepareMountpoints(rootfs, mountsDir(t, mount(mnt.Fstype_AUTO, 3, 12, "/out/x", "x")), nil); err == nil {
		t.Error("a mount point behind a link to the outside: no error")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside holds %v, %v", entries, err)
	}
}
