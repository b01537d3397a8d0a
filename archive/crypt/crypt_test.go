package crypt_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/crypt"
)

func newAge(t *testing.T) (recipient, identityFile string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id.Recipient().String(), write(t, "# a comment\n"+id.String()+"\n")
}

func newSSH(t *testing.T, passphrase string) (recipient, identityFile string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " somebody@host", write(t, string(pem.EncodeToMemory(block)))
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// says answers with one passphrase.
func says(text string) crypt.Passphrase {
	return func(string, bool) (string, error) { return text, nil }
}

func recipients(t *testing.T, ask crypt.Passphrase, specs ...string) *crypt.Recipients {
	t.Helper()
	r, err := crypt.ParseRecipients(specs, ask)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func identities(t *testing.T, ask crypt.Passphrase, specs ...string) *crypt.Identities {
	t.Helper()
	ids, err := crypt.ParseIdentities(specs, ask)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func seal(t *testing.T, to *crypt.Recipients, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := to.Encrypt(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(ids *crypt.Identities, sealed io.Reader) ([]byte, error) {
	r, err := ids.Decrypt(sealed)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestKinds(t *testing.T) {
	ageKey, ageFile := newAge(t)
	sshKey, sshFile := newSSH(t, "")
	lockedKey, lockedFile := newSSH(t, "locked")
	_, otherFile := newAge(t)
	list := write(t, "# who may read\n\n"+ageKey+"\n"+sshKey+"\n")
	plain := bytes.Repeat([]byte("memory"), 50_000)
	for _, test := range []struct {
		name, to, with string
		ask            crypt.Passphrase
		fails          bool
	}{
		{"age", ageKey, ageFile, nil, false},
		{"ssh", sshKey, sshFile, nil, false},
		{"ssh key with passphrase", lockedKey, lockedFile, says("locked"), false},
		{"ssh key with wrong passphrase", lockedKey, lockedFile, says("wrong"), true},
		{"list, first", list, ageFile, nil, false},
		{"list, second", list, sshFile, nil, false},
		{"another key", ageKey, otherFile, nil, true},
		{"another kind of key", sshKey, ageFile, nil, true},
		{"passphrase asked where a key is needed", ageKey, crypt.PassphraseName, says("word"), true},
		{"nobody to ask", crypt.PassphraseName, ageFile, nil, true},
		{"passphrase", crypt.PassphraseName, crypt.PassphraseName, says("word"), false},
		{"passphrase without being named", crypt.PassphraseName, ageFile, says("word"), false},
		{"wrong passphrase", crypt.PassphraseName, crypt.PassphraseName, says("other"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			sealed := seal(t, recipients(t, says("word"), test.to), plain)
			if bytes.Contains(sealed, []byte("memory")) || !archive.IsEncrypted(sealed) {
				t.Error("the content is not encrypted, or not recognised as such")
			}
			got, err := open(identities(t, test.ask, test.with), bytes.NewReader(sealed))
			switch {
			case test.fails && !errors.Is(err, archive.ErrEncrypted):
				t.Errorf("got %v, want ErrEncrypted", err)
			case !test.fails && err != nil:
				t.Error(err)
			case !test.fails && !bytes.Equal(got, plain):
				t.Error("got other content")
			}
		})
	}
}

func TestParse(t *testing.T) {
	ageKey, ageFile := newAge(t)
	for name, specs := range map[string][]string{
		"none":                 nil,
		"no key":               {"age1nothing"},
		"no file":              {filepath.Join(t.TempDir(), "missing")},
		"a secret key":         {ageFile},
		"empty file":           {write(t, "# nobody\n")},
		"passphrase and a key": {crypt.PassphraseName, ageKey},
	} {
		_, err := crypt.ParseRecipients(specs, says("word"))
		if err == nil || strings.Contains(err.Error(), "AGE-SECRET") {
			t.Errorf("%s: got %v, want an error without secrets", name, err)
		}
	}
	for name, spec := range map[string]string{"no file": filepath.Join(t.TempDir(), "missing"), "a public key": write(t, ageKey), "empty": write(t, "")} {
		if _, err := crypt.ParseIdentities([]string{spec}, nil); err == nil {
			t.Errorf("%s: taken as an identity", name)
		}
	}
}

// TestDamage changes, cuts, extends and moves every piece of an encrypted stream.
func TestDamage(t *testing.T) {
	const chunk = 64<<10 + 16
	key, file := newAge(t)
	to, ids := recipients(t, nil, key), identities(t, nil, file)
	plain := make([]byte, 200_000)
	_, _ = rand.Read(plain)
	sealed := seal(t, to, plain)
	header := bytes.Index(sealed, []byte("\n---")) + 1
	header += bytes.IndexByte(sealed[header:], '\n') + 1 + 16
	other := seal(t, to, plain)
	flip := func(at int) []byte {
		b := bytes.Clone(sealed)
		b[at] ^= 1
		return b
	}
	swapped := bytes.Clone(sealed)
	copy(swapped[header:], sealed[header+chunk:header+2*chunk])
	copy(swapped[header+chunk:], sealed[header:header+chunk])
	spliced := bytes.Clone(sealed)
	copy(spliced[header:header+chunk], other[header:])
	for name, b := range map[string][]byte{
		"header": flip(60), "mac": flip(header - 30), "nonce": flip(header - 1), "first piece": flip(header),
		"last byte": flip(len(sealed) - 1), "cut": sealed[:len(sealed)-1], "cut between pieces": sealed[:header+2*chunk],
		"cut in the header": sealed[:header-20], "bytes behind": append(bytes.Clone(sealed), 0), "pieces swapped": swapped, "piece of another": spliced,
		"no age file": []byte("age-encryption.org/v1\nnonsense\n"),
	} {
		_, err := open(ids, bytes.NewReader(b))
		if name == "header" && errors.Is(err, archive.ErrEncrypted) {
			continue // a key that is not the right one and a damaged piece of the header look the same
		}
		if !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s: got %v, want ErrRejected", name, err)
		}
	}
	// A disk that cannot be read is no reason to call an archive damaged.
	broken := errors.New("broken")
	for _, n := range []int64{10, int64(header) - 5, int64(header) + 100, int64(len(sealed)) - 1} {
		_, err := open(ids, io.MultiReader(io.LimitReader(bytes.NewReader(sealed), n), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, archive.ErrRejected) {
			t.Errorf("broken after %d bytes: got %v", n, err)
		}
	}
}

func TestArchiveFile(t *testing.T) {
	key, file := newAge(t)
	to, ids := recipients(t, nil, key), identities(t, nil, file)
	_, otherFile := newAge(t)
	for _, c := range archive.Compressions {
		t.Run(string(c), func(t *testing.T) {
			var path string
			archivetest.TestSink(t, func(t *testing.T) (archive.Sink, func() ([]archivetest.File, error)) {
				path = filepath.Join(t.TempDir(), "x.age")
				sink, err := archive.CreateFile(path, archive.FileOptions{Compression: c, Encrypt: to.Encrypt})
				if err != nil {
					t.Fatal(err)
				}
				return sink, func() ([]archivetest.File, error) {
					src, err := archive.OpenFile(path, archive.ReaderOptions{Decrypt: ids.Decrypt})
					if err != nil {
						return nil, err
					}
					defer src.Close()
					if !src.Encrypted() || src.Compression() != c {
						t.Errorf("encrypted %v, %s", src.Encrypted(), src.Compression())
					}
					return archivetest.Read(t.Context(), src)
				}
			})
			path = filepath.Join(t.TempDir(), "x.age")
			if err := os.WriteFile(path, seal(t, to, []byte("anything")), 0o600); err != nil {
				t.Fatal(err)
			}
			for name, d := range map[string]archive.Decrypter{"no key": nil, "another key": identities(t, nil, otherFile).Decrypt} {
				if _, err := archive.OpenFile(path, archive.ReaderOptions{Decrypt: d}); !errors.Is(err, archive.ErrEncrypted) {
					t.Errorf("%s: got %v, want ErrEncrypted", name, err)
				}
			}
		})
	}
}

// TestSpooled has memory that was packed before the head of the archive was known.
func TestSpooled(t *testing.T) {
	key, file := newAge(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "x.age")
	sink, err := archive.CreateFile(path, archive.FileOptions{Encrypt: recipients(t, nil, key).Encrypt})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	spool, err := sink.Spool(filepath.Join(dir, "spool"))
	if err != nil {
		t.Fatal(err)
	}
	memory := bytes.Repeat([]byte("a page of memory"), 5<<20)
	if err := spool.Put(t.Context(), archive.Image("pages-1.img"), bytes.NewReader(memory)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "images", archive.CheckpointDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "images", archive.Image(archive.Inventory)), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	meta := &archive.Metadata{FormatVersion: archive.FormatVersion, Format: archive.FormatCRIU, Tool: "test"}
	src, err := archive.Seal(t.Context(), filepath.Join(dir, "images"), spool, meta, []byte(`{"ociVersion":"1.0.2"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := archive.Copy(t.Context(), sink, src, archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := sink.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, err := archive.OpenFile(path, archive.ReaderOptions{Decrypt: identities(t, nil, file).Decrypt})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if report, err := archive.Verify(context.Background(), in, archive.CopyOptions{}); err != nil || !report.Proven {
		t.Errorf("proven %v, %v", report.Proven, err)
	}
}

func TestFingerprint(t *testing.T) {
	one, _ := newAge(t)
	two, _ := newSSH(t, "")
	key, other := []byte("key"), []byte("other")
	same := recipients(t, nil, one, two).Fingerprint(key)
	if !bytes.Equal(same, recipients(t, nil, strings.TrimSuffix(two, " somebody@host"), one, one).Fingerprint(key)) {
		t.Error("the order, repetition or comments of recipients matter")
	}
	for name, got := range map[string][]byte{
		"one less": recipients(t, nil, one).Fingerprint(key), "another key": recipients(t, nil, one, two).Fingerprint(other),
		"passphrase": recipients(t, says("a"), crypt.PassphraseName).Fingerprint(key),
	} {
		if bytes.Equal(same, got) {
			t.Errorf("%s: the same fingerprint", name)
		}
	}
}

func TestKey(t *testing.T) {
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	var again crypt.Key
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := key.Encrypt(&b)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, "content")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := again.Decrypt(&b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "content" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`"nonsense"`), &again); err == nil {
		t.Error("nonsense is a key")
	}
}
