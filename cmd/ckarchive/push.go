package main

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/ckarchive/ckarchive/registry"
)

// pushCmd sends a checkpoint to a registry or into an OCI layout.
type pushCmd struct {
	Source string `arg:"" name:"src" predictor:"checkpoint" help:"The checkpoint."`
	Remote string `arg:"" help:"HOST/REPO:TAG, oci:DIR[:TAG] or oci-archive:FILE[:TAG]."`
	formFlags
	Parent string `help:"Earlier checkpoint in the local store of which only the changes are stored, when SRC is a file; by default the last one of the container that the target has as well." placeholder:"REF"`
	remoteFlags
	Compress string `help:"zstd, gzip or none, when SRC is a file." default:"zstd" placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
	encryptFlags
	IfAbsent bool `help:"Refuse to move a tag that leads to something else."`
	Force    bool `short:"f" help:"Replace an existing oci-archive file."`
	statsFlag
}

// Run implements the command.
func (c *pushCmd) Run(ctx context.Context, a *app) error {
	src, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	dest, err := parseLocation(c.Remote)
	if err != nil {
		return err
	}
	if dest.kind == locationFile || dest.kind == locationStream || dest.kind == locationImages {
		return &usageError{err: fmt.Errorf("%s is no registry", c.Remote), hint: "push to HOST/REPO:TAG, oci:DIR or oci-archive:FILE; a file is made by ckarchive pull or export"}
	}
	if dest.kind == locationName && onlyLocal(dest.ref) {
		return &usageError{err: fmt.Errorf("%s has no registry host", c.Remote), hint: "write HOST/REPO:TAG, or ckarchive tag to name it in the local store"}
	}
	from, name, err := c.open(ctx, a, src, dest)
	if err != nil {
		return cause(ctx, err)
	}
	defer from.close()
	copied, err := c.send(ctx, a, from, name, dest)
	if err != nil {
		return cause(ctx, fmt.Errorf("push %s to %s: %w", c.Source, c.Remote, err))
	}
	if err := c.print(a, nil); err != nil {
		return err
	}
	digest := copied.Descriptor.Digest.String()
	return a.printResult(digest, transferResult{Digest: digest, Reference: c.Remote, Moved: movedBy(copied), Timings: c.timings(a)})
}

// content is a place to copy descriptors from. It is no target itself: package registry asks one for more than
// its interface tells, as to be kept from being cleaned up.
type content struct {
	target oras.ReadOnlyTarget
	close  func()
}

// open gives the layout that holds SRC in the wanted form and its name there. What is not in that
// form gets it in the local store first, which holds it for the copy alone.
func (c *pushCmd) open(ctx context.Context, a *app, src, dest location) (content, string, error) {
	to, err := c.recipients(a)
	if err != nil {
		return content{}, "", err
	}
	if src.kind == locationFile || src.kind == locationStream {
		return c.stage(ctx, a, src, dest, to)
	}
	from, name, err := c.openStored(ctx, a, src)
	if err != nil || c.To == "" && c.Parent == "" && to == nil {
		return from, name, err
	}
	form, err := storedForm(ctx, from.target, name)
	if err == nil && form == c.To && to == nil {
		return from, name, nil
	}
	from.close()
	if err != nil {
		return content{}, "", err
	}
	return c.stage(ctx, a, src, dest, to)
}

// stage makes SRC anew, for DEST.
func (c *pushCmd) stage(ctx context.Context, a *app, src, dest location, to *crypt.Recipients) (content, string, error) {
	compression, err := archive.ParseCompression(c.Compress)
	if err != nil {
		return content{}, "", &usageError{err: err}
	}
	return a.stage(ctx, src, formOptions{
		formFlags: c.formFlags, Parent: c.Parent, Compression: compression, Encrypt: to, For: &destination{dest, c.remoteFlags},
	})
}

// openStored gives the layout that holds SRC as it is.
func (c *pushCmd) openStored(ctx context.Context, a *app, src location) (content, string, error) {
	switch src.kind {
	case locationArchive:
		from, err := registry.OpenStoreArchive(ctx, src.path)
		if err != nil {
			return content{}, "", err
		}
		return content{from, func() { _ = from.Close() }}, src.tag, nil
	case locationLayout:
		from, err := registry.OpenStore(ctx, src.path, registry.StoreOptions{})
		return content{from, func() {}}, src.tag, err
	default:
		store, err := a.openStore(ctx, true)
		if err == nil {
			_, err = store.Resolve(ctx, src.storeName())
		}
		return content{store, func() {}}, src.storeName(), err
	}
}

// send copies the image to dest.
func (c *pushCmd) send(ctx context.Context, a *app, from content, name string, dest location) (registry.Copied, error) {
	if err := a.checkPushed(ctx, from.target, name, dest); err != nil {
		return registry.Copied{}, err
	}
	if dest.kind == locationArchive {
		desc, err := writeStoreArchive(ctx, from.target, name, dest, c.Force)
		return registry.Copied{Descriptor: desc}, err
	}
	to, tag, err := a.pushTarget(ctx, dest, c.remoteFlags)
	if err != nil {
		return registry.Copied{}, err
	}
	copied, err := a.copyImage(ctx, "push", to, tag, from.target, name, registry.CopyOptions{IfAbsent: c.IfAbsent})
	if err == nil {
		err = c.sendSignatures(ctx, from, to, copied.Descriptor)
	}
	return copied, err
}

// sendSignatures copies the signatures that lie beside SRC.
func (c *pushCmd) sendSignatures(ctx context.Context, from content, to oras.Target, desc ocispec.Descriptor) error {
	src, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	name := signature.Tag(desc.Digest)
	switch src.kind {
	case locationLayout, locationArchive:
	case locationName:
		name = signatureName(src.ref, desc)
	default:
		return nil // it was made just now
	}
	return copySignatures(ctx, to, signature.Tag(desc.Digest), from.target, name)
}
