package signature

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/registry"
)

// The signatures in testdata were made by cosign v2.6.0 with
//
//	COSIGN_PASSWORD=word cosign generate-key-pair
//	cosign sign --key cosign.key --tlog-upload=false 127.0.0.1:5777/team/web@DIGEST
//	cosign sign-blob --key cosign.key --tlog-upload=false --output-signature blob.sig blob
const (
	signedRepository = "127.0.0.1:5777/team/web"
	signedDigest     = "sha256:21f9c64c337c8ee673092a1af60cb9d881be6bda355d4d50b37f4f4dcf9df5ac"
)

func testdata(tb testing.TB, name string) []byte {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func newStore(tb testing.TB) *registry.Store {
	tb.Helper()
	s, err := registry.OpenStore(tb.Context(), filepath.Join(tb.TempDir(), "store"), registry.StoreOptions{Create: true})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func put(tb testing.TB, store *registry.Store, mediaType string, raw []byte) ocispec.Descriptor {
	tb.Helper()
	desc, err := push(tb.Context(), store, mediaType, raw)
	if err != nil {
		tb.Fatal(err)
	}
	return desc
}

func says(word string) func() (string, error) {
	return func() (string, error) { return word, nil }
}

func newKey(tb testing.TB) *PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return &PrivateKey{key}
}

func cosignKeys(tb testing.TB) (*PrivateKey, []*PublicKey) {
	tb.Helper()
	private, err := ReadPrivateKey("testdata/cosign.key", says("word"))
	if err != nil {
		tb.Fatal(err)
	}
	public, err := ReadPublicKeys("testdata/cosign.pub")
	if err != nil {
		tb.Fatal(err)
	}
	return private, public
}

// subject is something to sign.
func subject(d digest.Digest) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1000}
}

// TestCosign accepts what cosign made, and makes the same payload and the same layer.
func TestCosign(t *testing.T) {
	private, public := cosignKeys(t)
	store, ctx := newStore(t), t.Context()
	put(t, store, payloadType, testdata(t, "payload.json"))
	made := put(t, store, ocispec.MediaTypeImageManifest, testdata(t, "manifest.json"))
	name := Tag(signedDigest)
	if err := store.Tag(ctx, made, name); err != nil {
		t.Fatal(err)
	}
	if key, err := Verify(ctx, store, name, subject(signedDigest), public); err != nil || key.Name != "testdata/cosign.pub" {
		t.Errorf("got %v, %v", key, err)
	}
	if key, err := VerifyFile(ctx, "testdata/blob", public); err != nil || key == nil {
		t.Error(err)
	}
	if got, err := Sign(ctx, store, name, signedRepository, subject(signedDigest), private); err != nil || got.Digest != made.Digest {
		t.Errorf("signed again with cosign's key: got %s, %v, want what is there", got.Digest, err)
	}
	ours := newStore(t)
	at, err := Sign(ctx, ours, name, signedRepository, subject(signedDigest), private)
	if err != nil {
		t.Fatal(err)
	}
	var want, got ocispec.Manifest
	raw, err := content.FetchAll(ctx, ours, at)
	if err := errors.Join(err, json.Unmarshal(raw, &got), json.Unmarshal(testdata(t, "manifest.json"), &want)); err != nil {
		t.Fatal(err)
	}
	if len(got.Layers) != 1 || got.Layers[0].Digest != want.Layers[0].Digest || got.Layers[0].MediaType != want.Layers[0].MediaType ||
		got.Config.MediaType != want.Config.MediaType || got.MediaType != want.MediaType || got.Layers[0].Annotations[annotationSignature] == "" {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Subject == nil || got.Subject.Digest != signedDigest || got.ArtifactType != ArtifactType {
		t.Errorf("subject %v, type %s", got.Subject, got.ArtifactType)
	}
}

func TestSigners(t *testing.T) {
	store, ctx := newStore(t), t.Context()
	alice, bob, eve := newKey(t), newKey(t), newKey(t)
	what := subject(digest.FromString("checkpoint"))
	name := "host.test/c:" + Tag(what.Digest)
	verify := func(keys ...*PrivateKey) error {
		var public []*PublicKey
		for _, k := range keys {
			public = append(public, k.Public())
		}
		_, err := Verify(ctx, store, name, what, public)
		return err
	}
	if err := verify(alice); !errors.Is(err, ErrUnsigned) {
		t.Errorf("without signatures: got %v, want ErrUnsigned", err)
	}
	for _, key := range []*PrivateKey{alice, bob} {
		if _, err := Sign(ctx, store, name, "host.test/c", what, key); err != nil {
			t.Fatal(err)
		}
	}
	for who, keys := range map[string][]*PrivateKey{"alice": {alice}, "bob": {bob}, "eve or bob": {eve, bob}} {
		if err := verify(keys...); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	for who, keys := range map[string][]*PrivateKey{"eve": {eve}, "nobody": nil} {
		if err := verify(keys...); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: got %v, want ErrUnsigned", who, err)
		}
	}
}

// TestForged has manifests of signatures that somebody without a key can make.
func TestForged(t *testing.T) {
	ctx, alice := t.Context(), newKey(t)
	what, other := subject(digest.FromString("one")), subject(digest.FromString("two"))
	sign := func(c string) ocispec.Descriptor {
		text, err := alice.sign(sha256.Sum256([]byte(c)))
		if err != nil {
			t.Fatal(err)
		}
		d := content.NewDescriptorFromBytes(payloadType, []byte(c))
		d.Annotations = map[string]string{annotationSignature: text}
		return d
	}
	payload := func(kind string, d digest.Digest) string {
		return `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"` + d.String() + `"},"type":"` + kind + `"},"optional":null}`
	}
	good := payload(claimType, what.Digest)
	for name, tt := range map[string]struct {
		payload string
		edit    func(*ocispec.Descriptor)
		want    error
	}{
		"right":               {good, func(*ocispec.Descriptor) {}, nil},
		"of another digest":   {payload(claimType, other.Digest), func(*ocispec.Descriptor) {}, ErrUnsigned},
		"of another kind":     {payload("promise", what.Digest), func(*ocispec.Descriptor) {}, ErrUnsigned},
		"digest said twice":   {strings.Replace(good, `"type"`, `"Image":{"docker-manifest-digest":"`+what.Digest.String()+`"},"type"`, 1), func(*ocispec.Descriptor) {}, ErrUnsigned},
		"no JSON":             {"yes", func(*ocispec.Descriptor) {}, ErrUnsigned},
		"signature changed":   {good, func(d *ocispec.Descriptor) { d.Annotations[annotationSignature] = "AAAA" }, ErrUnsigned},
		"no base64":           {good, func(d *ocispec.Descriptor) { d.Annotations[annotationSignature] = "?" }, ErrUnsigned},
		"no signature":        {good, func(d *ocispec.Descriptor) { d.Annotations = nil }, ErrUnsigned},
		"layer of no kind":    {good, func(d *ocispec.Descriptor) { d.MediaType = "text/plain" }, ErrUnsigned},
		"payload too large":   {good + strings.Repeat(" ", maxPayloadBytes), func(*ocispec.Descriptor) {}, archive.ErrRejected},
		"payload not as long": {good, func(d *ocispec.Descriptor) { d.Size-- }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore(t)
			layer := sign(tt.payload)
			put(t, store, payloadType, []byte(tt.payload))
			tt.edit(&layer)
			at, err := pushManifest(ctx, store, what, []ocispec.Descriptor{layer})
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Tag(ctx, at, "x"); err != nil {
				t.Fatal(err)
			}
			key, err := Verify(ctx, store, "x", what, []*PublicKey{alice.Public()})
			if name == "payload not as long" {
				if key != nil || err == nil {
					t.Error("a payload of another length is taken")
				}
				return
			}
			if !errors.Is(err, tt.want) || (key != nil) != (tt.want == nil) {
				t.Errorf("got %v, %v, want %v", key, err, tt.want)
			}
		})
	}
	store := newStore(t)
	many := make([]ocispec.Descriptor, MaxSignatures+1)
	for i := range many {
		many[i] = sign(good)
	}
	put(t, store, payloadType, []byte(good))
	for n, want := range map[int]error{MaxSignatures: nil, MaxSignatures + 1: archive.ErrRejected} {
		at, err := pushManifest(ctx, store, what, many[:n])
		if err := errors.Join(err, store.Tag(ctx, at, "x")); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(ctx, store, "x", what, []*PublicKey{alice.Public()}); !errors.Is(err, want) {
			t.Errorf("%d signatures: got %v, want %v", n, err, want)
		}
	}
}

// listing is a store that lists referrers, as registries do.
type listing struct {
	*registry.Store
	list []ocispec.Descriptor
	err  error
}

func (l listing) Referrers(_ context.Context, _ ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	if artifactType != ArtifactType {
		return nil, errors.New("another type")
	}
	return l.list, l.err
}

func TestReferrers(t *testing.T) {
	ctx, alice, store := t.Context(), newKey(t), newStore(t)
	what := subject(digest.FromString("one"))
	at, err := Sign(ctx, store, "elsewhere", "x", what, alice)
	if err != nil {
		t.Fatal(err)
	}
	keys := []*PublicKey{alice.Public()}
	if _, err := Verify(ctx, listing{Store: store, list: []ocispec.Descriptor{at}}, "no-tag", what, keys); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	if _, err := Verify(ctx, listing{Store: store, err: broken}, "no-tag", what, keys); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := Verify(ctx, listing{Store: store, err: broken}, "elsewhere", what, keys); err != nil {
		t.Errorf("the tag is enough: %v", err)
	}
}

func TestFile(t *testing.T) {
	alice, path := newKey(t), filepath.Join(t.TempDir(), "x.tar")
	keys := []*PublicKey{newKey(t).Public(), alice.Public()}
	if err := os.WriteFile(path, bytes.Repeat([]byte("content"), 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyFile(t.Context(), path, keys); !errors.Is(err, ErrUnsigned) {
		t.Errorf("without: got %v, want ErrUnsigned", err)
	}
	text, err := SignFile(t.Context(), path, alice)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+FileSuffix, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyFile(t.Context(), path, keys); err != nil {
		t.Error(err)
	}
	if _, err := VerifyFile(t.Context(), path, keys[:1]); !errors.Is(err, ErrUnsigned) {
		t.Errorf("another key: got %v, want ErrUnsigned", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 34<<20); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if _, err := VerifyFile(t.Context(), path, keys); !errors.Is(err, ErrUnsigned) {
		t.Errorf("changed: got %v, want ErrUnsigned", err)
	}
	if _, err := SignFile(t.Context(), filepath.Join(t.TempDir(), "missing"), alice); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("missing: got %v, want ErrNotFound", err)
	}
	if _, err := SignFile(t.Context(), t.TempDir(), alice); err == nil {
		t.Error("a directory is signed")
	}
}

func TestKeys(t *testing.T) {
	write := func(kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(der []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	key := newKey(t).key
	wide, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	public, edwards, _ := ed25519.GenerateKey(rand.Reader)
	for name, path := range map[string]string{
		"PKCS 8": write("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))), "SEC 1": write("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key))),
	} {
		if got, err := ReadPrivateKey(path, nil); err != nil || !got.key.Equal(key) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, path := range map[string]string{
		"P-384": write("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(wide))), "Ed25519": write("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(edwards))),
		"public": "testdata/cosign.pub", "no PEM": "testdata/blob", "nonsense": write("PRIVATE KEY", []byte("x")), "missing": "testdata/missing",
	} {
		if _, err := ReadPrivateKey(path, nil); err == nil {
			t.Errorf("private key %s: got nil, want an error", name)
		}
	}
	if _, err := ReadPrivateKey("testdata/cosign.key", says("wrong")); err == nil {
		t.Error("the wrong passphrase opens the key")
	}
	for name, path := range map[string]string{
		"P-384": write("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(&wide.PublicKey))), "Ed25519": write("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(public))),
		"private": "testdata/cosign.key", "no PEM": "testdata/blob", "nonsense": write("PUBLIC KEY", []byte("x")), "missing": "testdata/missing",
	} {
		if _, err := ReadPublicKeys(path); err == nil {
			t.Errorf("public key %s: got nil, want an error", name)
		}
	}
}
