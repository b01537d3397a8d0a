package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// Options are what an operator says of one restore.
type Options struct {
	// Rootfs becomes root.path; absolute.
	Rootfs string
	// Grants are what the archive may have beyond the defaults.
	Grants Grants
	// Mounts grants bind mounts: destination to host path. In contrast to those of Grants, one that the
	// archive has no use for is refused: it is a mistake.
	Mounts map[string]string
	// Private tells that the source of a destination was made for this container alone, so that nothing of the
	// host is granted with it. nil: none was.
	Private func(destination string) bool
	// ExternalNamespaces grants namespaces by type: the path to join.
	ExternalNamespaces map[specs.LinuxNamespaceType]string
	// Annotations are added to the result.
	Annotations map[string]string
	// Own says that this host made the archive, which therefore keeps what its container had here:
	// capabilities, devices, filters, labels and so on. Bind mounts, namespaces by path and hooks
	// still need a grant, because they belong to one container and not to its copies.
	Own bool
	// HasDevice tells whether a node of this host is the device that the archive says. nil: none is.
	HasDevice func(specs.LinuxDevice) bool
}

// Reason is one thing that an archive asks for and was not granted.
type Reason struct {
	What  string // the member of the spec
	Why   string
	Grant string // the flag that grants it; empty if none does
}

// RefusedError lists all reasons why a spec may not be used, or the first hundred and how many more there are.
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
	// Granted names what goes beyond the defaults, with the grants that were made use of.
	Granted []string
	// Filter tells that every task is to be held by the spec's system call filter, whichever
	// filters the images hold besides.
	Filter bool
}

// Rebuild makes of an archive's spec the one that is restored here. The argument is not
// changed. A [RefusedError] holds everything that would have to be granted.
func Rebuild(archived *specs.Spec, opts Options) (*Result, error) {
	old, err := clone(archived)
	if err != nil {
		return nil, err
	}
	if old.Root == nil || old.Process == nil || old.Linux == nil {
		return nil, fmt.Errorf("%w: its spec has no root, process or linux section", archive.ErrRejected)
	}
	b := &builder{old: old, opts: opts, spec: &specs.Spec{
		Version: old.Version, Root: &specs.Root{Path: opts.Rootfs, Readonly: old.Root.Readonly},
		Hostname: old.Hostname, Domainname: old.Domainname,
	}}
	b.version()
	b.hooks()
	b.annotations()
	b.mounts()
	b.process()
	b.linux()
	if err := b.seccomp(); err != nil {
		return nil, err
	}
	if len(b.refused) > 0 {
		return nil, &RefusedError{Reasons: bounded(b.refused)}
	}
	b.result.Spec = b.spec
	return &b.result, nil
}

// maxReasons bounds what an archive can make a terminal show.
const maxReasons = 100

// bounded leaves out what nobody would read. What no flag grants goes before the rest then.
func bounded(reasons []Reason) []Reason {
	more := len(reasons) - maxReasons
	if more <= 0 {
		return reasons
	}
	slices.SortStableFunc(reasons, func(a, b Reason) int { return min(len(a.Grant), 1) - min(len(b.Grant), 1) })
	return append(reasons[:maxReasons:maxReasons], Reason{What: fmt.Sprintf("%d more", more), Why: "they are not shown"})
}

// plainWord is what a command line takes without quotes.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=-]+$`)

// shown is a name of the archive as it is typed, quoted unless it is plain.
func shown(name string) string {
	if plainWord.MatchString(name) && len(name) < 200 {
		return name
	}
	return archive.QuoteName(name)
}

func clone(s *specs.Spec) (*specs.Spec, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var c specs.Spec
	return &c, json.Unmarshal(data, &c)
}

// builder makes spec of what is known in old.
type builder struct {
	old     *specs.Spec
	spec    *specs.Spec
	opts    Options
	result  Result
	refused []Reason
}

func (b *builder) refuse(what, why, grant string) {
	b.refused = append(b.refused, Reason{What: what, Why: why, Grant: grant})
}

func (b *builder) drop(what string) { b.result.Dropped = append(b.result.Dropped, what) }

// allowed tells whether one of the names was granted, and notes it.
func (b *builder) allowed(names ...string) bool {
	if b.opts.Own {
		b.granted("what it had when this host archived it")
		return true
	}
	for _, name := range names {
		if b.opts.Grants.Has(name) {
			b.granted(name)
			return true
		}
	}
	return false
}

func (b *builder) granted(what string) {
	if !slices.Contains(b.result.Granted, what) {
		b.result.Granted = append(b.result.Granted, what)
	}
}

// specVersion are the versions of the runtime specification whose fields are known here.
var specVersion = regexp.MustCompile(`^1\.[0-3]\.[0-9]+(-[0-9A-Za-z.+-]+)?$`)

func (b *builder) version() {
	if !specVersion.MatchString(b.old.Version) {
		b.refuse("ociVersion", fmt.Sprintf("version %s of the runtime specification is not known here", archive.QuoteName(b.old.Version)), "")
	}
}

// hooks are programs of the dumping host; nothing in the images needs them.
func (b *builder) hooks() {
	h := b.old.Hooks
	if h == nil {
		return
	}
	//nolint:staticcheck // archives have the old kind too
	all := slices.Concat(h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop)
	if len(all) == 0 {
		return
	}
	switch b.opts.Grants.Hooks {
	case AllowHooks:
		b.spec.Hooks = h
		for _, hook := range all {
			b.granted("hook " + archive.QuoteName(hook.Path))
		}
	case DropHooks:
		b.drop("hooks")
	default:
		for _, hook := range all {
			b.refuse("hook "+archive.QuoteName(hook.Path), "a program that the runtime would run as root on this host",
				"--allow-hooks, or --drop-hooks to do without")
		}
	}
}

// maxAnnotationBytes is the length of an annotation that is kept: runtimes hand all of them to every hook.
const maxAnnotationBytes = 64 << 10

func (b *builder) annotations() {
	for key, value := range b.old.Annotations {
		unsafe := func(prefix string) bool { return strings.HasPrefix(key, prefix) }
		if slices.ContainsFunc(unsafeAnnotations(), unsafe) || len(key)+len(value) > maxAnnotationBytes {
			b.drop("annotation " + archive.QuoteName(key))
			continue
		}
		b.annotate(key, value)
	}
	slices.Sort(b.result.Dropped) // a map has no order
	for key, value := range b.opts.Annotations {
		b.annotate(key, value)
	}
}

func (b *builder) annotate(key, value string) {
	if b.spec.Annotations == nil {
		b.spec.Annotations = map[string]string{}
	}
	b.spec.Annotations[key] = value
}

func (b *builder) mounts() {
	used := map[string]bool{}
	for _, m := range b.old.Mounts {
		what := "mount " + archive.QuoteName(m.Destination)
		switch {
		case !path.IsAbs(m.Destination) || slices.Contains(strings.Split(m.Destination, "/"), ".."):
			b.refuse(what, "its destination is not a plain absolute path", "")
		case archive.IsBind(m):
			source, ok := b.opts.Mounts[m.Destination]
			if ok {
				used[m.Destination] = true
			} else if source, ok = b.opts.Grants.Mounts[m.Destination]; !ok {
				b.refuse(what, fmt.Sprintf("a bind mount, of %s on the dumping host", archive.QuoteName(m.Source)),
					"--map-mount "+shown(m.Destination)+"=SOURCE")
				continue
			}
			if b.opts.Private == nil || !b.opts.Private(m.Destination) {
				b.granted("mount " + archive.QuoteName(m.Destination) + " from " + archive.QuoteName(source))
			}
			m.Source = source
		case !kernelMount(m.Type):
			b.refuse(what, "a file system of type "+archive.QuoteName(m.Type), "")
		}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			m.UIDMappings, m.GIDMappings = nil, nil
			b.drop("owners mapped on " + what)
		}
		b.spec.Mounts = append(b.spec.Mounts, m)
	}
	for _, dest := range slices.Sorted(maps.Keys(b.opts.Mounts)) {
		if !used[dest] {
			b.refuse("--map-mount "+dest, "the archive has no bind mount there", "")
		}
	}
}
