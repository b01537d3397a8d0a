package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/policy"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// question is one thing that decides whether a checkpoint can be restored here.
type question struct {
	area string // what it is about: part of the output of check
	// ask gives what it found, or why the restore is not possible. An empty answer says that an
	// earlier question has to be answered first.
	ask func(context.Context) (string, error)
}

// questions are all that the metadata answers, in the order in which they build on each other.
func (r *restore) questions() []question {
	return []question{
		{"format", r.checkFormat},
		{"architecture", r.checkArchitecture},
		{"terminal", r.checkTerminal},
		{"id", r.chooseID},
		{"runtime", r.chooseRuntime},
		{"options", r.settleOptions},
		{"sandbox", r.checkSandbox},
		{"id", r.checkFree},
		{"base", r.checkBase},
		{"space", r.checkSpace},
		{"mounts", r.checkMounts},
		// Refuses now what it would refuse later, when the archive has been unpacked.
		{"policy", r.checkPolicy},
	}
}

// judge decides from the archive's metadata whether and how it can be restored here.
func (r *restore) judge(ctx context.Context, files map[string][]byte) error {
	if err := r.read(files); err != nil {
		return err
	}
	if !r.sandboxed() {
		var err error
		if r.criu, err = r.app.findCRIU(ctx); err != nil {
			return err
		}
	}
	for _, q := range r.questions() {
		if _, err := q.ask(ctx); err != nil {
			return err
		}
	}
	return nil
}

// read takes the metadata members.
func (r *restore) read(files map[string][]byte) error {
	spec := &specs.Spec{}
	if err := archive.DecodeJSON(archive.SpecDump, files[archive.SpecDump], spec); err != nil {
		return err
	}
	if err := archive.DecodeJSON(archive.ConfigDump, files[archive.ConfigDump], &r.config); err != nil {
		return err
	}
	r.spec = spec
	r.meta = &archive.Metadata{}
	if b, ok := files[archive.MetadataFile]; ok {
		meta, err := archive.ParseMetadata(b)
		if err != nil {
			return err
		}
		r.meta = meta
		r.own = r.app.madeHere(b)
	}
	return nil
}

// fit holds the images in dir against this host and its CRIU. scratch is that of [criu.FitOptions].
func (r *restore) fit(ctx context.Context, dir, scratch string) ([]criu.Finding, error) {
	p := r.spec.Process
	return r.criu.Fit(ctx, dir, criu.FitOptions{
		DumpedBy: r.meta.CRIU, CPU: criu.CPUMode(r.cmd.CPU), TCPClose: r.flags().TCPClose,
		Confined: r.cmd.LSMProfile == "" && p != nil && (p.ApparmorProfile != "" || p.SelinuxLabel != ""), Scratch: scratch,
	})
}

// judgeImages decides from the unpacked images, before anything is made of them.
func (r *restore) judgeImages(ctx context.Context) error {
	dir := filepath.Join(r.unpacked(), archive.CheckpointDir)
	if r.sandboxed() {
		return r.judgeSandbox(dir)
	}
	found, err := r.fit(ctx, dir, r.work()) // what a killed restore leaves there goes with it
	if err != nil {
		return err
	}
	for _, f := range found {
		switch f.Severity {
		case criu.Blocker:
			return withHint(&environmentError{fmt.Errorf("restore container %q: %s", r.id, f.Told())}, asFlag(f.Remedy, f.Option))
		case criu.Warning:
			r.app.warn("%s", f.Told())
		}
	}
	return nil
}

func (r *restore) checkFormat(context.Context) (string, error) {
	switch r.meta.Format {
	case "", archive.FormatCRIU:
		return "images of CRIU", nil
	case archive.FormatGVisor:
		return "images of a sandbox of gVisor", nil
	}
	return "", withHint(&environmentError{fmt.Errorf("its images are of %s, neither of CRIU nor of gVisor", archive.QuoteName(r.meta.Format))},
		"restore it with the runtime that made it")
}

func (r *restore) checkArchitecture(context.Context) (string, error) {
	switch arch := r.meta.Host.Architecture; arch {
	case "":
		return "", nil // told by the images
	case goruntime.GOARCH:
		return arch, nil
	default:
		return "", withHint(&environmentError{fmt.Errorf("its processes are of architecture %s, this host is %s", archive.QuoteName(arch), goruntime.GOARCH)},
			"restore it on a host of that architecture")
	}
}

func (r *restore) checkTerminal(context.Context) (string, error) {
	switch {
	case r.spec.Process == nil || !r.spec.Process.Terminal:
		return "none", nil
	case r.cmd.ConsoleSocket == "":
		return "", withHint(&environmentError{errors.New("the container has a terminal, and nobody to hold its other end")},
			"give --console-socket SOCKET, on which a program such as recvtty listens")
	}
	return r.cmd.ConsoleSocket, nil
}

func (r *restore) chooseID(context.Context) (string, error) {
	id := r.config.ID
	switch {
	case r.cmd.ID != "":
		id = r.cmd.ID
	case r.meta.Container.ID != "":
		id = r.meta.Container.ID
	}
	if err := runtime.CheckID(id); err != nil {
		return "", withHint(fmt.Errorf("%w: %w", archive.ErrRejected, err), "give an ID with --id")
	}
	r.id = id
	r.home = r.app.containerHome(r.id)
	r.bundle = r.cmd.Bundle
	if r.bundle == "" {
		r.bundle = filepath.Join(r.home, "bundle")
	}
	return "", nil // told when it is known to be free
}

// chooseRuntime takes the runtime of the archive where it is installed, else one that
// restores.
func (r *restore) chooseRuntime(ctx context.Context) (string, error) {
	if r.cmd.Engine == "direct" || r.cmd.Runtime == runtime.Direct {
		if r.sandboxed() {
			return "", withHint(&environmentError{errors.New("its images are of gVisor: CRIU restores none of them")}, "leave out --engine direct: runsc restores it")
		}
		r.cmd.Engine = "direct"
		var err error
		r.runtime, err = runtime.Lookup(runtime.Direct, r.app.directDir())
		return "none: CRIU alone", err
	}
	names := []string{r.cmd.Runtime}
	switch {
	case r.cmd.Runtime != "":
	case r.sandboxed():
		names = []string{"runsc"}
	default:
		names = []string{r.meta.Container.Runtime.Name, "runc", "crun"}
	}
	var errs error
	for _, name := range names {
		// The archive's word is only a name of our table: a path would be a program to run.
		if name != r.cmd.Runtime && !slices.Contains(runtime.Names(), name) || name == runtime.Direct {
			continue
		}
		rt, err := runtime.Lookup(name, r.cmd.RuntimeRoot)
		if err == nil {
			err = rt.CheckRestore(ctx, r.images())
		}
		if err == nil {
			r.runtime = rt
			return fmt.Sprintf("%s (%s)", rt.Name, rt.Path), nil
		}
		errs = errors.Join(errs, err)
	}
	if r.sandboxed() {
		return "", withHint(errs, "install runsc, or name it with --runtime PATH")
	}
	return "", withHint(errs, "install runc, name another one with --runtime, or restore with --engine direct")
}

// checkMounts wants every host path of --map-mount.
func (r *restore) checkMounts(context.Context) (string, error) {
	for dest, source := range r.cmd.MapMount {
		if _, err := os.Stat(source); err != nil {
			return "", withHint(&environmentError{fmt.Errorf("--map-mount %s=%s: no such file or directory on this host", dest, source)},
				"make it, or name another source")
		}
	}
	if len(r.cmd.MapMount) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%d are mapped to paths of this host", len(r.cmd.MapMount)), nil
}

// checkSpace wants room for the unpacked archive and for the root file systems beside it.
func (r *restore) checkSpace(ctx context.Context) (string, error) {
	need := r.unpackedNeed(ctx) + r.baseNeed()
	for _, m := range r.meta.Members {
		if m.Name == archive.RootfsDiff && r.cmd.Rootfs == "" && !r.ownBundle() {
			need += m.Size * int64(max(r.cmd.Count, 1)) // it is applied before the unpacked archive is removed
		}
	}
	if need == 0 {
		return "", nil // an archive without metadata: writing tells
	}
	free, err := freeSpaceBelow(r.app.containersDir())
	if err != nil {
		return "", err
	}
	if need > free {
		return "", fmt.Errorf("%w: unpacked it needs %s, %q has %s free", archive.ErrNoSpace,
			units.BytesSize(float64(need)), r.app.containersDir(), units.BytesSize(float64(free)))
	}
	return fmt.Sprintf("unpacked it needs %s of %s", units.BytesSize(float64(need)), units.BytesSize(float64(free))), nil
}

func (r *restore) checkPolicy(context.Context) (string, error) {
	if r.id == "" {
		return "", nil
	}
	spec, err := r.rebuildSpec()
	if err != nil {
		return "", err
	}
	if r.runtime.Name != runtime.Direct && !r.sandboxed() {
		if err := criu.CheckConfig(spec, r.cmd.MapMount, r.meta.Externals); err != nil {
			return "", withHint(&environmentError{fmt.Errorf("restore container %q: %w", r.id, err)}, "restore it with --engine direct")
		}
	}
	err = criu.CheckMapped(spec, r.cmd.MapMount, r.meta.Externals)
	return "the container gets nothing that was not granted", withHint(err, "name a path of this host for each with --map-mount DEST=SOURCE")
}

// rebuildSpec makes the spec that is restored: the operator's own config.json of
// --bundle, or the archive's as far as the policy lets it.
func (r *restore) rebuildSpec() (*specs.Spec, error) {
	if r.ownBundle() {
		path := filepath.Join(r.bundle, "config.json")
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		spec := &specs.Spec{}
		if err := json.Unmarshal(b, spec); err != nil {
			return nil, fmt.Errorf("read %q: %w", path, err)
		}
		if r.cmd.CgroupPath != "" || len(r.cmd.Namespace) > 0 || r.cmd.Name != "" {
			return nil, usagef("--cgroup-path, --namespace and --name change the config.json, and %q is used as it is: write them there", path)
		}
		return spec, r.bundleRootfs(spec)
	}
	r.rootfs = r.cmd.Rootfs
	if r.rootfs == "" {
		r.rootfs = filepath.Join(r.bundle, "rootfs")
	}
	opts, err := r.policyOptions()
	if err != nil {
		return nil, err
	}
	opts.Annotations = r.annotations()
	res, err := policy.Rebuild(r.spec, opts)
	if err != nil {
		return nil, grantHint(fmt.Errorf("restore container %q: %w", r.id, err))
	}
	r.granted, r.leftOut, r.filter = res.Granted, res.Dropped, res.Filter
	if r.cmd.Name == "" {
		delete(res.Spec.Annotations, runtime.AnnotationName) // it was the dumped container's
	}
	res.Spec.Linux.CgroupsPath = r.cgroup() // empty: the engine chooses by the ID
	return res.Spec, nil
}

// bindSources are those of --map-mount that are for the configuration. What was mounted below a
// bind mount is in the images alone, and CRIU is told of it.
func (r *restore) bindSources() map[string]string {
	sources := r.mountSources()
	maps.DeleteFunc(sources, func(dest, _ string) bool {
		bind := func(m specs.Mount) bool { return m.Destination == dest }
		external := func(e archive.External) bool { return e.Kind == "mount" && e.Path == dest }
		return !slices.ContainsFunc(r.spec.Mounts, bind) && slices.ContainsFunc(r.meta.Externals, external)
	})
	return sources
}

// annotations are what the bundle says of its container.
func (r *restore) annotations() map[string]string {
	a := map[string]string{runtime.AnnotationGeneration: strconv.Itoa(r.meta.Container.Generation)}
	if r.cmd.Name != "" {
		a[runtime.AnnotationName] = r.cmd.Name
	}
	return a
}

// bundleRootfs takes the root directory of an operator's bundle, unless --rootfs names another.
func (r *restore) bundleRootfs(spec *specs.Spec) error {
	if spec.Root == nil || spec.Process == nil || spec.Linux == nil {
		return usagef("%s/config.json has no root, process or linux section", r.bundle)
	}
	if r.cmd.Rootfs != "" {
		spec.Root.Path = r.cmd.Rootfs
	}
	r.rootfs = spec.Root.Path
	if !filepath.IsAbs(r.rootfs) {
		r.rootfs = filepath.Join(r.bundle, r.rootfs)
	}
	return nil
}
