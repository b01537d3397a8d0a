package crypt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"github.com/ckarchive/ckarchive/archive"
)

// maxWorkFactor limits the memory that an archive with a passphrase may ask for: scrypt takes 1 KiB * 2^20. The
// age tool writes 18.
const maxWorkFactor = 20

// Identities are the keys that open what is encrypted.
type Identities struct {
	list []age.Identity
}

// ParseIdentities reads identities as the command line names them: a file with AGE-SECRET-KEY-... lines, a
// private key of SSH, or [PassphraseName]. The latter need not be named: ask is called as soon as
// something needs a passphrase. A nil ask is none.
func ParseIdentities(specs []string, ask Passphrase) (*Identities, error) {
	ids := &Identities{list: []age.Identity{&asked{ask: ask}}}
	for _, spec := range specs {
		if spec == PassphraseName {
			continue
		}
		raw, err := readSmall(spec)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		list, err := parseIdentities(spec, raw, ask)
		if err != nil {
			return nil, fmt.Errorf("identity %q: %w", spec, err)
		}
		ids.list = append(ids.list, list...)
	}
	return ids, nil
}

func parseIdentities(name string, raw []byte, ask Passphrase) ([]age.Identity, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN ")) {
		return age.ParseIdentities(bytes.NewReader(raw))
	}
	id, err := agessh.ParseIdentity(raw)
	if err == nil {
		return []age.Identity{id}, nil
	}
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) || locked.PublicKey == nil || ask == nil {
		return nil, err
	}
	id, err = agessh.NewEncryptedSSHIdentity(locked.PublicKey, raw, func() ([]byte, error) {
		text, err := ask(fmt.Sprintf("the key %q", name), false)
		return []byte(text), err
	})
	return []age.Identity{&own{id}}, err
}

// own is a key whose errors are about the key and not about the archive.
type own struct{ age.Identity }

type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// Unwrap implements [age.Identity].
func (o *own) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := o.Identity.Unwrap(stanzas)
	if err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		err = &ownError{err}
	}
	return key, err
}

// asked is a passphrase that is asked for, once, when something needs one. A file that is opened
// again costs no second's work again.
type asked struct {
	ask    Passphrase
	id     *age.ScryptIdentity
	stanza []byte // that was opened last
	key    []byte // that was in it
}

// Unwrap implements [age.Identity].
func (a *asked) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if len(stanzas) != 1 || stanzas[0].Type != "scrypt" {
		return nil, age.ErrIncorrectIdentity
	}
	if a.id == nil {
		if a.ask == nil {
			return nil, &ownError{errNoPassphrase}
		}
		text, err := a.ask("the archive", false)
		if err != nil {
			return nil, &ownError{err}
		}
		id, err := age.NewScryptIdentity(text)
		if err != nil {
			return nil, &ownError{err}
		}
		id.SetMaxWorkFactor(maxWorkFactor)
		a.id = id
	}
	stanza := []byte(strings.Join(stanzas[0].Args, " ") + " " + string(stanzas[0].Body))
	if bytes.Equal(stanza, a.stanza) {
		return bytes.Clone(a.key), nil
	}
	key, err := a.id.Unwrap(stanzas)
	if err == nil {
		a.stanza, a.key = stanza, bytes.Clone(key)
	}
	return key, err
}

// Decrypt is an archive.Decrypter.
func (ids *Identities) Decrypt(r io.Reader) (io.Reader, error) { return decrypt(r, ids.list) }

func decrypt(r io.Reader, list []age.Identity) (io.Reader, error) {
	src := &source{r: r}
	plain, err := age.Decrypt(src, list...)
	if err != nil {
		return nil, src.judge(err)
	}
	return &opened{plain, src}, nil
}

// source remembers why the encrypted stream could not be read.
type source struct {
	r   io.Reader
	err error
}

// Read implements [io.Reader].
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// judge says whose fault an error is: of the stream below, of the keys or of the archive.
func (s *source) judge(err error) error {
	var none *age.NoIdentityMatchError
	var key *ownError
	switch {
	case s.err != nil:
		return s.err
	case errors.As(err, &none):
		return fmt.Errorf("%w: no key that was given opens it (it is for %s)", archive.ErrEncrypted, kinds(none.StanzaTypes))
	case errors.As(err, &key):
		return fmt.Errorf("%w: %w", archive.ErrEncrypted, err)
	}
	return fmt.Errorf("%w: decrypt: %w", archive.ErrRejected, err)
}

// kinds names the recipients of an archive as far as they can be told.
func kinds(stanzas []string) string {
	var names []string
	for _, s := range stanzas[:min(len(stanzas), 8)] {
		switch s {
		case "X25519", "mlkem768x25519":
			s = "a key of age"
		case "scrypt":
			s = "a passphrase, and that was another one"
		case "ssh-ed25519", "ssh-rsa":
			s = "a key of SSH"
		default:
			s = archive.QuoteName(s)
		}
		names = append(names, s)
	}
	return strings.Join(names, ", ")
}

// opened gives the content of an encrypted stream.
type opened struct {
	r   io.Reader
	src *source
}

// Read implements [io.Reader].
func (o *opened) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = o.src.judge(err)
	}
	return n, err
}
