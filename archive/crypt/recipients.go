package crypt

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/ckarchive/ckarchive/archive"
)

// PassphraseName stands for a passphrase where a recipient or an identity is named.
const PassphraseName = "passphrase"

// maxFileBytes is the length of a file of recipients or identities.
const maxFileBytes = 1 << 20

// Passphrase asks for the passphrase of what is named, with confirm twice.
type Passphrase func(of string, confirm bool) (string, error)

// Recipients are who can read what is encrypted.
type Recipients struct {
	list  []age.Recipient
	names []string // sorted, each once; the passphrase itself among them
}

// ParseRecipients reads recipients as the command line names them: age1... (X25519, or age1pq1... which
// withstands quantum computers), a public key of SSH (ssh-ed25519 or ssh-rsa), a file with one of these in each
// line, or [PassphraseName]. A passphrase, for which ask is called, has to be the only one.
func ParseRecipients(specs []string, ask Passphrase) (*Recipients, error) {
	r := &Recipients{}
	for _, spec := range specs {
		if err := r.add(spec, ask); err != nil {
			return nil, err
		}
	}
	if len(r.list) == 0 {
		return nil, errors.New("no recipient is named")
	}
	slices.Sort(r.names)
	r.names = slices.Compact(r.names)
	if len(r.list) == 1 {
		return r, nil
	}
	// Recipients that cannot go together are noticed before anything is written.
	w, err := age.Encrypt(io.Discard, r.list...)
	if err != nil {
		return nil, fmt.Errorf("recipients: %w", err)
	}
	return r, w.Close()
}

func (r *Recipients) add(spec string, ask Passphrase) error {
	switch {
	case spec == PassphraseName:
		return r.addPassphrase(ask)
	case isRecipient(spec):
		return r.addLine(spec)
	}
	raw, err := readSmall(spec)
	if err != nil {
		if errors.Is(err, archive.ErrNotFound) {
			return fmt.Errorf("recipient %s is neither age1..., ssh-..., %s nor a file: %w", archive.QuoteName(spec), PassphraseName, err)
		}
		return err
	}
	before := len(r.list)
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, maxFileBytes)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		// The line is not shown: it may be a secret key in the wrong place.
		if !isRecipient(line) {
			return fmt.Errorf("recipients of %q: line %d is no recipient, as age1... and ssh-... are", spec, n)
		}
		if err := r.addLine(line); err != nil {
			return fmt.Errorf("recipients of %q: line %d: %w", spec, n, err)
		}
	}
	if len(r.list) == before {
		return fmt.Errorf("recipients of %q: there are none", spec)
	}
	return lines.Err()
}

func isRecipient(s string) bool { return strings.HasPrefix(s, "age1") || strings.HasPrefix(s, "ssh-") }

func (r *Recipients) addLine(line string) error {
	if strings.HasPrefix(line, "ssh-") {
		recipient, err := agessh.ParseRecipient(line)
		if err != nil {
			return err
		}
		fields := strings.Fields(line)
		r.list, r.names = append(r.list, recipient), append(r.names, strings.Join(fields[:min(2, len(fields))], " "))
		return nil
	}
	list, err := age.ParseRecipients(strings.NewReader(line))
	if err != nil {
		return fmt.Errorf("recipient %s: %w", archive.QuoteName(line), err)
	}
	r.list, r.names = append(r.list, list...), append(r.names, line)
	return nil
}

func (r *Recipients) addPassphrase(ask Passphrase) error {
	if ask == nil {
		return errNoPassphrase
	}
	text, err := ask("the new archive", true)
	if err != nil {
		return err
	}
	recipient, err := age.NewScryptRecipient(text)
	if err != nil {
		return err
	}
	r.list, r.names = append(r.list, recipient), append(r.names, PassphraseName+" "+text)
	return nil
}

// Encrypt is an archive.Encrypter.
func (r *Recipients) Encrypt(w io.Writer) (io.WriteCloser, error) { return age.Encrypt(w, r.list...) }

// Fingerprint tells sets of recipients apart for those who know key, and nothing to others.
func (r *Recipients) Fingerprint(key []byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, name := range r.names {
		_, _ = io.WriteString(mac, name+"\n") // never fails
	}
	return mac.Sum(nil)
}

var errNoPassphrase = errors.New("there is nobody to ask for the passphrase")

// readSmall reads a file of keys.
func readSmall(path string) (_ []byte, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open %q: %w", path, archive.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(raw) > maxFileBytes {
		err = fmt.Errorf("read %q: longer than %d bytes, this is no file of keys", path, maxFileBytes)
	}
	return raw, err
}
