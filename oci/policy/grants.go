package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// Grants are what an operator lets an archive have beyond the defaults. The zero value grants
// nothing.
type Grants struct {
	names map[string]bool // in the form that Add takes, capabilities without CAP_
	// Hooks says what becomes of an archive's hooks, which are refused by default.
	Hooks HookRule
	// Mounts grants bind mounts: destination to host path. A file of grants may name more than
	// an archive has; see [Options] for those of one restore.
	Mounts map[string]string
}

// HookRule is what becomes of the hooks of an archive, which are programs of this host to run.
type HookRule string

// The rules for hooks.
const (
	RefuseHooks HookRule = ""
	AllowHooks  HookRule = "allow"
	DropHooks   HookRule = "drop"
)

// The kinds of grants: what stands before the colon.
const (
	grantCapability = "cap"
	grantDevice     = "device"
	grantSysctl     = "sysctl"
	grantSeccomp    = "seccomp"
	grantPaths      = "paths"
	grantHost       = "host"
	grantMount      = "mount"
	grantEngine     = "engine"
)

// GrantPodman lets Podman restore an archive, whoever made it.
const GrantPodman = grantEngine + ":podman"

var (
	deviceRule = regexp.MustCompile(`^[abc]:(\*|[0-9]{1,7}):(\*|[0-9]{1,7})$`)
	sysctlName = regexp.MustCompile(`^[a-z0-9_./*-]+$`)
)

// ErrGrant says that a grant is not one.
var ErrGrant = errors.New("no such grant")

// Add grants one thing by its name:
//
//	cap:NAME             a capability, cap:ALL for all of them
//	device:PATH          a device node, which must be the same one on this host
//	device:T:MAJ:MIN     the use of devices by type (a, b, c) and numbers, * for any
//	sysctl:NAME          a kernel parameter
//	seccomp:unconfined   the archive's own system call filters instead of the default one
//	paths:unmasked       /proc and /sys without read-only and hidden parts
//	host:NAMESPACE       this host's network, ipc or uts namespace
//	mount:shared         a root whose mounts appear on this host
//	engine:podman        Podman restores it, which refuses nothing
//
// Any other name is an [ErrGrant].
func (g *Grants) Add(name string) error {
	kind, what, _ := strings.Cut(name, ":")
	ok := false
	switch kind {
	case grantCapability:
		what = strings.TrimPrefix(strings.ToUpper(what), capabilityPrefix)
		ok = what == allCapabilities || slices.Contains(capabilities(), what)
	case grantDevice:
		ok = deviceRule.MatchString(what) || path.IsAbs(what) && path.Clean(what) == what
	case grantSysctl:
		ok = sysctlName.MatchString(what)
	case grantSeccomp:
		ok = what == "unconfined"
	case grantPaths:
		ok = what == "unmasked"
	case grantHost:
		ok = slices.Contains(shareable(), specs.LinuxNamespaceType(what))
	case grantMount:
		ok = what == "shared"
	case grantEngine:
		ok = name == GrantPodman
	}
	if !ok {
		return fmt.Errorf("%w: %s", ErrGrant, archive.QuoteName(name))
	}
	if g.names == nil {
		g.names = map[string]bool{}
	}
	g.names[kind+":"+what] = true
	return nil
}

// Has tells whether a thing was granted by exactly this name.
func (g Grants) Has(name string) bool { return g.names[name] }

// Names are the grants by name, sorted.
func (g Grants) Names() []string { return slices.Sorted(maps.Keys(g.names)) }

// ParseFile reads an operator's file of grants, a JSON object:
//
//	{
//	  "allow": ["cap:NET_ADMIN", "device:/dev/fuse"],
//	  "hooks": "drop",
//	  "mapMount": {"/data": "/srv/data"}
//	}
//
// Every member may be left out; an unknown one is an error, because a misspelt rule is none. name
// is what errors call the file.
func ParseFile(name string, b []byte) (Grants, error) {
	var f struct {
		Allow    []string          `json:"allow"`
		Hooks    HookRule          `json:"hooks"`
		MapMount map[string]string `json:"mapMount"`
	}
	g := Grants{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return g, fmt.Errorf("read policy %q: %w", name, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return g, fmt.Errorf("read policy %q: data after the object", name)
	}
	for _, a := range f.Allow {
		if err := g.Add(a); err != nil {
			return g, fmt.Errorf("read policy %q: %w", name, err)
		}
	}
	if !slices.Contains([]HookRule{RefuseHooks, AllowHooks, DropHooks}, f.Hooks) {
		return g, fmt.Errorf("read policy %q: hooks are %q, want allow or drop", name, f.Hooks)
	}
	for dest, source := range f.MapMount {
		if !path.IsAbs(dest) || !path.IsAbs(source) {
			return g, fmt.Errorf("read policy %q: mount %s=%s is not of absolute paths", name, dest, source)
		}
	}
	g.Hooks, g.Mounts = f.Hooks, f.MapMount
	return g, nil
}
