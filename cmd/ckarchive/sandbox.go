package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// A container of runsc runs in a sandbox with a kernel of its own, gVisor. CRIU sees nothing of it:
// runsc saves the sandbox as a whole. The protocol is that of every capture: runsc pauses the sandbox,
// saves it paused, and it is killed or resumed when the archive is complete.

// sandboxed tells whether the container is one of gVisor.
func sandboxed(c *runtime.Container) bool { return c.Runtime.Format() == archive.FormatGVisor }

// prepareSandbox finds out what can fail before a sandbox is touched.
func (x *export) prepareSandbox(ctx context.Context) error {
	if flags := slices.Sorted(maps.Keys(x.cmd.given())); len(flags) > 0 {
		return &usageError{
			err:  fmt.Errorf("--%s: an option of CRIU, and container %q runs in a sandbox of gVisor", strings.Join(flags, ", --"), x.ctr.ID),
			hint: "leave it out: runsc saves all that is in the sandbox",
		}
	}
	x.cmd.Engine = engineRuntime // there is no other
	return x.describe(ctx)
}

// dumpSandbox lets runsc write its images, and reads from them what they are.
func (x *export) dumpSandbox(ctx context.Context, images string) error {
	if err := os.Mkdir(images, 0o700); err != nil {
		return err
	}
	processes, err := x.ctr.SandboxProcesses(ctx)
	if err != nil {
		return err
	}
	if err := x.ctr.SaveSandbox(ctx, images); err != nil {
		return err
	}
	if x.meta.Externals, err = x.ctr.SandboxOutput(); err != nil { // while it stands still
		return err
	}
	saved, err := runtime.CheckSandbox(images)
	if err != nil {
		return fmt.Errorf("images of the dump are not whole: %w", err)
	}
	x.meta.Sandbox = x.ctr.Sandbox
	x.meta.Container.Processes, x.meta.Container.MemoryBytes = processes, saved.MemoryBytes
	return nil
}

// lookAtSandbox is what check says of a container of runsc. Nothing in it can stop runsc that could be
// seen from outside.
func lookAtSandbox(ctx context.Context, ctr *runtime.Container) (criu.Report, error) {
	processes, err := ctr.SandboxProcesses(ctx)
	if err != nil {
		return criu.Report{}, err
	}
	rep := criu.Report{Tasks: processes, Findings: []criu.Finding{{
		Code: "sandbox", Severity: criu.Info, Count: 1,
		Text: "it runs in a sandbox of gVisor: runsc saves it, with all processes in it, and CRIU is not needed",
	}}}
	if memory, err := ctr.MemoryUsage(); err == nil {
		rep.Memory = memory
	}
	if !inOverlay(ctr.Sandbox) {
		rep.Findings = append(rep.Findings, criu.Finding{
			Code: "sandbox-files", Severity: criu.Info, Count: 1, Subject: ctr.Rootfs,
			Text: "the sandbox writes its files there, and not into an overlay of its own: they are archived from there",
		})
	}
	return rep, nil
}

// inOverlay tells whether what the container writes into its root file system is in the sandbox, and so
// in its images.
func inOverlay(s *archive.Sandbox) bool { return s.Overlay != "none" && s.Overlay != "" }

// sandboxed tells whether the archive holds a sandbox of gVisor.
func (r *restore) sandboxed() bool { return r.meta.Format == archive.FormatGVisor }

// images says whose the archive's are.
func (r *restore) images() string {
	if r.sandboxed() {
		return archive.FormatGVisor
	}
	return archive.FormatCRIU
}

// checkSandbox settles how the new sandbox is set up: as the dumped one was, as far as the archive may
// decide that, and as --runtime-flag says.
func (r *restore) checkSandbox(ctx context.Context) (string, error) {
	if !r.sandboxed() {
		if len(r.cmd.RuntimeFlag) > 0 {
			return "", usagef("--runtime-flag %s: it is for the sandboxes of runsc, and this is a checkpoint of CRIU", r.cmd.RuntimeFlag[0])
		}
		return "", nil
	}
	if err := r.checkSandboxVersion(ctx); err != nil {
		return "", err
	}
	flags, err := sandboxFlags(r.meta.Sandbox, r.cmd.RuntimeFlag)
	return strings.Join(flags, " "), err
}

// checkSandboxVersion wants the runsc of the dump: it restores what its own version saved, and nothing else.
func (r *restore) checkSandboxVersion(ctx context.Context) error {
	was := r.meta.Container.Runtime.Version
	if was == "" || r.runtime.Name == "" {
		return nil // runsc tells
	}
	here, err := r.runtime.Version(ctx)
	if err != nil || here == was {
		return err
	}
	return withHint(&environmentError{fmt.Errorf("it was saved by %s, and %s is %s: runsc restores only what its own version saved", archive.QuoteName(was), r.runtime.Path, here)},
		"name a runsc of that version with --runtime PATH")
}

// sandboxFlags are runsc's global flags for a sandbox like the dumped one. given go before what the
// archive says, and grant what it may not.
func sandboxFlags(dumped *archive.Sandbox, given []string) ([]string, error) {
	if dumped == nil {
		dumped = &archive.Sandbox{}
	}
	has := func(name string) bool {
		return slices.ContainsFunc(given, func(f string) bool { return f == name || strings.HasPrefix(f, name+"=") })
	}
	flags := []string{}
	for _, f := range []struct {
		name, value string
		harmless    bool
		why         string
	}{
		// The spec that is restored has been judged: it differs where it was not granted.
		{"restore-spec-validation", "warning", true, ""},
		{"network", dumped.Network, dumped.Network == "none" || dumped.Network == "sandbox", "it used the network of the host's kernel"},
		{"overlay2", dumped.Overlay, ownOverlay.MatchString(dumped.Overlay), "its overlay is in a directory of the dumping host"},
	} {
		switch {
		case has(f.name) || f.value == "":
		case f.harmless:
			flags = append(flags, f.name+"="+f.value)
		default:
			return nil, withHint(&environmentError{fmt.Errorf("the dumped sandbox had --%s=%s: %s", f.name, archive.QuoteName(f.value), f.why)},
				fmt.Sprintf("if that is wanted here too, grant it with --runtime-flag %s=VALUE", f.name))
		}
	}
	return append(flags, given...), nil
}

// ownOverlay is an overlay that needs no path of the host: it is in memory, beside the files that it covers,
// or there is none.
var ownOverlay = regexp.MustCompile(`^(none|(root|all):(self|memory)(,size=[0-9]+[a-zA-Z]*)?)$`)

// judgeSandbox looks at the unpacked images before anything is made of them.
func (r *restore) judgeSandbox(dir string) error {
	images, err := runtime.CheckSandbox(dir)
	if err != nil {
		return err
	}
	r.saved = images
	if r.meta.Sandbox != nil && images.Network != "" && images.Network != r.meta.Sandbox.Network {
		return fmt.Errorf("%w: the sandbox's network is %s in its images and %s in %s", archive.ErrRejected,
			archive.QuoteName(images.Network), archive.QuoteName(r.meta.Sandbox.Network), archive.MetadataFile)
	}
	return nil
}

// makeMountpoints makes the mount points that an archive leaves out: the sandbox wants to find in its root
// file system what it found there.
func (r *restore) makeMountpoints(spec *specs.Spec) error {
	root, err := os.OpenRoot(r.rootfs)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // read side
	for _, m := range spec.Mounts {
		inside := func(o specs.Mount) bool {
			return strings.HasPrefix(m.Destination, strings.TrimSuffix(o.Destination, "/")+"/")
		}
		if slices.ContainsFunc(spec.Mounts, inside) {
			continue // the other mount has it
		}
		if err := criu.PrepareMountpoint(root, path.Clean(m.Destination), m.Source); err != nil {
			return err
		}
	}
	return nil
}

// restoreSandbox lets runsc make the sandbox anew.
func (r *restore) restoreSandbox(ctx context.Context, images string, spec *specs.Spec) error {
	if err := r.makeMountpoints(spec); err != nil {
		return err
	}
	flags, err := sandboxFlags(r.meta.Sandbox, r.cmd.RuntimeFlag)
	if err != nil {
		return err
	}
	opts := runtime.SandboxRestoreOptions{
		ID: r.id, Bundle: r.bundle, ImagesDir: images, WorkDir: r.work(), ConsoleSocket: r.cmd.ConsoleSocket, Flags: flags,
	}
	if opts.Stdin, opts.Stdout, opts.Stderr, err = r.stdio(ctx); err != nil {
		return err
	}
	pid, err := r.runtime.RestoreSandbox(ctx, opts)
	if err != nil {
		return err
	}
	return r.found(ctx, pid)
}

// treeOfSandbox is why inspect --tree shows no processes of a sandbox.
func treeOfSandbox() error {
	return withHint(&environmentError{errors.New("its processes are in the kernel of a sandbox, whose images only runsc reads")},
		"inspect it without --tree; runsc ps shows the processes of a restored one")
}
