package main

import (
	"context"
	"errors"
	"fmt"

	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/registry"
)

// pushCmd sends a checkpoint to a registry or into an OCI layout.
type pushCmd struct {
	Source string `arg:"" name:"src" help:"The checkpoint."`
	Remote string `arg:"" help:"HOST/REPO:TAG, oci:DIR[:TAG] or oci-archive:FILE[:TAG]."`
	To     string `help:"Form of the artifact: ${enum}." enum:"image" default:"image"`
	remoteFlags
	Compress string `help:"zstd, gzip or none, when SRC is a file." default:"zstd" placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
	IfAbsent bool   `help:"Refuse to move a tag that leads to something else."`
	Force    bool   `short:"f" help:"Replace an existing oci-archive file."`
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
	if dest.kind == locationFile || dest.kind == locationStream {
		return &usageError{err: fmt.Errorf("%s is no registry", c.Remote), hint: "push to HOST/REPO:TAG, oci:DIR or oci-archive:FILE; a file is made by ckarchive pull or export"}
	}
	if dest.kind == locationName && onlyLocal(dest.ref) {
		return &usageError{err: fmt.Errorf("%s has no registry host", c.Remote), hint: "write HOST/REPO:TAG, or ckarchive tag to name it in the local store"}
	}
	from, name, err := c.open(ctx, a, src)
	if err != nil {
		return cause(ctx, err)
	}
	defer from.close()
	digest, err := c.send(ctx, a, from, name, dest)
	if err != nil {
		return cause(ctx, fmt.Errorf("push %s to %s: %w", c.Source, c.Remote, err))
	}
	return a.printResult(digest, transferResult{Digest: digest, Reference: c.Remote})
}

// transferResult is what --json prints of push, pull and import.
type transferResult struct {
	Digest    string `json:"digest,omitempty"`
	Reference string `json:"reference,omitempty"`
	Path      string `json:"path,omitempty"`
}

// content is a place to copy descriptors from.
type content struct {
	oras.ReadOnlyTarget
	close func()
}

// open gives the layout that holds SRC as an image and its name there. A file becomes an image
// in the local store first, which holds it for the copy alone.
func (c *pushCmd) open(ctx context.Context, a *app, src location) (content, string, error) {
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
	case locationName:
		store, err := a.openStore(ctx, true)
		if err == nil {
			_, err = store.Resolve(ctx, src.storeName())
		}
		return content{store, func() {}}, src.storeName(), err
	}
	compression, err := archive.ParseCompression(c.Compress)
	if err != nil {
		return content{}, "", &usageError{err: err}
	}
	return a.stage(ctx, src, compression)
}

// stage makes an image of a file without giving it a name: what is not pushed after all is
// garbage of the local store.
func (a *app) stage(ctx context.Context, src location, compression archive.Compression) (_ content, _ string, err error) {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return content{}, "", err
	}
	hold, err := store.Hold(ctx)
	if err != nil {
		return content{}, "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, hold.Close())
		}
	}()
	desc, err := a.toImage(ctx, store, src, compression)
	if err != nil {
		return content{}, "", err
	}
	return content{store, func() { _ = hold.Close() }}, desc.Digest.String(), nil
}

// send copies the image to dest and gives its digest.
func (c *pushCmd) send(ctx context.Context, a *app, from content, name string, dest location) (string, error) {
	if dest.kind == locationArchive {
		return writeStoreArchive(ctx, from, name, dest, c.Force)
	}
	to, tag, err := a.pushTarget(ctx, dest, c.remoteFlags)
	if err != nil {
		return "", err
	}
	p := a.newProgress()
	t := p.begin("push", 0)
	copied, err := registry.Copy(ctx, to, tag, from, name, registry.CopyOptions{
		IfAbsent:   c.IfAbsent,
		OnProgress: func(n registry.Progress) { t.set(n.Done, n.Total) },
	})
	p.close(err)
	return copied.Descriptor.Digest.String(), err
}

func (a *app) pushTarget(ctx context.Context, dest location, remote remoteFlags) (oras.Target, string, error) {
	if dest.kind == locationLayout {
		store, name, err := a.openTarget(ctx, dest)
		return store, name, err
	}
	repo, err := a.client(remote).Repository(dest.ref.String())
	return repo, dest.ref.Identifier(), err
}

// writeStoreArchive makes an oci-archive file.
func writeStoreArchive(ctx context.Context, from oras.ReadOnlyTarget, name string, dest location, replace bool) (_ string, err error) {
	f, err := archive.CreateAtomic(dest.path, replace)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	tag := dest.tag
	if tag == "" {
		tag = registry.DefaultTag
	}
	desc, err := registry.WriteStoreArchive(ctx, f, from, name, tag)
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), f.Commit(ctx)
}

// pullCmd fetches a checkpoint.
type pullCmd struct {
	Remote string `arg:"" help:"HOST/REPO:TAG[@DIGEST]."`
	Dest   string `arg:"" optional:"" help:"Where it goes; the local store by default."`
	remoteFlags
	Compress string `help:"zstd, gzip or none, when DEST is a file." placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
	Force    bool   `short:"f" help:"Replace an existing file."`
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
		desc, err := a.pull(ctx, store, src, c.remoteFlags)
		if err != nil {
			return err
		}
		return a.printResult(desc.Digest.String(), transferResult{Digest: desc.Digest.String(), Reference: src.ref.String()})
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
	if dest.kind == locationLayout || dest.kind == locationName || dest.kind == locationArchive {
		return c.copyImage(ctx, a, repo, src, dest)
	}
	compression, err := dest.compression(c.Compress)
	if err != nil {
		return err
	}
	image, err := openImage(ctx, repo, src.ref.Identifier())
	if err != nil {
		return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
	}
	out, err := a.createSink(ctx, dest, sinkOptions{Compression: compression, Replace: c.Force})
	if err != nil {
		return errors.Join(err, image.Close())
	}
	if err := a.copyVerified(ctx, out, image, "pull"); err != nil {
		return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
	}
	return a.printResult(out.result(), transferResult{Path: out.path})
}

// copyImage keeps the image as it is.
func (c *pullCmd) copyImage(ctx context.Context, a *app, from oras.ReadOnlyTarget, src, dest location) error {
	if dest.kind == locationArchive {
		digest, err := writeStoreArchive(ctx, from, src.ref.Identifier(), dest, c.Force)
		if err != nil {
			return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
		}
		return a.printResult(digest, transferResult{Digest: digest, Path: dest.path})
	}
	store, name, err := a.openTarget(ctx, dest)
	if err != nil {
		return err
	}
	p := a.newProgress()
	t := p.begin("pull", 0)
	copied, err := registry.Copy(ctx, store, name, from, src.ref.Identifier(), registry.CopyOptions{
		OnProgress: func(n registry.Progress) { t.set(n.Done, n.Total) },
	})
	p.close(err)
	if err != nil {
		return cause(ctx, fmt.Errorf("pull %s: %w", c.Remote, err))
	}
	digest := copied.Descriptor.Digest.String()
	return a.printResult(digest, transferResult{Digest: digest, Reference: c.Dest})
}

// copyVerified moves a checkpoint into out, proves it on the way, and closes both.
func (a *app) copyVerified(ctx context.Context, out *sink, src archive.Source, task string) (err error) {
	verified := archive.NewVerified(src)
	defer func() { err = errors.Join(err, verified.Close(), out.Close()) }()
	p := a.newProgress()
	defer func() { p.close(err) }()
	t := p.begin(task, 0)
	if _, err := archive.Copy(ctx, out, verified, archive.CopyOptions{OnBytes: t.add}); err != nil {
		return err
	}
	if err := out.Commit(ctx); err != nil {
		return err
	}
	out.tellPrior(a)
	return nil
}

// importCmd brings an archive into the local store.
type importCmd struct {
	Source   string `arg:"" name:"src" help:"The checkpoint: a file, -, oci:DIR[:TAG] or oci-archive:FILE[:TAG]."`
	Name     string `arg:"" optional:"" help:"Its name in the store; by default that of the container."`
	Compress string `help:"zstd, gzip or none." default:"zstd" placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
}

// Run implements the command.
func (c *importCmd) Run(ctx context.Context, a *app) error {
	src, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	if src.kind == locationName {
		return &usageError{err: fmt.Errorf("%s is a name", c.Source), hint: "ckarchive pull fetches from a registry, ckarchive tag gives another name"}
	}
	compression, err := archive.ParseCompression(c.Compress)
	if err != nil {
		return &usageError{err: err}
	}
	in, err := a.openSource(ctx, src, sourceOptions{})
	if err != nil {
		return fmt.Errorf("import %s: %w", c.Source, err)
	}
	head, in, err := peekNamed(ctx, in, c.Source)
	if err != nil {
		return err
	}
	name := c.Name
	if name == "" {
		name = nameFromHead(head)
	}
	ref, err := parseName(name)
	if err != nil {
		return errors.Join(withHint(err, "give the name in the store as second argument"), in.Close())
	}
	out, err := a.createSink(ctx, location{kind: locationName, ref: ref}, sinkOptions{Compression: compression})
	if err != nil {
		return errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, out, in, "import"); err != nil {
		return cause(ctx, fmt.Errorf("import %s: %w", c.Source, err))
	}
	return a.printResult(out.result(), transferResult{Digest: out.result(), Reference: ref.String()})
}
