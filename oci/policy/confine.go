package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// process takes over what the first process is and what it may do.
func (b *builder) process() {
	p := b.old.Process
	b.spec.Process = &specs.Process{
		Terminal: p.Terminal, ConsoleSize: p.ConsoleSize, User: p.User, Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		Capabilities: p.Capabilities, Rlimits: p.Rlimits, NoNewPrivileges: p.NoNewPrivileges, OOMScoreAdj: p.OOMScoreAdj,
	}
	b.capabilities()
	if p.OOMScoreAdj != nil && *p.OOMScoreAdj < 0 && !b.opts.Own {
		b.spec.Process.OOMScoreAdj = nil
		b.drop("a place behind others when memory is short")
	}
	realTime := func(l specs.POSIXRlimit) bool { return l.Type == "RLIMIT_RTPRIO" }
	limited := !b.opts.Own && slices.ContainsFunc(p.Rlimits, realTime)
	if limited {
		b.spec.Process.Rlimits = slices.DeleteFunc(p.Rlimits, realTime)
	}
	if limited || p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil {
		b.drop("scheduling")
	}
	if p.SelinuxLabel == "" && p.ApparmorProfile == "" && b.old.Linux.MountLabel == "" {
		return
	}
	if b.opts.Own {
		b.spec.Process.SelinuxLabel, b.spec.Process.ApparmorProfile = p.SelinuxLabel, p.ApparmorProfile
		return
	}
	b.drop("security labels of the dumping host")
}

// capabilities refuses those that no engine gives by default, each once.
func (b *builder) capabilities() {
	c := b.spec.Process.Capabilities
	if c == nil {
		return
	}
	asked := slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient)
	slices.Sort(asked)
	for _, name := range slices.Compact(asked) {
		short := strings.TrimPrefix(name, capabilityPrefix)
		if slices.Contains(defaultCapabilities(), short) {
			continue
		}
		if !slices.Contains(capabilities(), short) {
			b.refuse("capability "+archive.QuoteName(name), "it is not known here", "")
			continue
		}
		if !b.allowed(grantCapability+":"+short, grantCapability+":"+allCapabilities) {
			b.refuse("capability "+short, "not one of those that engines give by default", "--allow cap:"+short)
		}
	}
}

// linux takes over what is neither a name of the dumping host nor beyond the defaults.
func (b *builder) linux() {
	o := b.old.Linux
	b.spec.Linux = &specs.Linux{UIDMappings: o.UIDMappings, GIDMappings: o.GIDMappings, TimeOffsets: o.TimeOffsets}
	l := b.spec.Linux
	b.namespaces()
	b.sysctls()
	b.devices()
	b.resources()
	b.paths()
	if o.CgroupsPath != "" {
		b.drop("cgroup path") // the runtime chooses by the new ID
	}
	if o.RootfsPropagation == "shared" || o.RootfsPropagation == "rshared" {
		if !b.allowed(grantMount + ":shared") {
			b.refuse("root propagation", "mounts would appear on this host", "--allow mount:shared")
		}
	}
	l.RootfsPropagation = o.RootfsPropagation
	if b.opts.Own {
		l.MountLabel, l.Personality, l.IntelRdt, l.MemoryPolicy = o.MountLabel, o.Personality, o.IntelRdt, o.MemoryPolicy
		return
	}
	if o.Personality != nil || o.IntelRdt != nil || o.MemoryPolicy != nil || len(o.NetDevices) > 0 {
		b.drop("hardware of the dumping host")
	}
}

func (b *builder) namespaces() {
	types := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range b.old.Linux.Namespaces {
		types[ns.Type] = true
		granted, ok := b.opts.ExternalNamespaces[ns.Type]
		if ns.Path != "" && !ok && !b.withoutPath(ns) {
			continue
		}
		ns.Path = granted // empty: one of its own, as it had
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, ns)
	}
	for _, t := range slices.Sorted(maps.Keys(b.opts.ExternalNamespaces)) {
		path := b.opts.ExternalNamespaces[t]
		b.granted(string(t) + " namespace " + archive.QuoteName(path))
		if !types[t] {
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
		}
		types[t] = true
	}
	for _, t := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace} {
		if !types[t] {
			b.refuse(string(t)+" namespace", "the container shared the host's", "")
		}
	}
	for _, t := range shareable() {
		if !types[t] && !b.allowed(grantHost+":"+string(t)) {
			b.refuse(string(t)+" namespace", "the container shared the host's", "--allow host:"+string(t))
		}
	}
}

// withoutPath tells whether the container gets a new namespace in place of one that it shared, as the
// containers of a pod do. That may have been the host's.
func (b *builder) withoutPath(ns specs.LinuxNamespace) bool {
	name := string(ns.Type)
	share := slices.Contains(shareable(), ns.Type)
	switch {
	case share && b.opts.Grants.Has(grantHost+":"+name):
		b.granted(grantHost + ":" + name)
		return false
	case ofPod(ns.Type):
		b.drop(name + " namespace of its pod, in whose place it gets a new one")
		return true
	case share:
		name += "=PATH, or --allow " + grantHost + ":" + name + " if it was the host's"
	default:
		name += "=PATH"
	}
	b.refuse(string(ns.Type)+" namespace", archive.QuoteName(ns.Path)+" of the dumping host", "--namespace "+name)
	return false
}

// own tells whether the container has a namespace that is not this host's. One that still needs a grant
// is none of the host's either: its absence is a reason of its own.
func (b *builder) own(t specs.LinuxNamespaceType) bool {
	is := func(ns specs.LinuxNamespace) bool { return ns.Type == t }
	return slices.ContainsFunc(b.spec.Linux.Namespaces, is) ||
		slices.ContainsFunc(b.old.Linux.Namespaces, is) && !b.opts.Grants.Has(grantHost+":"+string(t))
}

func (b *builder) sysctls() {
	for _, name := range slices.Sorted(maps.Keys(b.old.Linux.Sysctl)) {
		ns := namespaced(name)
		if (ns == "" || !b.own(ns)) && !b.allowed(grantSysctl+":"+name) {
			b.refuse("sysctl "+archive.QuoteName(name), "a kernel parameter of the whole host", "--allow sysctl:"+shown(name))
			continue
		}
		if b.spec.Linux.Sysctl == nil {
			b.spec.Linux.Sysctl = map[string]string{}
		}
		b.spec.Linux.Sysctl[name] = b.old.Linux.Sysctl[name]
	}
}

// devices wants a grant for every node, and the same node on this host: names are the archive's,
// and numbers decide.
func (b *builder) devices() {
	for _, d := range b.old.Linux.Devices {
		if !b.deviceGranted(d) {
			b.refuse("device "+shown(d.Path), fmt.Sprintf("node %s of the host", deviceName(d.Type, &d.Major, &d.Minor)),
				"--allow device:"+shown(d.Path))
			continue
		}
		if b.opts.HasDevice == nil || !b.opts.HasDevice(d) {
			b.refuse("device "+shown(d.Path), fmt.Sprintf("this host has not the node %s there", deviceName(d.Type, &d.Major, &d.Minor)), "")
			continue
		}
		b.spec.Linux.Devices = append(b.spec.Linux.Devices, d)
	}
}

// deviceGranted tells whether a node may be in the container. The harmless ones always may.
func (b *builder) deviceGranted(d specs.LinuxDevice) bool {
	if defaultDevice(specs.LinuxDeviceCgroup{Type: d.Type, Major: &d.Major, Minor: &d.Minor}) && d.Major != 136 {
		return true
	}
	return b.allowed(grantDevice + ":" + d.Path)
}

// resources takes over limits, and denies all devices but those that are granted.
func (b *builder) resources() {
	r := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	b.spec.Linux.Resources = r
	o := b.old.Linux.Resources
	if o == nil {
		return
	}
	r.Memory, r.CPU, r.Pids, r.BlockIO, r.HugepageLimits = o.Memory, o.CPU, o.Pids, o.BlockIO, o.HugepageLimits
	for _, rule := range o.Devices {
		if !rule.Allow || defaultDevice(rule) || b.hasNode(rule) {
			r.Devices = append(r.Devices, rule)
			continue
		}
		name := deviceName(orAny(rule.Type), rule.Major, rule.Minor)
		if !b.allowed(grantDevice + ":" + name) {
			b.refuse("use of device "+name, "a device of the host", "--allow device:"+name)
			continue
		}
		r.Devices = append(r.Devices, rule)
	}
	if b.opts.Own {
		r.Network, r.Rdma, r.Unified = o.Network, o.Rdma, o.Unified
		return
	}
	if r.CPU != nil {
		r.CPU.RealtimeRuntime, r.CPU.RealtimePeriod = nil, nil
	}
	if o.Network != nil || len(o.Rdma) > 0 || len(o.Unified) > 0 {
		b.drop("resources of the dumping host other than memory, CPU, processes and block devices")
	}
}

// hasNode tells whether a rule is about a node that the container has.
func (b *builder) hasNode(r specs.LinuxDeviceCgroup) bool {
	return slices.ContainsFunc(b.spec.Linux.Devices, func(d specs.LinuxDevice) bool {
		return r.Type == d.Type && r.Major != nil && r.Minor != nil && *r.Major == d.Major && *r.Minor == d.Minor
	})
}

func orAny(deviceType string) string {
	if deviceType == "" {
		return "a"
	}
	return deviceType
}

// deviceName names a device as the grants do: c:10:229, or a:*:*.
func deviceName(deviceType string, major, minor *int64) string {
	number := func(n *int64) string {
		if n == nil || *n == wildcard {
			return "*"
		}
		return strconv.FormatInt(*n, 10)
	}
	return deviceType + ":" + number(major) + ":" + number(minor)
}

// paths hides and protects at least what engines do. The images decide what a restored task sees; the spec
// holds for what joins the container later.
func (b *builder) paths() {
	l, o := b.spec.Linux, b.old.Linux
	l.MaskedPaths, l.ReadonlyPaths = o.MaskedPaths, o.ReadonlyPaths
	open := []string{}
	closed := Guarded(b.old)
	for _, p := range guarded() {
		if !slices.Contains(closed, p) && b.mountsType(guardedType(p)) {
			open = append(open, p)
		}
	}
	for _, m := range b.old.Mounts {
		if slices.Contains([]string{"sysfs", "cgroup", "cgroup2"}, m.Type) && !slices.Contains(m.Options, "ro") {
			open = append(open, m.Destination)
		}
	}
	const grant = grantPaths + ":unmasked"
	if b.opts.Own || len(open) > 0 && b.allowed(grant) {
		return
	}
	if len(open) > 0 {
		b.refuse("paths "+archive.QuoteName(strings.Join(open, " ")), "engines hide them or make them read-only", "--allow "+grant)
	}
	l.MaskedPaths = union(o.MaskedPaths, defaultMasked())
	l.ReadonlyPaths = union(o.ReadonlyPaths, defaultReadonly())
}

// mountsType tells whether the archive's spec mounts a file system of a type. What it shows
// besides is found in the images, which are held against the result.
func (b *builder) mountsType(fsType string) bool {
	return slices.ContainsFunc(b.old.Mounts, func(m specs.Mount) bool { return m.Type == fsType })
}

// union is a with what only b has.
func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
