package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// restoreFlags are the options of CRIU and of the runtimes for a restore. A pointer tells a flag
// that was not given, which the archive then decides, from one that was refused with --no-.
type restoreFlags struct {
	TCPEstablished    *bool             `name:"tcp-established" negatable:"" help:"Keep established TCP connections; as dumped."`
	TCPClose          *bool             `name:"tcp-close" negatable:"" help:"Let TCP connections be closed after the restore; as dumped."`
	FileLocks         *bool             `negatable:"" help:"Keep file locks; as dumped."`
	ExtUnixSk         *bool             `negatable:"" help:"Allow unix sockets whose other end is outside the container; as dumped."`
	ShellJob          *bool             `negatable:"" help:"Allow a terminal or session from outside the container; as dumped."`
	SkipFileRWXCheck  *bool             `name:"skip-file-rwx-check" negatable:"" help:"Do not compare the modes of open files; as dumped."`
	MntnsCompatMode   *bool             `negatable:"" help:"Restore mounts in CRIU's older way; as dumped."`
	ManageCgroupsMode string            `help:"How CRIU treats cgroups: ignore, none, props, soft, full or strict; as dumped, else ignore for the direct engine and the runtime's own choice." placeholder:"MODE"`
	WeakSysctls       bool              `help:"Leave out sysctls that this kernel lacks."`
	CgroupPath        string            `help:"Where the container's cgroup goes, in every hierarchy; by default the engine's choice." placeholder:"PATH"`
	NetworkLock       string            `help:"How CRIU locks the network of the container while it restores: iptables, nftables or skip; as dumped, or by what this host has." placeholder:"METHOD"`
	LSMProfile        string            `name:"lsm-profile" help:"Security profile of the processes, apparmor:NAME or selinux:LABEL; as dumped." placeholder:"TYPE:NAME"`
	LSMMountContext   string            `name:"lsm-mount-context" help:"SELinux context of the mounts that have one; as dumped." placeholder:"CONTEXT"`
	Namespace         map[string]string `help:"Namespace of this host to restore into: net, pid, ipc, uts or time, and the path of its file; may be repeated." placeholder:"TYPE=PATH" mapsep:"none"`
	External          []string          `help:"Further external object in CRIU's notation; may be repeated." placeholder:"RESOURCE" sep:"none"`
	InheritFD         []string          `name:"inherit-fd" help:"Descriptor of ckarchive's own that stands for an external object, as fd[3]:socket:[77]; may be repeated." placeholder:"fd[N]:KEY" sep:"none"`
	Veth              []string          `help:"Outer end of a pair of virtual interfaces, and the bridge it is put into; may be repeated (direct engine)." placeholder:"IN=OUT[@BRIDGE]" sep:"none"`
	CRIUConfig        string            `name:"criu-config" help:"Configuration file of CRIU with further options." type:"existingfile" placeholder:"FILE"`
	NoPivot           bool              `help:"Do not use pivot_root (runtime engine)."`
	NoSubreaper       bool              `help:"Tell the runtime not to take over orphans while it restores (runtime engine); ckarchive itself does without --detach, to wait for the container."`
}

// route is how an option reaches CRIU or the container.
type route uint8

const (
	byRequest route = iota // a field of CRIU's request; with a runtime, an option of its restore command
	byConfig               // a field of CRIU's request; with a runtime, a line of CRIU's configuration
	bySpec                 // part of the runtime configuration, or of CRIU's request made from it
	directly               // CRIU's request only
	byImages               // a change of the images
	byRuntime              // an option of the runtime's restore command only
)

// restoreOption is one option and what the engines make of it.
type restoreOption struct {
	flag  string
	route route
	// given is the value on the command line; the empty string is none.
	given func(*restoreCmd) string
	// values that the archive may give when the command line does not; nil: it is not asked.
	values []string
	// excludes is the option that goes before this one when only that is given.
	excludes string
}

// cgroupModes are the values of --manage-cgroups-mode.
func cgroupModes() []string { return []string{"ignore", "none", "props", "soft", "full", "strict"} }

// restoreOptions is the one table of what a restore can be told.
func restoreOptions() []restoreOption {
	carried := []string{"true"}
	return []restoreOption{
		{"tcp-established", byRequest, func(c *restoreCmd) string { return said(c.TCPEstablished) }, carried, "tcp-close"},
		{"tcp-close", byConfig, func(c *restoreCmd) string { return said(c.TCPClose) }, carried, "tcp-established"},
		{"file-locks", byRequest, func(c *restoreCmd) string { return said(c.FileLocks) }, carried, ""},
		{"ext-unix-sk", byRequest, func(c *restoreCmd) string { return said(c.ExtUnixSk) }, carried, ""},
		{"shell-job", byRequest, func(c *restoreCmd) string { return said(c.ShellJob) }, carried, ""},
		{"skip-file-rwx-check", byConfig, func(c *restoreCmd) string { return said(c.SkipFileRWXCheck) }, carried, ""},
		{"mntns-compat-mode", byConfig, func(c *restoreCmd) string { return said(c.MntnsCompatMode) }, carried, ""},
		{"manage-cgroups-mode", byRequest, func(c *restoreCmd) string { return c.ManageCgroupsMode }, cgroupModes(), ""},
		{"network-lock", byImages, func(c *restoreCmd) string { return c.NetworkLock }, nil, ""},
		{"weak-sysctls", byConfig, func(c *restoreCmd) string { return set(c.WeakSysctls) }, nil, ""},
		{"cgroup-path", bySpec, func(c *restoreCmd) string { return c.CgroupPath }, nil, ""},
		{"lsm-profile", byRequest, func(c *restoreCmd) string { return c.LSMProfile }, nil, ""},
		{"lsm-mount-context", byRequest, func(c *restoreCmd) string { return c.LSMMountContext }, nil, ""},
		{"namespace", bySpec, func(c *restoreCmd) string { return pairsOf(c.Namespace) }, nil, ""},
		{"external", byConfig, func(c *restoreCmd) string { return strings.Join(c.External, " ") }, nil, ""},
		{"inherit-fd", byConfig, func(c *restoreCmd) string { return strings.Join(c.InheritFD, " ") }, nil, ""},
		{"veth", directly, func(c *restoreCmd) string { return strings.Join(c.Veth, " ") }, nil, ""},
		{"criu-config", byConfig, func(c *restoreCmd) string { return c.CRIUConfig }, nil, ""},
		{"no-pivot", byRuntime, func(c *restoreCmd) string { return set(c.NoPivot) }, nil, ""},
		{"no-subreaper", byRuntime, func(c *restoreCmd) string { return set(c.NoSubreaper) }, nil, ""},
	}
}

// said is the value of a flag that has three states.
func said(b *bool) string {
	if b == nil {
		return ""
	}
	return fmt.Sprint(*b)
}

func set(b bool) string {
	if !b {
		return ""
	}
	return "true"
}

func pairsOf(m map[string]string) string {
	list := []string{}
	for k, v := range m {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// settled are the options of one restore: what the command line gives, and else the archive.
type settled struct {
	values map[string]string // by flag; the empty string and "false" are not set
	taken  []string          // those that are the archive's, as flags
}

func (s settled) on(flag string) bool { return s.values[flag] == "true" }

// describe lists the options, and which of them the archive gave.
func (s settled) describe() string {
	list := []string{}
	for _, o := range restoreOptions() {
		if value := s.values[o.flag]; value != "" {
			text := asTyped(o.flag, value)
			if slices.Contains(s.taken, text) {
				text += " (as dumped)"
			}
			list = append(list, text)
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// settle decides between the command line and the options of the dump, and refuses what the
// runtime cannot do; direct is the one without a name.
func settle(c *restoreCmd, dumped map[string]string, rt runtime.Runtime) (settled, error) {
	s := settled{values: map[string]string{}}
	options := restoreOptions()
	given := map[string]string{}
	for _, o := range options {
		given[o.flag] = o.given(c)
	}
	for _, o := range options {
		value := given[o.flag]
		if old := dumped[o.flag]; value == "" && slices.Contains(o.values, old) && given[o.excludes] != "true" {
			value = old
			s.taken = append(s.taken, asTyped(o.flag, old))
		}
		if value == "" || value == "false" {
			continue
		}
		if why := o.refusal(rt); why != "" {
			return s, &usageError{err: fmt.Errorf("%s: %s", asTyped(o.flag, value), why), hint: o.remedy(rt)}
		}
		s.values[o.flag] = value
	}
	return s, nil
}

// refusal tells why the option cannot be had of the runtime, or is empty.
func (o restoreOption) refusal(rt runtime.Runtime) string {
	direct := rt.Name == runtime.Direct
	switch {
	case o.route != bySpec && rt.Format() == archive.FormatGVisor:
		return "it is an option of CRIU or of runtimes that use it, and the checkpoint is one of gVisor"
	case o.route == byRuntime && direct:
		return "it is for a runtime, and the direct engine uses none"
	case o.route == directly && !direct:
		return rt.Name + " restores a network namespace of the container's own without interfaces"
	case (o.route == byRequest || o.route == byRuntime) && !direct && !rt.RestoreTakes(o.flag):
		return rt.Name + " restore has no such option, or does not act on it"
	}
	return ""
}

func (o restoreOption) remedy(rt runtime.Runtime) string {
	switch {
	case rt.Name == runtime.Direct:
		return "leave it out, or use --engine runtime"
	case rt.Format() == archive.FormatGVisor:
		return "leave it out"
	}
	if o.values != nil {
		return "use --engine direct, or another value of --" + o.flag
	}
	return "use --engine direct"
}

// asTyped is an option as it is typed.
func asTyped(flag, value string) string {
	if value == "true" {
		return "--" + flag
	}
	return "--" + flag + " " + value
}

// on tells whether a flag with three states was given and not refused.
func on(b *bool) bool { return b != nil && *b }

// check refuses what cannot be meant, before the archive is opened.
func (f *restoreFlags) check() error {
	switch {
	case on(f.TCPEstablished) && on(f.TCPClose):
		return usagef("--tcp-established and --tcp-close exclude each other")
	case f.ManageCgroupsMode != "" && !slices.Contains(cgroupModes(), f.ManageCgroupsMode):
		return usagef("--manage-cgroups-mode %s: want one of %s", f.ManageCgroupsMode, strings.Join(cgroupModes(), ", "))
	case f.NetworkLock != "" && !slices.Contains(criu.NetworkLocks(), f.NetworkLock):
		return usagef("--network-lock %s: want one of %s", f.NetworkLock, strings.Join(criu.NetworkLocks(), ", "))
	case f.CgroupPath != "" && (!path.IsAbs(f.CgroupPath) || path.Clean(f.CgroupPath) != f.CgroupPath || f.CgroupPath == "/"):
		return usagef("--cgroup-path %s: want a clean absolute path below the root of the hierarchies", f.CgroupPath)
	case f.LSMProfile != "" && !strings.HasPrefix(f.LSMProfile, "apparmor:") && !strings.HasPrefix(f.LSMProfile, "selinux:"):
		return usagef("--lsm-profile %s: want apparmor:NAME or selinux:LABEL", f.LSMProfile)
	}
	for _, check := range []func() error{
		func() error { _, err := f.namespaces(); return err },
		func() error { _, err := f.inherited(); return err },
		func() error { _, err := f.veths(); return err },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// namespaces reads --namespace.
func (f *restoreFlags) namespaces() (map[specs.LinuxNamespaceType]string, error) {
	types := map[string]specs.LinuxNamespaceType{
		"net": specs.NetworkNamespace, "network": specs.NetworkNamespace, "pid": specs.PIDNamespace,
		"ipc": specs.IPCNamespace, "uts": specs.UTSNamespace, "time": specs.TimeNamespace,
	}
	granted := map[specs.LinuxNamespaceType]string{}
	for name, file := range f.Namespace {
		t, ok := types[name]
		if !ok {
			return nil, usagef("--namespace %s=%s: want net, pid, ipc, uts or time", name, file)
		}
		if _, err := os.Stat(file); err != nil || !path.IsAbs(file) {
			return nil, withHint(fmt.Errorf("--namespace %s=%s: %w", name, file, archive.ErrNotFound),
				"name the absolute path of a namespace's file, as /run/netns/NAME or /proc/PID/ns/"+strings.TrimSuffix(name, "work"))
		}
		granted[t] = file
	}
	return granted, nil
}

// veths reads --veth as external objects of CRIU, and the names of the outer ends.
func (f *restoreFlags) veths() (map[string]string, error) {
	pairs := map[string]string{}
	for _, text := range f.Veth {
		inner, outer, ok := strings.Cut(text, "=")
		name, bridge, _ := strings.Cut(outer, "@")
		if !ok || !isInterface(inner) || !isInterface(name) || bridge != "" && !isInterface(bridge) || strings.HasSuffix(outer, "@") {
			return nil, usagef("--veth %s: want IN=OUT or IN=OUT@BRIDGE, names of interfaces", text)
		}
		if pairs[inner] != "" {
			return nil, usagef("--veth %s: %s was given twice", text, inner)
		}
		pairs[inner] = outer
	}
	return pairs, nil
}

// isInterface tells whether the kernel takes the name for an interface.
func isInterface(name string) bool {
	const most = 15
	return name != "" && len(name) <= most && name != "." && name != ".." && !strings.ContainsAny(name, "/:[]@= \t\n")
}

// settleOptions is settle for this restore.
func (r *restore) settleOptions(context.Context) (string, error) {
	if r.runtime.Name == "" {
		return "", nil
	}
	var err error
	r.options, err = settle(r.cmd, r.meta.Options, r.runtime)
	return r.options.describe(), err
}

// flags are CRIU's options of the restore.
func (r *restore) flags() criu.Flags {
	o := r.options
	return criu.Flags{
		TCPEstablished: o.on("tcp-established"), TCPClose: o.on("tcp-close"), FileLocks: o.on("file-locks"),
		ExtUnixSk: o.on("ext-unix-sk"), ShellJob: o.on("shell-job"),
		SkipRWXCheck: o.on("skip-file-rwx-check"), MountCompat: o.on("mntns-compat-mode"),
		CgroupMode: o.values["manage-cgroups-mode"],
	}
}
