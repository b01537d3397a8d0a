package crypt

import (
	"io"

	"filippo.io/age"
)

// Key is a recipient together with its identity, made for one stream that belongs to others: whoever
// can read these finds the key there.
type Key struct{ id *age.X25519Identity }

// NewKey makes a key.
func NewKey() (Key, error) {
	id, err := age.GenerateX25519Identity()
	return Key{id}, err
}

// Valid tells whether it is a key: the zero value is none.
func (k Key) Valid() bool { return k.id != nil }

// MarshalText gives the secret, in the form of identities of age.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.id.String()), nil }

// UnmarshalText reads what MarshalText gave.
func (k *Key) UnmarshalText(text []byte) (err error) {
	k.id, err = age.ParseX25519Identity(string(text))
	return err
}

// Encrypt is an archive.Encrypter.
func (k Key) Encrypt(w io.Writer) (io.WriteCloser, error) { return age.Encrypt(w, k.id.Recipient()) }

// Decrypt is an archive.Decrypter.
func (k Key) Decrypt(r io.Reader) (io.Reader, error) { return decrypt(r, []age.Identity{k.id}) }
