package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/policy"
)

// grantFlags are what an operator lets an archive have.
type grantFlags struct {
	Allow      []string `help:"Grant what goes beyond the defaults: cap:NAME, device:PATH, device:TYPE:MAJOR:MINOR, sysctl:NAME, seccomp:unconfined, paths:unmasked, host:network, host:ipc, host:uts, mount:shared, engine:podman; may be repeated." placeholder:"GRANT"`
	AllowHooks bool     `help:"Let the runtime run the hooks that the archive names, as root on this host."`
	DropHooks  bool     `help:"Restore without the hooks that the archive names."`
	Policy     string   `help:"File with grants, in JSON." type:"path" placeholder:"FILE" env:"CKARCHIVE_POLICY"`
}

// grants are those of the flags and of the file together. The flags decide about hooks.
func (f grantFlags) grants() (policy.Grants, error) {
	var g policy.Grants
	if f.AllowHooks && f.DropHooks {
		return g, usagef("--allow-hooks and --drop-hooks exclude each other")
	}
	if f.Policy != "" {
		var err error
		if g, err = readPolicy(f.Policy); err != nil {
			return g, err
		}
	}
	for _, name := range f.Allow {
		if err := g.Add(name); err != nil {
			return g, &usageError{err: fmt.Errorf("--allow: %w", err), hint: "ckarchive restore --help names the kinds of grants"}
		}
	}
	switch {
	case f.AllowHooks:
		g.Hooks = policy.AllowHooks
	case f.DropHooks:
		g.Hooks = policy.DropHooks
	}
	return g, nil
}

// grantedDevices tells of a device node whether it was granted.
func (f grantFlags) grantedDevices() (func(name string) bool, error) {
	g, err := f.grants()
	return func(name string) bool { return g.Has("device:" + name) }, err
}

// readPolicy reads a file of grants, which nobody else may be able to change.
func readPolicy(path string) (policy.Grants, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return policy.Grants{}, withHint(&environmentError{fmt.Errorf("read policy: %w", err)}, "--policy names a file with grants")
	}
	if err := onlyOurs(path, unix.S_IFREG); err != nil {
		return policy.Grants{}, withHint(&environmentError{fmt.Errorf("policy %w", err)}, "give it to root, with mode 0644 or less")
	}
	g, err := policy.ParseFile(path, b)
	if err != nil {
		return g, withHint(&environmentError{err}, "docs/security.md has an example")
	}
	return g, nil
}

// onlyOurs wants a file of this type that no other user can change.
func onlyOurs(path string, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("%q is of another type", path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return fmt.Errorf("%q can be changed by others", path)
	}
	return nil
}

// policyOptions are the operator's words for this restore.
func (r *restore) policyOptions() (policy.Options, error) {
	namespaces, err := r.cmd.namespaces()
	if err != nil {
		return policy.Options{}, err
	}
	g, err := r.cmd.grants()
	sources := r.bindSources()
	return policy.Options{
		Rootfs: r.rootfs, Grants: g, Mounts: sources, ExternalNamespaces: namespaces, Own: r.own, HasDevice: hasDevice,
		Private: func(dest string) bool { return sources[dest] != "" && r.cmd.MapMount[dest] == "" },
	}, err
}

// hasDevice tells whether this host's node of that path is the same device.
func hasDevice(d specs.LinuxDevice) bool {
	var st unix.Stat_t
	if err := unix.Stat(d.Path, &st); err != nil {
		return false
	}
	kind := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK}[d.Type]
	return st.Mode&unix.S_IFMT == kind && int64(unix.Major(st.Rdev)) == d.Major && int64(unix.Minor(st.Rdev)) == d.Minor
}

// confine holds the images against the spec, after it put the spec's system call filter on their
// tasks where the policy wants that.
func (r *restore) confine(ctx context.Context, images string, spec *specs.Spec) error {
	if r.filter {
		program, err := policy.Compile(spec.Linux.Seccomp)
		if err != nil {
			return withHint(&environmentError{err}, "--allow seccomp:unconfined restores without it")
		}
		if err := criu.Confine(ctx, images, program); err != nil {
			return err
		}
	}
	_, err := criu.Check(ctx, images, criu.CheckOptions{Spec: spec, Guard: policy.Guarded(spec), Own: r.own})
	return err
}

// sayGrants reports what of the archive's spec was granted and what was left out.
func (r *restore) sayGrants() {
	for _, g := range r.granted {
		r.app.say("granted: %s", g)
	}
	for _, d := range r.leftOut {
		r.app.say("left out of the archive's spec: %s", d)
	}
}

// grantHint tells with which flag the check of images would be content.
func grantHint(err error) error {
	var refused *policy.RefusedError
	if errors.As(err, &refused) && slices.ContainsFunc(refused.Reasons, func(r policy.Reason) bool { return r.Grant == "" }) {
		return withHint(err, "what has no flag cannot be granted; a bundle of your own with --bundle decides everything itself")
	}
	return err
}
