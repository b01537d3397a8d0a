package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/ckarchive/ckarchive/registry"
)

// pullCmd fetches a checkpoint.
type pullCmd struct {
	Remote string `arg:"" predictor:"name" help:"HOST/REPO:TAG[@DIGEST]."`
	Dest   string `arg:"" optional:"" help:"Where it goes; the local store by default."`
	remoteFlags
	Compress string `help:"zstd, gzip or none, when DEST is a file." placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
	Force    bool   `short:"f" help:"Replace an existing file."`
	// PrintRestoreCommand is the name of an engine.
	PrintRestoreCommand string `help:"Print how this engine restores it: ${enum}." enum:",podman,cri-o,containerd" default:"" placeholder:"ENGINE"`
	encryptFlags
	statsFlag
}

// Run implements the command.
func (c *pullCmd) Run(ctx context.Context, a *app) error {
	src, err := parseLocation(c.Remote)
	if err != nil {
		return err
	}
	if src.kind != locationName || onlyLocal(src.ref) {
		return &usageError{err: fmt.Errorf("%s is no name in a registry", c.Remote), hint: "write HOST/REPO:TAG"}
	}
	if c.Dest == "" {
		store, err := a.openStore(ctx, true)
		if err != nil {
			return err
		}
		keys, err := a.signersOf(src, nil)
		if err != nil {
			return err
		}
		desc, err := a.pull(ctx, store, src, keys, c.remoteFlags)
		if err != nil {
			return err
		}
		return c.printResult(ctx, a, src, desc.Digest.String(), transferResult{Digest: desc.Digest.String(), Reference: src.ref.String()})
	}
	return c.toDest(ctx, a, src)
}

// toDest writes what the registry holds straight to DEST.
func (c *pullCmd) toDest(ctx context.Context, a *app, src location) (err error) {
	dest, err := parseLocation(c.Dest)
	if err != nil {
		return err
	}
	repo, err := a.client(c.remoteFlags).Repository(src.ref.String())
	if err != nil {
		return err
	}
	keys, err := a.signersOf(src, nil)
	if err != nil {
		return err
	}
	if dest.kind == locationLayout || dest.kind == locationName || dest.kind == locationArchive {
		return c.copyImage(ctx, a, repo, src, dest, keys)
	}
	compression, err := dest.compression(c.Compress)
	if err != nil {
		return err
	}
	to, err := c.recipients(a)
	if err != nil {
		return err
	}
	image, err := a.openImage(ctx, repo, src.ref.Identifier(), sourceOptions{Signers: keys}.open(repo))
	if err != nil {
		return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
	}
	out, err := a.createSink(ctx, dest, sinkOptions{Compression: compression, Replace: c.Force, Encrypt: to})
	if err != nil {
		return errors.Join(err, image.Close())
	}
	if err := a.copyVerified(ctx, out, image, "pull"); err != nil {
		return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
	}
	return c.printResult(ctx, a, src, out.result(), transferResult{Path: out.path})
}

// printResult prints what was pulled, or how an engine restores it.
func (c *pullCmd) printResult(ctx context.Context, a *app, src location, line string, res transferResult) error {
	if err := c.print(a, nil); err != nil {
		return err
	}
	res.Timings = c.timings(a)
	if c.PrintRestoreCommand == "" {
		return a.printResult(line, res)
	}
	a.say("pulled %s", line)
	repo, err := a.client(c.remoteFlags).Repository(src.ref.String())
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, src.ref.Identifier())
	if err != nil {
		return err
	}
	image, err := artifact.Open(ctx, repo, desc)
	if err != nil {
		return err
	}
	res.Steps = restoreSteps(c.PrintRestoreCommand, src.ref.Name()+"@"+desc.Digest.String(), res.Path, image.Annotations())
	return errors.Join(a.printResult(strings.Join(res.Steps, "\n"), res), image.Close())
}

// copyImage keeps the image as it is.
func (c *pullCmd) copyImage(ctx context.Context, a *app, from oras.ReadOnlyTarget, src, dest location, keys signers) error {
	name, err := keys.pin(ctx, from, src.ref.Identifier())
	if err != nil {
		return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
	}
	if len(c.Encrypt) > 0 {
		return usagef("%s keeps the checkpoint as it is: leave out --encrypt, or pull to a file", c.Dest)
	}
	if dest.kind != locationName {
		if err := a.checkPushed(ctx, from, name, dest); err != nil {
			return err
		}
	}
	if dest.kind == locationArchive {
		desc, err := writeStoreArchive(ctx, from, name, dest, c.Force)
		if err != nil {
			return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
		}
		digest := desc.Digest.String()
		return a.printResult(digest, transferResult{Digest: digest, Path: dest.path})
	}
	store, called, err := a.openTarget(ctx, dest)
	if err != nil {
		return err
	}
	copied, err := a.copyImage(ctx, "pull", store, called, from, name, registry.CopyOptions{})
	if err != nil {
		return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
	}
	digest := copied.Descriptor.Digest.String()
	return a.printResult(digest, transferResult{Digest: digest, Reference: c.Dest})
}

// pull copies a name from its registry into the store, under its own name. If it needs a signature, that comes along.
func (a *app) pull(ctx context.Context, store *registry.Store, src location, keys signers, remote remoteFlags) (ocispec.Descriptor, error) {
	repo, err := a.client(remote).Repository(src.ref.String())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	name := src.ref.String()
	if src.ref.Digest != "" && src.ref.Tag == "" {
		name = src.ref.Name() + "@" + src.ref.Digest.String()
	}
	from, err := keys.pin(ctx, repo, src.ref.Identifier())
	if err != nil {
		return ocispec.Descriptor{}, cause(ctx, fmt.Errorf("pull %s: %w", src.text, err))
	}
	copied, err := a.copyImage(ctx, "pull", store, name, repo, from, registry.CopyOptions{})
	if err == nil && len(keys) > 0 {
		err = copySignatures(ctx, store, signatureName(src.ref, copied.Descriptor), repo, signature.Tag(copied.Descriptor.Digest))
	}
	if err != nil {
		return ocispec.Descriptor{}, cause(ctx, fmt.Errorf("pull %s: %w", src.text, err))
	}
	return copied.Descriptor, nil
}
