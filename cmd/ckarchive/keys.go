package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
	"oras.land/oras-go/v2"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/oci/artifact"
)

// encryptFlags say who can read what is written.
type encryptFlags struct {
	Encrypt []string `help:"Encrypt to this recipient: age1..., a public key of SSH, a file with one of these in each line, or passphrase; may be repeated." sep:"none" env:"CKARCHIVE_ENCRYPT" placeholder:"RECIPIENT"`
}

// ageSuffix ends the names of encrypted files.
const ageSuffix = ".age"

// recipients reads the flag; nil means that nothing is encrypted.
func (f encryptFlags) recipients(a *app) (*crypt.Recipients, error) {
	specs := given(f.Encrypt)
	if len(specs) == 0 {
		return nil, nil //nolint:nilnil // there are none
	}
	r, err := crypt.ParseRecipients(specs, a.passphrase)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("--encrypt: %w", err), hint: "age-keygen makes a key; --encrypt takes the age1... that it prints"}
	}
	return r, nil
}

// given leaves out what is empty, as from an empty environment variable.
func given(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == "" })
}

// encrypter is how files are encrypted; nil means not at all.
func encrypter(r *crypt.Recipients) archive.Encrypter {
	if r == nil {
		return nil
	}
	return r.Encrypt
}

// decrypt is an archive.Decrypter that opens with the keys of --decrypt-identity.
func (a *app) decrypt(r io.Reader) (io.Reader, error) {
	if a.identities == nil {
		ids, err := crypt.ParseIdentities(given(a.cli.DecryptIdentity), a.passphrase)
		if err != nil {
			return nil, &usageError{err: fmt.Errorf("--decrypt-identity: %w", err), hint: "name a file with AGE-SECRET-KEY-... or a private key of SSH"}
		}
		a.identities = ids
	}
	return a.identities.Decrypt(r)
}

// passphrase is a crypt.Passphrase: it reads the file that the environment names or asks on the terminal.
func (a *app) passphrase(of string, confirm bool) (string, error) {
	if path := a.getenv(passphraseFile); path != "" {
		return readPassphrase(path)
	}
	// Standard input may be an archive.
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("there is no terminal to ask for the passphrase of %s, and %s is not set", of, passphraseFile)
	}
	defer tty.Close() //nolint:errcheck // what was asked is known
	text, err := ask(tty, "Passphrase of "+of+": ")
	if err != nil || !confirm {
		return text, err
	}
	again, err := ask(tty, "Once more: ")
	if err == nil && again != text {
		err = errors.New("the two passphrases are not the same")
	}
	return text, err
}

// passphraseFile is the variable with the name of the file that holds the passphrase, in its first line.
const passphraseFile = "CKARCHIVE_PASSPHRASE_FILE" //nolint:gosec // a name

func readPassphrase(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", passphraseFile, err)
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, maxPasswordBytes))
	if err != nil {
		return "", fmt.Errorf("%s: %w", passphraseFile, err)
	}
	text, _, _ := strings.Cut(string(b), "\n")
	if text = strings.TrimSuffix(text, "\r"); text == "" {
		return "", fmt.Errorf("%s: the first line of %q is empty", passphraseFile, path)
	}
	return text, nil
}

func ask(tty *os.File, prompt string) (string, error) {
	fmt.Fprint(tty, prompt)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err == nil && len(b) == 0 {
		err = errors.New("the passphrase is empty")
	}
	return string(b), err
}

// checkPlain refuses to write dest in plain form when the operator demands encryption, or when its
// name says something else. Only the local store is in plain form all the same.
func (a *app) checkPlain(dest location, encrypted bool) error {
	switch {
	case encrypted && dest.kind == locationImages:
		return usagef("%s is for CRIU and runtimes, which read nothing encrypted: leave out --encrypt", dest.text)
	case encrypted:
		return nil
	case dest.kind == locationFile && strings.HasSuffix(dest.path, ageSuffix):
		return &usageError{err: fmt.Errorf("%s has the name of an encrypted file and would be none", dest.path), hint: "add --encrypt RECIPIENT, or leave out " + ageSuffix}
	case dest.kind == locationName:
		return nil // what leaves the store is looked at by push
	}
	return a.demandEncryption(dest)
}

// demandEncryption is the refusal of --require-encryption.
func (a *app) demandEncryption(dest location) error {
	t, err := a.trusted()
	if err != nil {
		return err
	}
	if !a.cli.RequireEncryption && !t.RequireEncryption {
		return nil
	}
	return withHint(&environmentError{fmt.Errorf("%s would hold the memory of the container in plain form, and this host requires encryption", dest.text)},
		"add --encrypt RECIPIENT")
}

// checkPushed refuses to send a checkpoint in plain form, or warns.
func (a *app) checkPushed(ctx context.Context, from oras.ReadOnlyTarget, name string, dest location) error {
	encrypted, err := storedEncrypted(ctx, from, name)
	if err != nil || encrypted {
		return err
	}
	if err := a.demandEncryption(dest); err != nil {
		return err
	}
	if dest.kind == locationName && !dest.ref.IsLoopback() {
		a.warn("%s gets the memory of the container in plain form, with every secret in it; --encrypt RECIPIENT encrypts it", dest.ref.Host)
	}
	return nil
}

// storedEncrypted tells whether what name leads to is encrypted.
func storedEncrypted(ctx context.Context, from oras.ReadOnlyTarget, name string) (bool, error) {
	desc, err := from.Resolve(ctx, name)
	if err != nil {
		return false, err
	}
	return artifact.Encrypted(ctx, from, desc)
}
