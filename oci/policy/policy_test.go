package policy

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plain is the spec of an ordinary container without anything of its host.
func plain() *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{Args: []string{"sh"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_CHOWN"}}},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/mine"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func number(n int64) *int64 { return &n }

func fuse() specs.LinuxDevice {
	return specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}
}

func TestRebuildPlain(t *testing.T) {
	archived := plain()
	res, err := Rebuild(archived, Options{Rootfs: "/r", Annotations: map[string]string{"k": "v"}})
	must(t, err)
	if got, want := res.Spec.Root.Path, "/r"; got != want {
		t.Errorf("root path %q, want %q", got, want)
	}
	if got, want := res.Spec.Annotations["k"], "v"; got != want {
		t.Errorf("annotation %q, want %q", got, want)
	}
	if len(res.Dropped) != 0 || len(res.Granted) != 0 {
		t.Errorf("dropped %v, granted %v of a plain spec", res.Dropped, res.Granted)
	}
	if archived.Root.Path != "rootfs" || archived.Annotations != nil {
		t.Error("the archive's spec was changed")
	}
	l := res.Spec.Linux
	if l.Seccomp == nil || l.Seccomp.DefaultAction != specs.ActErrno || !res.Filter {
		t.Errorf("filter %+v, want the default one", l.Seccomp)
	}
	for _, p := range []string{"/mine", "/proc/kcore", "/proc/scsi", "/sys/devices/virtual/powercap"} {
		if !slices.Contains(l.MaskedPaths, p) {
			t.Errorf("masked paths %v, want %s among them", l.MaskedPaths, p)
		}
	}
	if d := l.Resources.Devices; len(d) != 1 || d[0].Allow || d[0].Access != "rwm" || d[0].Major != nil {
		t.Errorf("devices %+v, want none", d)
	}
}

// TestRebuildWithoutSys: what a container has not mounted need not be hidden in it.
func TestRebuildWithoutSys(t *testing.T) {
	bare := plain()
	bare.Mounts = bare.Mounts[:2]
	bare.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"}
	res, err := Rebuild(bare, Options{Rootfs: "/r"})
	must(t, err)
	if !slices.Contains(Guarded(res.Spec), "/sys/firmware") {
		t.Errorf("masked paths %q: a /sys that only the images have would be open", res.Spec.Linux.MaskedPaths)
	}
	bare.Linux.MaskedPaths = nil
	if _, err := Rebuild(bare, Options{Rootfs: "/r"}); err == nil || !strings.Contains(err.Error(), "/proc/kcore") {
		t.Errorf("error %v of a spec that hides nothing of its /proc", err)
	}
}

// beyond are edits of a plain spec that make it ask for more than engines give, what the reason
// names, and the grant, if there is one.
func beyond() map[string]struct {
	edit  func(*specs.Spec)
	what  string
	grant string
} {
	type edit = func(*specs.Spec)
	bind := func(m specs.Mount) edit { return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) } }
	hooks := func(h specs.Hooks) edit { return func(s *specs.Spec) { s.Hooks = &h } }
	evil := []specs.Hook{{Path: "/bin/evil"}}
	without := func(t specs.LinuxNamespaceType) edit {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
		}
	}
	rule := func(r specs.LinuxDeviceCgroup) edit {
		return func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{r}} }
	}
	return map[string]struct {
		edit  func(*specs.Spec)
		what  string
		grant string
	}{
		"bind":                    {bind(specs.Mount{Destination: "/v", Type: "bind", Source: "/etc"}), `mount "/v"`, "--map-mount /v=SOURCE"},
		"bind hidden by its type": {bind(specs.Mount{Destination: "/v", Type: "none", Source: "/etc", Options: []string{"rbind"}}), `mount "/v"`, "--map-mount /v=SOURCE"},
		"overlay":                 {bind(specs.Mount{Destination: "/v", Type: "overlay", Options: []string{"lowerdir=/"}}), `mount "/v"`, ""},
		"dotdot":                  {bind(specs.Mount{Destination: "/a/../../v", Type: "tmpfs"}), `mount "/a/../../v"`, ""},
		"namespace by path":       {func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/proc/1/ns/net" }, "network namespace", "--namespace network=PATH, or --allow host:network if it was the host's"},
		"processes by path":       {func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" }, "pid namespace", "--namespace pid=PATH"},
		"parameter of a namespace by path": {func(s *specs.Spec) {
			s.Linux.Namespaces[2].Path = "/proc/1/ns/net"
			s.Linux.Sysctl = map[string]string{"net.ipv4.ping_group_range": "0 0"}
		}, "network namespace", "--namespace network=PATH, or --allow host:network if it was the host's"},
		"host's processes": {without(specs.PIDNamespace), "pid namespace", ""},
		"host's mounts":    {without(specs.MountNamespace), "mount namespace", ""},
		"host's network":   {without(specs.NetworkNamespace), "network namespace", "--allow host:network"},
		"host's ipc":       {without(specs.IPCNamespace), "ipc namespace", "--allow host:ipc"},
		"host's name":      {without(specs.UTSNamespace), "uts namespace", "--allow host:uts"},
		"device":           {func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{fuse()} }, "device /dev/fuse", "--allow device:/dev/fuse"},
		"device that is not here": {func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}}
		}, "device /dev/null", ""},
		"use of all devices": {rule(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}), "use of device a:*:*", "--allow device:a:*:*"},
		"use of a disk":      {rule(specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: number(8), Minor: number(0), Access: "r"}), "use of device b:8:0", "--allow device:b:8:0"},
		"seccomp listener":   {func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/run/s"} }, "seccomp listener", "--allow seccomp:unconfined"},
		"shared root":        {func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" }, "root propagation", "--allow mount:shared"},
		"capability": {func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
		}, "capability SYS_ADMIN", "--allow cap:SYS_ADMIN"},
		"ambient capability":         {func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_NET_ADMIN"} }, "capability NET_ADMIN", "--allow cap:NET_ADMIN"},
		"unknown capability":         {func(s *specs.Spec) { s.Process.Capabilities.Effective = []string{"CAP_EVERYTHING"} }, `capability "CAP_EVERYTHING"`, ""},
		"sysctl of the host":         {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"} }, `sysctl "kernel.core_pattern"`, "--allow sysctl:kernel.core_pattern"},
		"writable /proc/sys":         {func(s *specs.Spec) { s.Linux.ReadonlyPaths = s.Linux.ReadonlyPaths[:3] }, `paths "/proc/sys /proc/sysrq-trigger"`, "--allow paths:unmasked"},
		"visible /proc/kcore":        {func(s *specs.Spec) { s.Linux.MaskedPaths = s.Linux.MaskedPaths[1:] }, `paths "/proc/kcore"`, "--allow paths:unmasked"},
		"writable /sys":              {func(s *specs.Spec) { s.Mounts[2].Options = nil }, `paths "/sys"`, "--allow paths:unmasked"},
		"hook at the creation":       {hooks(specs.Hooks{CreateRuntime: evil}), `hook "/bin/evil"`, "--allow-hooks, or --drop-hooks to do without"},
		"hook in the container":      {hooks(specs.Hooks{CreateContainer: evil}), `hook "/bin/evil"`, "--allow-hooks, or --drop-hooks to do without"},
		"hook before the start":      {hooks(specs.Hooks{StartContainer: evil}), `hook "/bin/evil"`, "--allow-hooks, or --drop-hooks to do without"},
		"hook after the start":       {hooks(specs.Hooks{Poststart: evil}), `hook "/bin/evil"`, "--allow-hooks, or --drop-hooks to do without"},
		"hook after the end":         {hooks(specs.Hooks{Poststop: evil}), `hook "/bin/evil"`, "--allow-hooks, or --drop-hooks to do without"},
		"hook of the old kind":       {hooks(specs.Hooks{Prestart: evil}), `hook "/bin/evil"`, "--allow-hooks, or --drop-hooks to do without"},
		"version of the future":      {func(s *specs.Spec) { s.Version = "99.0.0" }, "ociVersion", ""},
		"grant with another meaning": {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a\nb": ""} }, `sysctl "a\nb"`, `--allow sysctl:"a\nb"`},
	}
}

func TestRebuildRefuses(t *testing.T) {
	for name, tt := range beyond() {
		t.Run(name, func(t *testing.T) {
			s := plain()
			tt.edit(s)
			_, err := Rebuild(s, Options{})
			var refused *RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("error %v, want a RefusedError", err)
			}
			if len(refused.Reasons) != 1 || refused.Reasons[0].What != tt.what || refused.Reasons[0].Grant != tt.grant {
				t.Errorf("reasons %+v, want one for %s with the grant %q", refused.Reasons, tt.what, tt.grant)
			}
		})
	}
}

// Every grant that a reason names is taken and is enough.
func TestGrantsThatReasonsName(t *testing.T) {
	for name, tt := range beyond() {
		grant, ok := strings.CutPrefix(tt.grant, "--allow ")
		if !ok || strings.Contains(grant, `"`) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := plain()
			tt.edit(s)
			opts := Options{HasDevice: func(d specs.LinuxDevice) bool { return d == fuse() }}
			must(t, opts.Grants.Add(grant))
			res, err := Rebuild(s, opts)
			must(t, err)
			if !slices.Equal(res.Granted, []string{grant}) {
				t.Errorf("granted %q, want %q", res.Granted, grant)
			}
		})
	}
}

// A container of a pod gets namespaces of its own in place of the pod's.
func TestRebuildPod(t *testing.T) {
	s := plain()
	for i, ns := range s.Linux.Namespaces {
		if ns.Type == specs.IPCNamespace || ns.Type == specs.UTSNamespace {
			s.Linux.Namespaces[i].Path = "/proc/1/ns/" + string(ns.Type)
		}
	}
	res, err := Rebuild(s, Options{})
	must(t, err)
	if !slices.Equal(res.Spec.Linux.Namespaces, plain().Linux.Namespaces) {
		t.Errorf("namespaces %+v, want new ones", res.Spec.Linux.Namespaces)
	}
	if said := strings.Join(res.Dropped, "; "); !strings.Contains(said, "ipc namespace of its pod") || !strings.Contains(said, "uts namespace of its pod") {
		t.Errorf("left out: %s", said)
	}
	res, err = Rebuild(s, Options{ExternalNamespaces: map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "/run/ipc"}})
	must(t, err)
	if i := slices.IndexFunc(res.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.IPCNamespace }); res.Spec.Linux.Namespaces[i].Path != "/run/ipc" {
		t.Errorf("namespaces %+v, want the one that was named", res.Spec.Linux.Namespaces)
	}
}

// A pod's network that was the host's is the host's again when that is granted, and its parameters are then
// none of the container's.
func TestRebuildPodOfHost(t *testing.T) {
	s := plain()
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/9/ns/net"})
	var opts Options
	must(t, opts.Grants.Add("host:network"))
	res, err := Rebuild(s, opts)
	must(t, err)
	if !slices.Equal(res.Granted, []string{"host:network"}) {
		t.Errorf("granted %q", res.Granted)
	}
	if slices.ContainsFunc(res.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace }) {
		t.Errorf("namespaces %+v, want none for the network", res.Spec.Linux.Namespaces)
	}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	if _, err := Rebuild(s, opts); err == nil || !strings.Contains(err.Error(), "net.ipv4.ip_forward") {
		t.Errorf("error %v, want a refusal of the host's parameter", err)
	}
}

func TestRebuildRefusesMappingOfNothing(t *testing.T) {
	_, err := Rebuild(plain(), Options{Mounts: map[string]string{"/x": "/y"}})
	if err == nil || !strings.Contains(err.Error(), "--map-mount /x") {
		t.Errorf("error %v, want a refusal", err)
	}
	if _, err := Rebuild(plain(), Options{Grants: Grants{Mounts: map[string]string{"/x": "/y"}}}); err != nil {
		t.Errorf("a policy for many archives is refused: %v", err)
	}
}

func TestRebuildGivesAllReasonsAtOnce(t *testing.T) {
	s := plain()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: "/etc"})
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/vda", Type: "b"}}
	_, err := Rebuild(s, Options{})
	if err == nil || !strings.Contains(err.Error(), "--map-mount /v=SOURCE") || !strings.Contains(err.Error(), "--allow device:/dev/vda") {
		t.Errorf("error %v, want both reasons and their grants", err)
	}
}

// An archive cannot fill a terminal with what it asks for. What cannot be granted is told first then.
func TestRebuildBoundsReasons(t *testing.T) {
	s := plain()
	for i := range 10 * maxReasons {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v" + strconv.Itoa(i), Type: "bind", Source: "/etc"})
	}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/disk", Type: "ext4", Source: "/dev/vda"})
	_, err := Rebuild(s, Options{})
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Reasons) != maxReasons+1 {
		t.Fatalf("error %v, want %d reasons and how many there are besides", err, maxReasons)
	}
	first, last := refused.Reasons[0], refused.Reasons[maxReasons]
	if first.Grant != "" || !strings.Contains(first.What, "/disk") || last.What != "901 more" {
		t.Errorf("first %+v, last %+v", first, last)
	}
}

func TestRebuildRefusesTheIncomplete(t *testing.T) {
	for name, edit := range map[string]func(*specs.Spec){
		"no root":    func(s *specs.Spec) { s.Root = nil },
		"no process": func(s *specs.Spec) { s.Process = nil },
		"no linux":   func(s *specs.Spec) { s.Linux = nil },
	} {
		s := plain()
		edit(s)
		if _, err := Rebuild(s, Options{}); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	s := plain()
	s.Process.Capabilities = nil
	if _, err := Rebuild(s, Options{}); err != nil {
		t.Errorf("a process without capabilities: %v", err)
	}
}

func TestRebuildGrantsAndDrops(t *testing.T) {
	s := plain()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: "/etc", Options: []string{"rbind", "ro"}})
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/evil"}}}
	s.Annotations = map[string]string{"org.criu.config": "/tmp/x", "org.systemd.property.ExecStopPost": "x", "mine": "kept", "long": strings.Repeat("x", maxAnnotationBytes)}
	s.Linux.CgroupsPath = "/../x"
	s.Linux.MountLabel = "system_u"
	s.Process.ApparmorProfile, s.Process.SelinuxLabel = "unconfined", "spc_t"
	score := -1000
	s.Process.OOMScoreAdj = &score
	s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"memory.oom.group": "1"}, Pids: &specs.LinuxPids{Limit: number(7)}}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ping_group_range": "0 0", "kernel.shmmax": "1"}
	res, err := Rebuild(s, Options{Mounts: map[string]string{"/v": "/data"}, Grants: Grants{Hooks: DropHooks}})
	must(t, err)
	if got := res.Spec.Mounts[len(res.Spec.Mounts)-1]; got.Source != "/data" || !slices.Contains(got.Options, "ro") {
		t.Errorf("mount %+v, want the mapped source and the old options", got)
	}
	l, p := res.Spec.Linux, res.Spec.Process
	if res.Spec.Hooks != nil || l.CgroupsPath != "" || p.ApparmorProfile != "" || p.SelinuxLabel != "" || l.MountLabel != "" || p.OOMScoreAdj != nil || l.Resources.Unified != nil {
		t.Errorf("something of the dumping host survived: %+v", res.Spec)
	}
	if len(res.Spec.Annotations) != 1 || res.Spec.Annotations["mine"] != "kept" {
		t.Errorf("annotations %v, want only mine", res.Spec.Annotations)
	}
	if *l.Resources.Pids.Limit != 7 || !maps.Equal(l.Sysctl, s.Linux.Sysctl) {
		t.Errorf("limits %+v and parameters %v, want those of the archive", l.Resources, l.Sysctl)
	}
	if len(res.Dropped) != 8 {
		t.Errorf("dropped %q, want eight things", res.Dropped)
	}
	if want := `mount "/v" from "/data"`; !slices.Equal(res.Granted, []string{want}) {
		t.Errorf("granted %q, want %q", res.Granted, want)
	}
}

func TestRebuildHooksAllowed(t *testing.T) {
	s := plain()
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/good"}}}
	res, err := Rebuild(s, Options{Grants: Grants{Hooks: AllowHooks}})
	must(t, err)
	if res.Spec.Hooks == nil || !slices.Equal(res.Granted, []string{`hook "/bin/good"`}) {
		t.Errorf("hooks %+v, granted %q", res.Spec.Hooks, res.Granted)
	}
}

// What this host archived keeps what it had, but for what belongs to one container.
func TestRebuildOwn(t *testing.T) {
	for name, tt := range beyond() {
		s := plain()
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActLog}
		s.Process.SelinuxLabel = "mine"
		tt.edit(s)
		res, err := Rebuild(s, Options{Own: true, HasDevice: func(d specs.LinuxDevice) bool { return d == fuse() }})
		if strings.HasPrefix(tt.grant, "--allow ") {
			if err != nil || res.Filter || res.Spec.Process.SelinuxLabel != "mine" || res.Spec.Linux.Seccomp == nil {
				t.Errorf("%s: %+v, %v; want it as it was", name, res, err)
			}
		} else if err == nil {
			t.Errorf("%s: it was taken over", name)
		}
	}
}

func TestGrants(t *testing.T) {
	for _, name := range []string{
		"", "cap", "cap:", "cap:NOTHING", "all", "device:", "device:dev/fuse", "device:/dev/../x", "device:x:1:1", "device:c:1", "sysctl:", "sysctl:a b",
		"seccomp:", "seccomp:off", "paths:", "host:pid", "host:mount", "host:", "mount:private", "hooks:allow", "engine:crio",
	} {
		var g Grants
		if err := g.Add(name); !errors.Is(err, ErrGrant) {
			t.Errorf("%q: error %v, want ErrGrant", name, err)
		}
	}
	var g Grants
	for _, name := range []string{"cap:CAP_net_admin", "cap:ALL", "device:/dev/fuse", "device:c:10:*", "host:ipc", GrantPodman} {
		must(t, g.Add(name))
	}
	if want := []string{"cap:ALL", "cap:NET_ADMIN", "device:/dev/fuse", "device:c:10:*", "engine:podman", "host:ipc"}; !slices.Equal(g.Names(), want) {
		t.Errorf("grants %q, want %q", g.Names(), want)
	}
	s := plain()
	s.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN", "CAP_BPF"}
	res, err := Rebuild(s, Options{Grants: g})
	must(t, err)
	if !slices.Equal(res.Granted, []string{"cap:ALL"}) {
		t.Errorf("granted %q, want all capabilities", res.Granted)
	}
}

func TestParseFile(t *testing.T) {
	g, err := ParseFile("p", []byte(`{"allow": ["cap:NET_ADMIN"], "hooks": "drop", "mapMount": {"/v": "/srv/v"}}`))
	must(t, err)
	if !g.Has("cap:NET_ADMIN") || g.Hooks != DropHooks || g.Mounts["/v"] != "/srv/v" {
		t.Errorf("grants %+v", g)
	}
	for _, text := range []string{
		``, `[]`, `{"alow": []}`, `{"allow": ["x"]}`, `{"hooks": "run"}`, `{"mapMount": {"v": "/srv"}}`, `{"mapMount": {"/v": "srv"}}`, `{} {}`, `{"allow": "cap:NET_ADMIN"}`,
	} {
		if _, err := ParseFile("p", []byte(text)); err == nil || !strings.Contains(err.Error(), `policy "p"`) {
			t.Errorf("%s: error %v, want one that names the file", text, err)
		}
	}
}
