package main

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/ckarchive/ckarchive/registry"
)

// remoteFlags say how something comes from a registry or goes there.
type remoteFlags struct {
	connectFlags
	LimitRate byteRate `help:"Most bytes a second to a registry, and as many from it, over all connections: 10M is 10 MiB a second, as curl counts; 0 is no limit." env:"CKARCHIVE_LIMIT_RATE" default:"0" placeholder:"RATE"`
}

// connectFlags say how a registry is talked to.
type connectFlags struct {
	PlainHTTP bool   `name:"plain-http" help:"Talk to the registry without TLS." env:"CKARCHIVE_PLAIN_HTTP"`
	AuthFile  string `name:"authfile" help:"File with credentials of registries, instead of Podman's and Docker's." type:"path" placeholder:"FILE"`
	CAFile    string `name:"ca-file" help:"File with further certificates to trust." type:"path" placeholder:"FILE" env:"CKARCHIVE_CA_FILE"`
	CertDir   string `name:"cert-dir" help:"Directory with certificates, as in /etc/containers/certs.d/HOST." type:"path" placeholder:"DIR"`
}

// byteRate is a number of bytes a second.
type byteRate int64

var (
	_ encoding.TextUnmarshaler = (*byteRate)(nil)
	_ encoding.TextMarshaler   = byteRate(0)
)

// UnmarshalText reads a size in bytes, in which K, M and G are powers of 1024.
func (r *byteRate) UnmarshalText(text []byte) error {
	n, err := units.RAMInBytes(string(text))
	*r = byteRate(n)
	return err
}

// MarshalText writes what UnmarshalText reads.
func (r byteRate) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(r), 10), nil }

// client is the client of registries; there is one for as long as the command runs.
func (a *app) client(f remoteFlags) *registry.Client {
	if c, ok := a.clients[f]; ok {
		return c
	}
	c := registry.NewClient(registry.ClientOptions{
		PlainHTTP: f.PlainHTTP, AuthFile: f.AuthFile, CAFile: f.CAFile, CertDir: f.CertDir, LimitRate: int64(f.LimitRate),
		Env: a.getenv, HomeDir: a.getenv("HOME"), UID: os.Getuid(), UserAgent: "ckarchive/" + versionString(),
		OnRetry:   func(r registry.Retry) { a.say("%v", r) },
		OnWarning: func(text string) { a.warn("%s", text) },
	})
	if a.clients == nil {
		a.clients = map[remoteFlags]*registry.Client{}
	}
	a.clients[f] = c
	return c
}

// sourceOptions adjust openSource.
type sourceOptions struct {
	Pull string // missing, always, never
	// Stream reads a name that the local store lacks straight from the registry and keeps
	// nothing of it.
	Stream bool
	// Head says that only the beginning is wanted, without proof: of a registry little more than that
	// is fetched.
	Head bool
	// Known is what the command line says of a checkpoint of another engine.
	Known foreign.Known
	// Digests lets such a checkpoint have digests of its members, so that what is written of
	// it can be proved later.
	Digests bool
	// Signers are the keys of which one has to have signed it.
	Signers signers
	Remote  remoteFlags
}

// openSource opens any SRC, of whichever engine. A name is looked for in the local store and, as
// opts say, fetched into it.
func (a *app) openSource(ctx context.Context, src location, opts sourceOptions) (archive.Source, error) {
	told := foreign.Options{Known: opts.Known, Digests: opts.Digests}
	switch src.kind {
	case locationName, locationLayout, locationArchive: // have a digest to sign
	default:
		if err := opts.Signers.approveFile(ctx, src); err != nil {
			return nil, err
		}
	}
	if src.kind == locationStream {
		return a.openStream(ctx, told)
	}
	src, err := recognise(ctx, src)
	if err != nil {
		return nil, err
	}
	return foreign.Open(ctx, func(ctx context.Context) (archive.Source, error) { return a.openOnce(ctx, src, opts) }, told)
}

// openOnce opens a SRC as it is.
func (a *app) openOnce(ctx context.Context, src location, opts sourceOptions) (archive.Source, error) {
	switch src.kind {
	case locationFile:
		if info, err := os.Stat(src.path); err == nil && info.IsDir() {
			return archive.OpenDir(src.path, archive.DirOptions{})
		}
		return archive.OpenFile(src.path, archive.ReaderOptions{Decrypt: a.decrypt})
	case locationImages:
		return archive.OpenDir(src.path, archive.DirOptions{Images: true})
	case locationArchive:
		from, err := registry.OpenStoreArchive(ctx, src.path)
		if err != nil {
			return nil, err
		}
		image, err := a.openImage(ctx, from, src.tag, opts.open(from))
		if err != nil {
			return nil, errors.Join(err, from.Close())
		}
		return &ownedSource{Source: image, owner: from}, nil
	case locationLayout:
		return a.openLayout(ctx, src, opts)
	default:
		return a.openNamed(ctx, src, opts)
	}
}

// openLayout opens oci:DIR[:TAG].
func (a *app) openLayout(ctx context.Context, src location, opts sourceOptions) (archive.Source, error) {
	store, err := registry.OpenStore(ctx, src.path, registry.StoreOptions{})
	if err != nil {
		if errors.Is(err, registry.ErrNotFound) {
			err = withHint(err, "oci:DIR is a directory with an OCI image layout; an archive file is named by its path alone")
		}
		return nil, err
	}
	in, err := a.openHeld(ctx, store, src.tag, opts.open(store))
	if errors.Is(err, registry.ErrNotFound) {
		err = withHint(err, fmt.Sprintf("ckarchive --root %s list shows what is there", src.path))
	}
	return in, err
}

// openNamed opens a name.
func (a *app) openNamed(ctx context.Context, src location, opts sourceOptions) (archive.Source, error) {
	if !opts.Stream {
		store, err := a.fetched(ctx, src, opts)
		if err != nil {
			return nil, err
		}
		return a.openHeld(ctx, store, src.storeName(), a.openStored(store, src, opts))
	}
	if opts.Pull != "always" || onlyLocal(src.ref) {
		store, err := a.openStore(ctx, false)
		if err == nil {
			var in archive.Source
			if in, err = a.openHeld(ctx, store, src.storeName(), a.openStored(store, src, opts)); err == nil {
				return in, nil
			}
		}
		if !errors.Is(err, registry.ErrNotFound) {
			return nil, err
		}
		if opts.Pull == "never" || onlyLocal(src.ref) {
			return nil, fmt.Errorf("%w: the local store %q has no %s", registry.ErrNotFound, a.cli.Root, src.text)
		}
	}
	repo, err := a.client(opts.Remote).Repository(src.ref.String())
	if err != nil {
		return nil, err
	}
	return a.openImage(ctx, repo, src.ref.Identifier(), opts.open(repo))
}

// fetched makes sure that the local store has the name, and gives the store.
func (a *app) fetched(ctx context.Context, src location, opts sourceOptions) (*registry.Store, error) {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return nil, err
	}
	if opts.Pull != "always" || onlyLocal(src.ref) {
		_, err := store.Resolve(ctx, src.storeName())
		if err == nil || opts.Pull == "never" || onlyLocal(src.ref) || !errors.Is(err, registry.ErrNotFound) {
			return store, err
		}
	}
	keys := opts.Signers
	if len(keys) == 0 {
		if keys, err = a.signersOf(src, nil); err != nil {
			return nil, err
		}
	}
	_, err = a.pull(ctx, store, src, keys, opts.Remote)
	return store, err
}

// storeName is what the local store calls the checkpoint of a name: a digest stands for itself.
func (l location) storeName() string {
	if l.ref.Digest != "" {
		return l.ref.Digest.String()
	}
	return l.ref.String()
}

// openOptions adjust openImage.
type openOptions struct {
	Head bool
	// Approve, unless nil, is asked before more than the digest of the checkpoint is known.
	Approve func(ctx context.Context, desc ocispec.Descriptor) error
}

// open gives the options for a checkpoint with its signatures beside it.
func (o sourceOptions) open(from signature.Source) openOptions {
	return openOptions{Head: o.Head, Approve: func(ctx context.Context, desc ocispec.Descriptor) error {
		return o.Signers.approve(ctx, from, signature.Tag(desc.Digest), desc)
	}}
}

// openStored gives the options for a checkpoint of the local store.
func (a *app) openStored(store *registry.Store, src location, o sourceOptions) openOptions {
	return openOptions{Head: o.Head, Approve: func(ctx context.Context, desc ocispec.Descriptor) error {
		return a.approveStored(ctx, o.Signers, store, src, o.Remote, desc)
	}}
}

// openImage opens the checkpoint called name in a layout, or only its beginning.
func (a *app) openImage(ctx context.Context, from oras.ReadOnlyTarget, name string, opts openOptions) (archive.Source, error) {
	desc, err := from.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	if opts.Approve != nil {
		if err := opts.Approve(ctx, desc); err != nil {
			return nil, err
		}
	}
	in, err := artifact.OpenCheckpoint(ctx, from, desc, artifact.OpenOptions{Decrypt: a.decrypt, Head: opts.Head})
	switch {
	case errors.Is(err, artifact.ErrContainerd):
		return artifact.OpenContainerd(ctx, from, desc)
	case err != nil:
		return nil, err
	}
	if image, ok := in.(*artifact.Image); ok && opts.Head {
		return image.Head(ctx)
	}
	return in, nil // of the native form only what is read is fetched
}

// openHeld keeps the store's garbage collection away while the image is read.
func (a *app) openHeld(ctx context.Context, store *registry.Store, name string, opts openOptions) (archive.Source, error) {
	hold, err := store.Hold(ctx)
	if err != nil {
		return nil, err
	}
	image, err := a.openImage(ctx, store, name, opts)
	if err != nil {
		return nil, errors.Join(err, hold.Close())
	}
	return &ownedSource{Source: image, owner: hold}, nil
}

// ownedSource closes what its source reads from.
type ownedSource struct {
	archive.Source
	owner io.Closer
}

// Known implements [foreign.Told].
func (s *ownedSource) Known() foreign.Known {
	if told, ok := s.Source.(foreign.Told); ok {
		return told.Known()
	}
	return foreign.Known{}
}

// Unwrap gives the source itself.
func (s *ownedSource) Unwrap() archive.Source { return s.Source }

func (s *ownedSource) Close() error {
	err := s.Source.Close()
	if s.owner != nil {
		err = errors.Join(err, s.owner.Close())
		s.owner = nil
	}
	return err
}
