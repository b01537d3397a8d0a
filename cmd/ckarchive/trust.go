package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/ckarchive/ckarchive/registry"
)

// trustFile says whose signatures checkpoints need, by their repositories: see docs/signatures.md.
type trustFile struct {
	RequireEncryption bool         `toml:"require-encryption"`
	Repositories      []trustEntry `toml:"repository"`
}

// trustEntry is for all repositories below a prefix.
type trustEntry struct {
	Prefix   string   `toml:"prefix"` // HOST, HOST/NAMESPACE or HOST/REPOSITORY; * for all
	Keys     []string `toml:"keys"`   // files, relative to that of the entry
	Unsigned bool     `toml:"unsigned"`
}

// allRepositories is the prefix of all.
const allRepositories = "*"

// defaultTrustFile is read if it is there, and nobody names another one.
const defaultTrustFile = "/etc/ckarchive/trust.toml"

// trusted reads the trust file, once.
func (a *app) trusted() (*trustFile, error) {
	if a.trust != nil {
		return a.trust, nil
	}
	path, named := a.cli.TrustFile, a.cli.TrustFile != ""
	if !named {
		path = defaultTrustFile
	}
	t := &trustFile{}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
	case err != nil:
		return nil, &environmentError{fmt.Errorf("trust file: %w", err)}
	default:
		if err := t.parse(path, raw); err != nil {
			return nil, withHint(&environmentError{fmt.Errorf("trust file %q: %w", path, err)}, "mend it: nothing is read that it may forbid")
		}
	}
	a.trust = t
	return t, nil
}

// parse reads the file. What is misspelled is refused: a rule that is silently not there protects nothing.
func (t *trustFile) parse(path string, raw []byte) error {
	meta, err := toml.Decode(string(raw), t)
	if err != nil {
		return err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("unknown key %q", unknown[0])
	}
	seen := map[string]bool{}
	for i := range t.Repositories {
		e := &t.Repositories[i]
		e.Prefix = strings.TrimSuffix(e.Prefix, "/")
		switch {
		case e.Prefix == "" || seen[e.Prefix]:
			return fmt.Errorf("each repository needs a prefix of its own, and %q occurs twice or there is none", e.Prefix)
		case (len(e.Keys) > 0) == e.Unsigned:
			return fmt.Errorf("prefix %q: name keys, or say unsigned = true", e.Prefix)
		}
		seen[e.Prefix] = true
		for j, key := range e.Keys {
			if !filepath.IsAbs(key) {
				e.Keys[j] = filepath.Join(filepath.Dir(path), key)
			}
		}
	}
	return nil
}

// entry is the one with the longest prefix of a repository; nil if there is none.
func (t *trustFile) entry(repository string) *trustEntry {
	var found *trustEntry
	for i := range t.Repositories {
		e := &t.Repositories[i]
		below := e.Prefix == allRepositories || repository == e.Prefix || strings.HasPrefix(repository, e.Prefix+"/")
		if below && (found == nil || len(e.Prefix) > len(found.Prefix)) {
			found = e
		}
	}
	return found
}

// signers are the keys of which one has to have signed; none if no signature is needed.
type signers []*signature.PublicKey

// signersOf are those that the flag names, or else the trust file for the name of a registry.
func (a *app) signersOf(src location, flag []string) (signers, error) {
	files := given(flag)
	if len(files) == 0 && src.kind == locationName && !onlyLocal(src.ref) {
		t, err := a.trusted()
		if err != nil {
			return nil, err
		}
		if e := t.entry(src.ref.Name()); e != nil {
			files = e.Keys
		}
	}
	var keys signers
	for _, file := range files {
		more, err := signature.ReadPublicKeys(file)
		if err != nil {
			return nil, withHint(&environmentError{err}, "a public key is a PEM file, as cosign and openssl write them")
		}
		keys = append(keys, more...)
	}
	return keys, nil
}

// approveFile verifies the signature beside a file before anything of it is parsed.
func (k signers) approveFile(ctx context.Context, src location) error {
	if len(k) == 0 {
		return nil
	}
	if src.kind != locationFile {
		return &usageError{err: fmt.Errorf("%s cannot be signed", src.text), hint: "files, names and OCI layouts have signatures"}
	}
	_, err := signature.VerifyFile(ctx, src.path, k)
	return err
}

// approve verifies the signature of a manifest in from before anything but its digest is known.
func (k signers) approve(ctx context.Context, from signature.Source, name string, desc ocispec.Descriptor) error {
	if len(k) == 0 {
		return nil
	}
	_, err := signature.Verify(ctx, from, name, desc, k)
	return err
}

// approveStored is approve for a name in the local store. A checkpoint that came there without its signature is
// looked up in its registry.
func (a *app) approveStored(ctx context.Context, k signers, store *registry.Store, src location, remote remoteFlags, desc ocispec.Descriptor) error {
	err := k.approve(ctx, store, signatureName(src.ref, desc), desc)
	if err == nil || !errors.Is(err, signature.ErrUnsigned) || onlyLocal(src.ref) {
		return err
	}
	repo, rerr := a.client(remote).Repository(src.ref.Name() + "@" + desc.Digest.String())
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	if rerr := k.approve(ctx, repo, signature.Tag(desc.Digest), desc); rerr != nil && !errors.Is(rerr, signature.ErrUnsigned) {
		return errors.Join(err, rerr)
	} else if rerr == nil {
		return nil
	}
	return err
}

// signatureName is what the local store calls the signatures of a checkpoint of a repository.
func signatureName(ref registry.Reference, desc ocispec.Descriptor) string {
	return ref.Name() + ":" + signature.Tag(desc.Digest)
}

// pin verifies the signature of what name leads to in from, and gives its digest as a name: what is copied is what
// was signed. Without keys it is name itself.
func (k signers) pin(ctx context.Context, from signature.Source, name string) (string, error) {
	if len(k) == 0 {
		return name, nil
	}
	desc, err := from.Resolve(ctx, name)
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), k.approve(ctx, from, signature.Tag(desc.Digest), desc)
}

// copySignatures copies the signatures of a checkpoint, if there are any under that name.
func copySignatures(ctx context.Context, dst oras.Target, dstName string, src oras.ReadOnlyTarget, srcName string) error {
	if _, err := src.Resolve(ctx, srcName); errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	_, err := registry.Copy(ctx, dst, dstName, src, srcName, registry.CopyOptions{})
	return err
}
