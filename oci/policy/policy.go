package policy

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options are the operator's grants for one restore.
type Options struct {
	// Rootfs becomes root.path; absolute.
	Rootfs string
	// Mounts grants bind mounts: destination to host path.
	Mounts map[string]string
	// ExternalNamespaces grants namespaces by type: the path to join.
	ExternalNamespaces map[specs.LinuxNamespaceType]string
	// Annotations are added to the result.
	Annotations map[string]string
}

// Reason is one thing that an archive asks for and was not granted.
type Reason struct {
	What  string // the member of the spec
	Why   string
	Grant string // the flag that grants it; empty if none does
}

// RefusedError lists all reasons why a spec may not be used.
type RefusedError struct{ Reasons []Reason }

// Error lists the reasons.
func (e *RefusedError) Error() string {
	lines := []string{}
	for _, r := range e.Reasons {
		line := r.What + ": " + r.Why
		if r.Grant != "" {
			line += " (" + r.Grant + ")"
		}
		lines = append(lines, line)
	}
	return "the archive asks for what was not granted: " + strings.Join(lines, "; ")
}

// Result is a spec that may be used here.
type Result struct {
	Spec *specs.Spec
	// Dropped names what was left out of the archive's spec without harm to the restore.
	Dropped []string
}

// unsafeAnnotations begin the names that runtimes and engines act on.
func unsafeAnnotations() []string {
	return []string{
		"org.systemd.property.", "org.criu.", "run.oci.", "module.wasm.", "cdi.k8s.io/", "bundle",
		"io.katacontainers.", "krun.", "com.github.containers.virtualization.", "dev.gvisor.",
	}
}

// Rebuild makes of an archive's spec the one that is restored here. The argument is not
// changed. A [RefusedError] holds everything that would have to be granted.
func Rebuild(archived *specs.Spec, opts Options) (*Result, error) {
	spec, err := clone(archived)
	if err != nil {
		return nil, err
	}
	if spec.Root == nil || spec.Process == nil || spec.Linux == nil {
		return nil, fmt.Errorf("the archive's spec has no root, process or linux section")
	}
	b := &builder{spec: spec, opts: opts}
	b.root()
	b.hooks()
	b.annotations()
	b.mounts()
	b.namespaces()
	b.linux()
	if len(b.refused) > 0 {
		return nil, &RefusedError{Reasons: b.refused}
	}
	return &Result{Spec: spec, Dropped: b.dropped}, nil
}

func clone(s *specs.Spec) (*specs.Spec, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var c specs.Spec
	return &c, json.Unmarshal(data, &c)
}

type builder struct {
	spec    *specs.Spec
	opts    Options
	refused []Reason
	dropped []string
}

func (b *builder) refuse(what, why, grant string) {
	b.refused = append(b.refused, Reason{What: what, Why: why, Grant: grant})
}

func (b *builder) drop(what string) { b.dropped = append(b.dropped, what) }

func (b *builder) root() { b.spec.Root.Path = b.opts.Rootfs }

// hooks are programs of the dumping host; nothing in the images needs them.
func (b *builder) hooks() {
	if b.spec.Hooks != nil {
		b.spec.Hooks = nil
		b.drop("hooks")
	}
}

func (b *builder) annotations() {
	for key := range b.spec.Annotations {
		unsafe := func(prefix string) bool { return strings.HasPrefix(key, prefix) }
		if slices.ContainsFunc(unsafeAnnotations(), unsafe) {
			delete(b.spec.Annotations, key)
			b.drop("annotation " + key)
		}
	}
	for key, value := range b.opts.Annotations {
		if b.spec.Annotations == nil {
			b.spec.Annotations = map[string]string{}
		}
		b.spec.Annotations[key] = value
	}
}

// kernelMount tells whether a container may mount a file system of this type by itself.
func kernelMount(fsType string) bool {
	return slices.Contains([]string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}, fsType)
}

func (b *builder) mounts() {
	used := map[string]bool{}
	for i := range b.spec.Mounts {
		m := &b.spec.Mounts[i]
		what := fmt.Sprintf("mount %q", m.Destination)
		switch {
		case !path.IsAbs(m.Destination) || slices.Contains(strings.Split(m.Destination, "/"), ".."):
			b.refuse(what, "its destination is not a plain absolute path", "")
		case archive.IsBind(*m):
			source, ok := b.opts.Mounts[m.Destination]
			if !ok {
				b.refuse(what, fmt.Sprintf("a bind mount, of %q on the dumping host", m.Source), "--map-mount "+m.Destination+"=SOURCE")
				continue
			}
			used[m.Destination] = true
			m.Source = source
		case !kernelMount(m.Type):
			b.refuse(what, fmt.Sprintf("a file system of type %q", m.Type), "")
		}
	}
	for dest := range b.opts.Mounts {
		if !used[dest] {
			b.refuse("--map-mount "+dest, "the archive has no bind mount there", "")
		}
	}
}

func (b *builder) namespaces() {
	types := map[specs.LinuxNamespaceType]bool{}
	for i := range b.spec.Linux.Namespaces {
		ns := &b.spec.Linux.Namespaces[i]
		types[ns.Type] = true
		granted, ok := b.opts.ExternalNamespaces[ns.Type]
		if ns.Path != "" && !ok {
			b.refuse(string(ns.Type)+" namespace", fmt.Sprintf("it is %q of the dumping host", ns.Path), "--namespace "+string(ns.Type)+"=PATH")
			continue
		}
		ns.Path = granted // empty: one of its own, as it had
	}
	for t, path := range b.opts.ExternalNamespaces {
		if !types[t] {
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	for _, t := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace} {
		if !types[t] {
			b.refuse(string(t)+" namespace", "the container shared the host's", "")
		}
	}
}

// linux sets what names an object of the dumping host.
func (b *builder) linux() {
	l := b.spec.Linux
	if l.CgroupsPath != "" {
		l.CgroupsPath = "" // the runtime chooses by the new ID
		b.drop("cgroup path")
	}
	for _, d := range l.Devices {
		b.refuse("device "+d.Path, fmt.Sprintf("node %s %d:%d of the host", d.Type, d.Major, d.Minor), "")
	}
	if l.Seccomp != nil && l.Seccomp.ListenerPath != "" {
		b.refuse("seccomp listener", fmt.Sprintf("socket %q of the dumping host", l.Seccomp.ListenerPath), "")
	}
	if l.RootfsPropagation == "shared" || l.RootfsPropagation == "rshared" {
		b.refuse("root propagation", "mounts would appear on this host", "")
	}
	if b.spec.Process.SelinuxLabel != "" || l.MountLabel != "" || b.spec.Process.ApparmorProfile != "" {
		b.spec.Process.SelinuxLabel, l.MountLabel, b.spec.Process.ApparmorProfile = "", "", ""
		b.drop("security labels of the dumping host")
	}
}
