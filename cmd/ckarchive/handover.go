package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/oci/policy"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// intoFlags hand a checkpoint over to an engine of this host.
type intoFlags struct {
	Into       string   `help:"Let this engine restore it, as a container of its own: ${enum}." enum:",podman" default:"" placeholder:"ENGINE"`
	BaseImage  string   `help:"Full name of the image that the container was made from, for --into, if the archive does not say it." placeholder:"NAME"`
	BaseID     string   `name:"base-id" help:"ID of that image; by default the one that the engine has." placeholder:"DIGEST"`
	PodmanFlag []string `help:"Global flag of Podman for --into, as --root=DIR; may be repeated." sep:"none" placeholder:"FLAG"`
}

// intoPodman lets Podman restore the checkpoint.
func (c *restoreCmd) intoPodman(ctx context.Context, a *app) (err error) {
	if c.Rootfs != "" || c.Base != "" || c.Bundle != "" || c.ID != "" || len(c.MapMount) > 0 {
		return usagef("--into podman makes the root file system, the mounts and the ID as Podman does: leave out --rootfs, --base, --bundle, --id and --map-mount")
	}
	podman, err := runtime.LookupPodman(c.PodmanFlag)
	if err != nil {
		return withHint(err, "install podman, or restore without --into")
	}
	src, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	if err := c.trustForPodman(ctx, a, src); err != nil {
		return fmt.Errorf("restore %s into podman: %w", c.Source, err)
	}
	if err := a.recoverAll(ctx); err != nil {
		return err
	}
	dir, remove, err := capture.Scratch(ctx, a.spoolDir(), "into-podman")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	known, err := c.baseForPodman(ctx, a, podman, src)
	if err != nil {
		return fmt.Errorf("restore %s into podman: %w", c.Source, err)
	}
	file := filepath.Join(dir, "checkpoint.tar")
	in, meta, err := c.forPodman(ctx, a, src, known)
	if err != nil {
		return cause(ctx, fmt.Errorf("restore %s into podman: %w", c.Source, err))
	}
	out, err := a.createSink(ctx, location{kind: locationFile, path: file}, sinkOptions{Compression: archive.Uncompressed, Own: true})
	if err != nil {
		return errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, out, in, "convert"); err != nil {
		return cause(ctx, fmt.Errorf("read %s: %w", c.Source, err))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("the restore took longer than %s", c.Timeout))
	defer cancel()
	id, err := podman.Import(ctx, runtime.PodmanImport{File: file, Name: c.Name, Flags: podmanFlags(meta)})
	if err != nil {
		return &restoreError{cause(ctx, withHint(fmt.Errorf("restore %s into podman: %w", c.Source, err), "what ckarchive convert --to podman writes can be imported with any flag of podman container restore, as --ignore-volumes"))}
	}
	return a.printResult(id, restoreResult{ID: id, Runtime: "podman"})
}

// trustForPodman refuses an archive of which nothing is known. Podman holds archives against no policy: it runs their hooks,
// mounts what they name and gives their images to CRIU as they are.
func (c *restoreCmd) trustForPodman(ctx context.Context, a *app, src location) error {
	granted, err := c.grants()
	if err != nil || granted.Has(policy.GrantPodman) {
		return err
	}
	opts, err := c.sourceOptions(a, src)
	if err != nil || len(opts.Signers) > 0 {
		return err // who signed it is verified where it is read
	}
	if src.kind != locationStream { // which can be read once
		head, err := a.headOf(ctx, src, opts)
		if err != nil || a.madeHere(head[archive.MetadataFile]) {
			return err
		}
	}
	return &policy.RefusedError{Reasons: []policy.Reason{{
		What: "podman", Why: "it does with root's rights whatever an archive says, and this host did not make this one",
		Grant: "--allow " + policy.GrantPodman + ", or --require-signature KEY",
	}}}
}

// baseForPodman asks Podman for the ID of the base image where the archive and the flags name it only.
func (c *restoreCmd) baseForPodman(ctx context.Context, a *app, podman *runtime.PodmanEngine, src location) (foreign.Known, error) {
	known := foreign.Known{Base: archive.Base{Image: c.BaseImage, ImageID: c.BaseID}}
	if c.BaseID != "" {
		return known, nil
	}
	name := c.BaseImage
	if name == "" && src.kind != locationStream {
		opts, err := c.sourceOptions(a, src)
		if err != nil {
			return known, err
		}
		head, err := a.headOf(ctx, src, opts)
		if err != nil {
			return known, err
		}
		meta, err := archive.ParseMetadata(head[archive.MetadataFile])
		if err != nil || meta.Base == nil || meta.Base.ImageID != "" {
			return known, err
		}
		name = meta.Base.Image
	}
	if name == "" {
		return known, nil
	}
	var err error
	known.Base.ImageID, err = podman.ImageID(ctx, name)
	return known, err
}

// headOf reads the metadata of a checkpoint, by the names of the members.
func (a *app) headOf(ctx context.Context, loc location, opts sourceOptions) (_ map[string][]byte, err error) {
	src, err := a.openSource(ctx, loc, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	head, _, err := archive.Peek(ctx, src)
	return head, err
}

// forPodman gives the checkpoint in the form that Podman imports.
func (c *restoreCmd) forPodman(ctx context.Context, a *app, src location, known foreign.Known) (archive.Source, *archive.Metadata, error) {
	opts, err := c.sourceOptions(a, src)
	if err != nil {
		return nil, nil, err
	}
	opts.Known, opts.Digests = known, true
	in, err := a.converted(ctx, src, opts,
		foreign.ConvertOptions{Target: foreign.ForPodman, Known: known}, false)
	if err != nil {
		return nil, nil, err
	}
	head, in, err := peekNamed(ctx, in, c.Source)
	if err != nil {
		return nil, nil, err
	}
	meta, err := archive.ParseMetadata(head[archive.MetadataFile])
	if err != nil {
		return nil, nil, errors.Join(err, in.Close())
	}
	return in, meta, nil
}

// podmanFlags are the options of the dump that Podman wants to hear again: its archives do not
// record them.
func podmanFlags(meta *archive.Metadata) []string {
	flags := []string{}
	for _, name := range []string{"tcp-established", "file-locks"} {
		if meta.Options[name] == "true" {
			flags = append(flags, "--"+name)
		}
	}
	return flags
}

// restoreSteps are what an operator types, and what has to be set, for an engine to restore a
// checkpoint that is in a registry, or in a file.
func restoreSteps(engine, ref, file string, notes map[string]string) []string {
	base, id := notes["org.criu.checkpoint.rootfsImageName"], strings.TrimPrefix(notes["org.criu.checkpoint.rootfsImageID"], "sha256:")
	if base == "" {
		base = "BASE-IMAGE"
	}
	what := ref
	if file != "" {
		what = file
	}
	switch engine {
	case foreign.Podman:
		if file != "" {
			return []string{"podman pull " + base, "podman container restore --import " + file}
		}
		return []string{"podman pull " + base, "podman pull " + ref, "podman container restore " + ref}
	case foreign.CRIO:
		steps := []string{
			"# in crio.conf, section [crio.runtime]: enable_criu_support = true",
			"crictl pull " + base,
		}
		if file == "" {
			steps = append(steps, "crictl pull "+ref)
		}
		return append(steps,
			`# in container.json: "image": {"image": "`+what+`"}, and under "mounts" /etc/hosts and every bind mount that ckarchive inspect --tree shows as external`,
			"crictl create POD-ID container.json pod.json",
			"crictl start CONTAINER-ID")
	default:
		if id == "" {
			id = "BASE-IMAGE-ID"
		}
		steps := []string{
			"# containerd 2.1 to 2.3 only; later ones do not restore through the CRI",
			`# from 2.3.4 on, in config.toml, section [plugins."io.containerd.cri.v1.runtime"]: enable_experimental_restore_via_create = true`,
			"crictl pull " + base,
			"ctr -n k8s.io images tag " + base + " " + id,
		}
		if file == "" {
			steps = append(steps, "crictl pull "+ref)
		}
		return append(steps,
			`# in container.json: "image": {"image": "`+what+`"}, a command, and the mounts that the container had`,
			"crictl create POD-ID container.json pod.json",
			"crictl start CONTAINER-ID")
	}
}
