package signature

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// maxKeyBytes is the length of a file of keys.
const maxKeyBytes = 1 << 20

// PrivateKey signs.
type PrivateKey struct{ key *ecdsa.PrivateKey }

// PublicKey verifies.
type PublicKey struct {
	key *ecdsa.PublicKey
	// Name is where the key comes from, for people.
	Name string
}

// Public is the other half of the key.
func (k *PrivateKey) Public() *PublicKey { return &PublicKey{key: &k.key.PublicKey, Name: "this key"} }

// ReadPrivateKey reads a PEM file with an ECDSA P-256 key: PKCS #8, SEC 1 (as openssl writes them), or that
// of `cosign generate-key-pair`, for which ask gives the passphrase.
func ReadPrivateKey(path string, ask func() (string, error)) (*PrivateKey, error) {
	key, err := readPrivateKey(path, ask)
	if err != nil {
		return nil, fmt.Errorf("private key %q: %w", path, err)
	}
	return key, nil
}

func readPrivateKey(path string, ask func() (string, error)) (*PrivateKey, error) {
	raw, err := readFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("it is no PEM file")
	}
	der := block.Bytes
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(der)
		if err != nil {
			return nil, err
		}
		return checkPrivate(key)
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		word, err := ask()
		if err != nil {
			return nil, err
		}
		if der, err = encrypted.Decrypt(der, []byte(word)); err != nil {
			return nil, fmt.Errorf("open it with the passphrase: %w", err)
		}
	case "PRIVATE KEY":
	default:
		return nil, fmt.Errorf("it is a %q, a private key is needed", block.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	return checkPrivate(key)
}

func checkPrivate(key any) (*PrivateKey, error) {
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errKind
	}
	return &PrivateKey{ec}, nil
}

var errKind = errors.New("it is no ECDSA key with the curve P-256")

// ReadPublicKeys reads a PEM file with one or more ECDSA P-256 keys, as cosign and openssl write them.
func ReadPublicKeys(path string) ([]*PublicKey, error) {
	raw, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("public key %q: %w", path, err)
	}
	var keys []*PublicKey
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("public key %q: it is a %q", path, block.Type)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public key %q: %w", path, err)
		}
		ec, ok := key.(*ecdsa.PublicKey)
		if !ok || ec.Curve != elliptic.P256() {
			return nil, fmt.Errorf("public key %q: %w", path, errKind)
		}
		keys = append(keys, &PublicKey{key: ec, Name: path})
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("public key %q: it is no PEM file", path)
	}
	return keys, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKeyBytes {
		return nil, fmt.Errorf("longer than %d bytes", maxKeyBytes)
	}
	return os.ReadFile(path)
}

// sign gives the signature of what has the hash, in base64.
func (k *PrivateKey) sign(sum [sha256.Size]byte) (string, error) {
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, sum[:])
	return base64.StdEncoding.EncodeToString(sig), err
}

// verify tells whether text is a signature, in base64, of what has the hash.
func (k *PublicKey) verify(sum [sha256.Size]byte, text string) bool {
	sig, err := base64.StdEncoding.DecodeString(text)
	return err == nil && ecdsa.VerifyASN1(k.key, sum[:], sig)
}
