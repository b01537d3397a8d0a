package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// confinement is what the kernel says of a process.
type confinement struct {
	bounding, permitted, effective uint64
	noNewPrivs, seccomp, filters   int
	oomScore                       string
	own                            []string // the namespaces that are not this process's
	readonly                       []string // the mount points that are
	mounts                         []string // all mount points, with type and options
	cgroup                         string
}

// confined reads it from /proc.
func (c *container) confined() confinement {
	c.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", c.pid)
	status := map[string]string{}
	for line := range strings.Lines(readFile(c.t, proc+"status")) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	number := func(key string, base int) uint64 {
		n, err := strconv.ParseUint(status[key], base, 64)
		if err != nil {
			c.t.Fatalf("%s of %s: %v", key, c.id, err)
		}
		return n
	}
	is := confinement{
		bounding: number("CapBnd", 16), permitted: number("CapPrm", 16), effective: number("CapEff", 16),
		noNewPrivs: int(number("NoNewPrivs", 10)), seccomp: int(number("Seccomp", 10)), filters: int(number("Seccomp_filters", 10)),
		oomScore: strings.TrimSpace(readFile(c.t, proc+"oom_score_adj")), cgroup: readFile(c.t, proc+"cgroup"),
	}
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} { // CRIU restores into a time namespace always: the clocks go on
		theirs, err := os.Readlink(proc + "ns/" + ns)
		if err != nil {
			c.t.Fatal(err)
		}
		if ours, err := os.Readlink("/proc/self/ns/" + ns); err != nil || theirs != ours {
			is.own = append(is.own, ns)
		}
	}
	for line := range strings.Lines(readFile(c.t, proc+"mountinfo")) {
		fields := strings.Fields(line)
		is.mounts = append(is.mounts, strings.Join([]string{fields[4], fields[slices.Index(fields, "-")+1], fields[5]}, " "))
		if slices.Contains(strings.Split(fields[5], ","), "ro") {
			is.readonly = append(is.readonly, fields[4])
		}
	}
	slices.Sort(is.mounts)
	slices.Sort(is.readonly)
	return is
}

// capabilityBits are the capabilities that Spec gives: KILL, NET_BIND_SERVICE, AUDIT_WRITE.
const capabilityBits = 1<<5 | 1<<10 | 1<<29

// A container that comes from elsewhere is as confined as one of an unknown image, without any flag; at home
// it is what it was.
func TestConfinement(t *testing.T) {
	one, two := newHost(t), newHost(t)
	c := one.start("c", counts("--children", "2"))
	was := c.confined()
	if was.filters != 0 || was.bounding != capabilityBits {
		t.Fatalf("the container is %+v before", was)
	}
	path := c.export("c.tar.zst", "--leave-running", "--base", one.built.base)
	base := two.copyBase(two.path("base"))
	for _, engine := range []string{"runtime", "direct"} {
		r := two.restore(engine, path, "--engine", engine, "--base", base)
		r.awaitTicks(3)
		want := was
		want.seccomp, want.filters = 2, 1
		want.cgroup = r.confined().cgroup
		if got := r.confined(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: restored it is %+v, want %+v", engine, got, want)
		}
		if !strings.Contains(want.cgroup, r.id) {
			t.Errorf("%s: it is in the cgroups %s", engine, want.cgroup)
		}
		// The next generation gets no second filter, and the tasks below have one too.
		again := two.restore("again-"+engine, r.export("again-"+engine+".tar", "--base", base), "--engine", engine, "--base", base)
		again.awaitTicks(3)
		if got := again.confined(); got.filters != 1 {
			t.Errorf("%s: %d filters after the second restore", engine, got.filters)
		}
		for _, child := range strings.Fields(readFile(t, fmt.Sprintf("/proc/%d/task/%d/children", again.pid, again.pid))) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				t.Fatal(err)
			}
			child := &container{t: t, h: two, id: "child", pid: pid}
			if got := child.confined(); got.seccomp != 2 || got.filters != 1 {
				t.Errorf("%s: a child is %+v", engine, got)
			}
		}
		h := one.restore("home-"+engine, path, "--engine", engine, "--base", one.built.base)
		if got := h.confined(); got.filters != 0 || got.bounding != was.bounding {
			t.Errorf("%s: at home it is %+v", engine, got)
		}
	}
}

// privileged asks for more than engines give.
func privileged() env.BundleOptions {
	opts := counts()
	opts.HostNetwork = true
	opts.Edit = func(s *specs.Spec) {
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
			*set = append(slices.Clone(*set), "CAP_NET_ADMIN", "CAP_SYS_ADMIN")
		}
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		score := 5
		s.Process.OOMScoreAdj = &score
	}
	return opts
}

// What goes beyond the defaults is refused, all of it at once, and each grant gives what it names.
func TestGrants(t *testing.T) {
	one, two := newHost(t), newHost(t)
	c := one.start("c", privileged())
	was := c.confined()
	path := c.export("c.tar", "--leave-running", "--base", one.built.base)
	base := two.copyBase(two.path("base"))
	grants := []string{"--allow", "cap:NET_ADMIN", "--allow", "cap:SYS_ADMIN", "--allow", "paths:unmasked", "--allow", "host:network"}
	two.restoreRefused("no", []string{"--base", base, path}, 5,
		"--allow cap:NET_ADMIN", "--allow cap:SYS_ADMIN", "--allow paths:unmasked", "--allow host:network")
	for i := 0; i < len(grants); i += 2 {
		less := slices.Delete(slices.Clone(grants), i, i+2)
		o := two.restoreRefused("less", append(less, "--base", base, path), 5, grants[i]+" "+grants[i+1])
		if strings.Count(o.stderr, "(--allow") != 1 {
			t.Errorf("without %s: %s", grants[i+1], o)
		}
	}
	policy := two.path("policy.json")
	writeFile(t, policy, `{"allow": ["cap:NET_ADMIN", "cap:SYS_ADMIN", "cap:BPF", "paths:unmasked", "host:network", "seccomp:unconfined"]}`)
	for _, engine := range []string{"runtime", "direct"} {
		r := two.restore(engine, path, append(grants, "--engine", engine, "--base", base)...)
		got := r.confined()
		if got.bounding != was.bounding || got.effective != was.effective || got.filters != 1 ||
			slices.Contains(got.own, "net") || slices.Contains(got.readonly, "/proc/sys") || got.oomScore != "5" {
			t.Errorf("%s: with grants it is %+v, want %+v with a filter", engine, got, was)
		}
		f := two.restore("file-"+engine, path, "--policy", policy, "--engine", engine, "--base", base)
		want := was
		want.cgroup = f.confined().cgroup
		if got := f.confined(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: with the policy it is %+v, want %+v", engine, got, want)
		}
	}
	said := decode[struct{ Granted []string }](two.restoreJSON("said", path, append(grants, "--base", base)...))
	if want := []string{"cap:NET_ADMIN", "cap:SYS_ADMIN", "host:network", "paths:unmasked"}; !slices.Equal(slices.Sorted(slices.Values(said.Granted)), want) {
		t.Errorf("granted %q, want %q", said.Granted, want)
	}
	two.ok(append(append([]string{"restore", "--dry-run"}, grants...), "--base", base, path)...)
	if err := os.Chmod(policy, 0o666); err != nil {
		t.Fatal(err)
	}
	two.restoreRefused("anybody", []string{"--policy", policy, "--base", base, path}, 5, "changed by others")
	two.restoreRefused("typo", []string{"--allow", "cap:EVERYTHING", "--base", base, path}, 2, "cap:EVERYTHING")
}

// What a container has around it is what was granted and nothing else: namespaces of the host, one by a path, a
// directory, a device, a cgroup.
func TestGrantedSurroundings(t *testing.T) {
	one, two := newHost(t), newHost(t)
	volume, other := one.path("volume"), two.path("other")
	for _, dir := range []string{volume, other} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	opts := with(counts(), env.Bind(volume, "/vol"))
	opts.Edit = func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.UTSNamespace || n.Type == specs.IPCNamespace
		})
		s.Hostname = ""
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
		major, minor := int64(10), int64(229)
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"})
	}
	c := one.start("c", opts)
	was := c.confined()
	if slices.Contains(was.own, "uts") || slices.Contains(was.own, "ipc") {
		t.Fatalf("the container is %+v before", was)
	}
	path := c.export("c.tar.zst", "--leave-running", "--base", one.built.base)
	base := two.copyBase(two.path("base"))
	grants := []string{"--map-mount", "/vol=" + other, "--allow", "host:ipc", "--allow", "host:uts", "--allow", "device:/dev/fuse"}
	two.restoreRefused("no", []string{"--base", base, path}, 5, "--map-mount", "--allow host:ipc", "--allow host:uts", "--allow device:/dev/fuse")
	const group = "/ckarchive-test/"
	t.Cleanup(func() {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + group)
		for _, dir := range append(dirs, "/sys/fs/cgroup"+group) {
			_ = os.Remove(dir) // it may be of one hierarchy
		}
	})
	for _, engine := range []string{"runtime", "direct"} {
		name := "granted-" + engine
		cgroup := group + two.id(name)
		r := two.restore(name, path, append(slices.Clone(grants), "--cgroup-path", cgroup, "--engine", engine, "--base", base)...)
		r.awaitTicks(3)
		got, want := r.confined(), was
		want.seccomp, want.filters, want.cgroup = 2, 1, got.cgroup
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: restored it is %+v, want %+v", engine, got, want)
		}
		for line := range strings.Lines(got.cgroup) {
			controllers, at, _ := strings.Cut(strings.TrimSpace(line[strings.Index(line, ":")+1:]), ":")
			if strings.Contains(controllers, "memory") && at != cgroup {
				t.Errorf("%s: its cgroup of %s is %s, want %s", engine, controllers, at, cgroup)
			}
		}
		if device := readDevice(t, fmt.Sprintf("/proc/%d/root/dev/fuse", r.pid)); device != "c 10:229" {
			t.Errorf("%s: /dev/fuse is %s", engine, device)
		}
		if err := os.WriteFile(filepath.Join(other, engine), nil, 0o600); err != nil || !exists(t, fmt.Sprintf("/proc/%d/root/vol/%s", r.pid, engine)) {
			t.Errorf("%s: /vol is not %s: %v", engine, other, err)
		}
	}
}

// readDevice describes a device file.
func readDevice(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	kind := "?"
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		kind = "c"
	}
	return fmt.Sprintf("%s %d:%d", kind, unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// restoreJSON is restore for what it prints.
func (h *host) restoreJSON(name, src string, flags ...string) outcome {
	h.t.Helper()
	c := &container{t: h.t, h: h, id: h.id(name)}
	h.t.Cleanup(c.remove)
	return h.ok(append(append([]string{"--json", "restore", "--detach", "--id", c.id}, flags...), src)...)
}

// A spec that hides what the images hold does not help: they are held against it.
func TestImagesBeyondTheirSpec(t *testing.T) {
	h := newHost(t)
	c := h.start("c", privileged())
	path := c.export("c.tar", "--leave-running", "--base", h.built.base)
	dir := h.path("unpacked")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "tar", "-xf", path, "-C", dir)
	if err := os.Remove(filepath.Join(dir, "ckarchive.json")); err != nil { // it would tell that the spec was changed
		t.Fatal(err)
	}
	var harmless specs.Spec
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(dir, "spec.dump"))), &harmless); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, says string
		with       []string // what the spec still admits
		masked     bool
	}{
		{"capability", "CAP_NET_ADMIN", nil, true},
		{"open", "/proc/bus is open", []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}, true},
	} {
		plain := env.Spec(env.BundleOptions{})
		spec := harmless
		process := *spec.Process
		process.Capabilities = &specs.LinuxCapabilities{Bounding: append(slices.Clone(plain.Process.Capabilities.Bounding), tt.with...)}
		spec.Process = &process
		linux := *spec.Linux
		linux.MaskedPaths, linux.ReadonlyPaths = plain.Linux.MaskedPaths, plain.Linux.ReadonlyPaths
		spec.Linux = &linux
		b, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "spec.dump"), string(b))
		forged := h.path(tt.name + ".tar")
		command(t, "tar", "-cf", forged, "-C", dir, ".")
		for _, engine := range []string{"runtime", "direct"} {
			h.restoreRefused(tt.name, []string{
				"--engine", engine, "--base", h.built.base, "--allow", "host:network", "--allow", "cap:NET_ADMIN,cap:SYS_ADMIN", forged,
			}, 3, tt.says)
		}
	}
}
