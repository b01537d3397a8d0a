package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
)

// transferResult is what --json prints of where a checkpoint is now, or was; a directory or a file has a path.
type transferResult struct {
	Digest    string `json:"digest,omitempty"`    // of its manifest
	Reference string `json:"reference,omitempty"` // its name, or oci:DIR:TAG
	Path      string `json:"path,omitempty"`
	// Moved is how much of it moved, where it goes by blobs.
	Moved *moved `json:"moved,omitempty"`
	// Steps are what --print-restore-command asks for, one line each.
	Steps []string `json:"steps,omitempty"`
	// Timings are those of push and pull, with --stats.
	Timings []step `json:"timings,omitempty"`
}

// moved is how much a transfer between stores and registries came to.
type moved struct {
	Blobs   int   `json:"blobs"`
	Bytes   int64 `json:"bytes"`   // of these
	Skipped int   `json:"skipped"` // blobs that were there
	Mounted int   `json:"mounted"` // blobs that the registry took from another of its repositories
}

// movedBy gives what a copy moved; nil of one that did not go by blobs.
func movedBy(c registry.Copied) *moved {
	if c.Blobs+c.Skipped+c.Mounted == 0 {
		return nil
	}
	return &moved{c.Blobs, c.Bytes, c.Skipped, c.Mounted}
}

// stage stores a checkpoint without giving it a name: what is not pushed after all is garbage of the
// local store.
func (a *app) stage(ctx context.Context, src location, form formOptions) (_ content, _ string, err error) {
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
	desc, err := a.storeUnnamed(ctx, store, src, form)
	if err != nil {
		return content{}, "", err
	}
	return content{store, func() { _ = hold.Close() }}, desc.Digest.String(), nil
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
func writeStoreArchive(ctx context.Context, from oras.ReadOnlyTarget, name string, dest location, replace bool) (_ ocispec.Descriptor, err error) {
	f, err := archive.CreateAtomic(dest.path, replace)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	tag := dest.tag
	if tag == "" {
		tag = registry.DefaultTag
	}
	desc, err := registry.WriteStoreArchive(ctx, f, from, name, tag)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, f.Commit(ctx)
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

// storeUnnamed writes a checkpoint into store without a name.
func (a *app) storeUnnamed(ctx context.Context, store *registry.Store, src location, form formOptions) (_ ocispec.Descriptor, err error) {
	in, err := a.openSource(ctx, src, sourceOptions{Digests: true})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	head, in, err := peekNamed(ctx, in, src.text)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	form.Of = metaFromHead(head)
	w, err := a.newStoreWriter(ctx, store, form)
	if err != nil {
		return ocispec.Descriptor{}, errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, &sink{Sink: w}, in, "read"); err != nil {
		return ocispec.Descriptor{}, err
	}
	return w.Descriptor(), nil
}

// peekNamed is archive.Peek for a source with a name, which it closes on an error.
func peekNamed(ctx context.Context, src archive.Source, name string) (map[string][]byte, archive.Source, error) {
	head, rest, err := archive.Peek(ctx, src)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read %s: %w", name, err), src.Close())
	}
	return head, rest, nil
}

// metaFromHead is the metadata, or nothing of a checkpoint that has none.
func metaFromHead(head map[string][]byte) archive.Metadata {
	m, err := archive.ParseMetadata(head[archive.MetadataFile])
	if err != nil {
		return archive.Metadata{}
	}
	return *m
}

// storedForm tells in which form a checkpoint is.
func storedForm(ctx context.Context, from oras.ReadOnlyTarget, name string) (_ string, err error) {
	desc, err := from.Resolve(ctx, name)
	if err != nil {
		return "", err
	}
	in, err := artifact.OpenCheckpoint(ctx, from, desc, artifact.OpenOptions{})
	if errors.Is(err, archive.ErrEncrypted) {
		return formNative, nil // the only one that can be
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if _, ok := in.(*artifact.Native); ok {
		return formNative, nil
	}
	return formImage, nil
}

// nameFromHead makes a name for the local store of the container's.
func nameFromHead(head map[string][]byte) string {
	var config configDump
	if err := archive.DecodeJSON(archive.ConfigDump, head[archive.ConfigDump], &config); err != nil {
		return ""
	}
	name := config.Name
	if m := metaFromHead(head); m.Container.Name != "" {
		name = m.Container.Name
	}
	if name == "" {
		name = config.ID
	}
	return strings.ToLower(name)
}

// copyImage copies an image by its descriptors and shows the progress as the step task.
func (a *app) copyImage(ctx context.Context, task string, dst oras.Target, dstName string, src oras.ReadOnlyTarget, srcName string, opts registry.CopyOptions) (registry.Copied, error) {
	p := a.newProgress()
	t := p.begin(task, 0)
	opts.OnProgress = func(n registry.Progress) { t.set(n.Done, n.Total) }
	copied, err := registry.Copy(ctx, dst, dstName, src, srcName, opts)
	p.close(err)
	if had := copied.Skipped + copied.Mounted; err == nil && had > 0 {
		a.say("%s: %s transferred; %d of %d blobs were there already", task, units.BytesSize(float64(copied.Bytes)), had, had+copied.Blobs)
	}
	return copied, err
}
