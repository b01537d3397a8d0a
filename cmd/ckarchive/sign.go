package main

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/ckarchive/ckarchive/registry"
)

// signCmd vouches for a checkpoint.
type signCmd struct {
	Source string `arg:"" name:"src" predictor:"checkpoint" help:"What is signed: a name, oci:DIR[:TAG], or a file."`
	Key    string `required:"" help:"Private key: ECDSA P-256 in PEM, as cosign generate-key-pair and openssl make it." type:"path" placeholder:"FILE"`
	Local  bool   `help:"Sign what the local store has, and leave it to ckarchive push to send the signature."`
	Force  bool   `short:"f" help:"Replace the signature of a file."`
	connectFlags
}

// Help is the long help text.
func (signCmd) Help() string {
	return `A name in a registry is signed there, as by cosign sign --key: the signature is stored beside the checkpoint, in the same repository. A name without a registry is signed in the local store. The signature of a file is a file beside it, as of cosign sign-blob. ckarchive verify --key and ckarchive restore --require-signature check it; docs/signatures.md tells how to demand signatures by repository.`
}

// Run implements the command.
func (c *signCmd) Run(ctx context.Context, a *app) error {
	src, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	key, err := signature.ReadPrivateKey(c.Key, func() (string, error) { return a.passphrase(fmt.Sprintf("the key %q", c.Key), false) })
	if err != nil {
		return &usageError{err: err, hint: "cosign generate-key-pair makes one, and so does openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"}
	}
	switch src.kind {
	case locationFile:
		err = c.signFile(ctx, a, src, key)
	case locationLayout:
		err = c.signLayout(ctx, a, src, key)
	case locationName:
		err = c.signName(ctx, a, src, key)
	default:
		return usagef("%s cannot be signed: name a file, a name or an OCI layout", c.Source)
	}
	if err != nil {
		return cause(ctx, fmt.Errorf("sign %s: %w", c.Source, err))
	}
	return nil
}

func (c *signCmd) signFile(ctx context.Context, a *app, src location, key *signature.PrivateKey) (err error) {
	out, err := archive.CreateAtomic(src.path+signature.FileSuffix, c.Force)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	text, err := signature.SignFile(ctx, src.path, key)
	if err != nil {
		return err
	}
	if _, err := out.Write(text); err != nil {
		return err
	}
	if err := out.Commit(ctx); err != nil {
		return err
	}
	path := src.path + signature.FileSuffix
	return a.printResult(path, transferResult{Path: path})
}

func (c *signCmd) signLayout(ctx context.Context, a *app, src location, key *signature.PrivateKey) error {
	store, err := registry.OpenStore(ctx, src.path, registry.StoreOptions{})
	if err != nil {
		return err
	}
	desc, err := store.Resolve(ctx, src.tag)
	if err != nil {
		return err
	}
	return c.sign(ctx, a, store, signature.Tag(desc.Digest), src.text, desc, key)
}

// signName signs in the registry, or in the local store.
func (c *signCmd) signName(ctx context.Context, a *app, src location, key *signature.PrivateKey) error {
	if c.Local || onlyLocal(src.ref) {
		store, err := a.openStore(ctx, true)
		if err != nil {
			return err
		}
		desc, err := store.Resolve(ctx, src.storeName())
		if err != nil {
			return err
		}
		return c.sign(ctx, a, store, signatureName(src.ref, desc), src.ref.Name(), desc, key)
	}
	repo, err := a.client(remoteFlags{connectFlags: c.connectFlags}).Repository(src.ref.String())
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, src.ref.Identifier())
	if err != nil {
		if errors.Is(err, registry.ErrNotFound) {
			err = withHint(err, "ckarchive push it first, or sign it in the local store with --local")
		}
		return err
	}
	return c.sign(ctx, a, repo, signature.Tag(desc.Digest), src.ref.Name(), desc, key)
}

func (c *signCmd) sign(ctx context.Context, a *app, to signature.Target, name, reference string, desc ocispec.Descriptor, key *signature.PrivateKey) error {
	if s, ok := to.(*registry.Store); ok {
		hold, err := s.Hold(ctx)
		if err != nil {
			return err
		}
		defer hold.Close() //nolint:errcheck // closing a lock file loses nothing
	}
	at, err := signature.Sign(ctx, to, name, reference, desc, key)
	if err != nil {
		return err
	}
	return a.printResult(at.Digest.String(), transferResult{Digest: at.Digest.String(), Reference: name})
}
