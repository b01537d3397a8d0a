package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/ckarchive/ckarchive/test/env"
)

// ageKey makes a recipient and the file of its identity.
func (h *host) ageKey(name string) (recipient, file string) {
	h.t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		h.t.Fatal(err)
	}
	file = h.path(name)
	if err := os.WriteFile(file, []byte(id.String()+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return id.Recipient().String(), file
}

// signingKey makes the files of a key.
func (h *host) signingKey(name string) (private, public string) {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	write := func(suffix, kind string, der []byte, err error) string {
		if err == nil {
			err = os.WriteFile(h.path(name+suffix), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
		}
		if err != nil {
			h.t.Fatal(err)
		}
		return h.path(name + suffix)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	private = write(".key", "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	return private, write(".pub", "PUBLIC KEY", der, err)
}

// found looks for text in all files below dir.
func found(t *testing.T, text, dir string) bool {
	t.Helper()
	err := exec.CommandContext(t.Context(), "grep", "-rqa", text, dir).Run()
	var exit *exec.ExitError
	if err != nil && (!asExit(err, &exit) || exit.ExitCode() != 1) {
		t.Fatal(err)
	}
	return err == nil
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // of a command that was run here
	*exit = e
	return ok
}

// TestEncrypted carries a container to another host in a file and through a registry, and only who has the key can
// bring it back.
func TestEncrypted(t *testing.T) {
	one, two := newHost(t, "docker-registry"), newHost(t)
	registry := env.Registry(t, env.RegistryOptions{})
	recipient, key := one.ageKey("key")
	_, stranger := one.ageKey("stranger")
	name := registry.Host + "/secret/counter:v1"
	c := one.start("c", counts())

	one.extra = append(one.extra, "CKARCHIVE_REQUIRE_ENCRYPTION=true")
	one.run("export", "--leave-running", "--base", one.built.base, c.id, one.path("plain.tar.zst")).refused(5, "requires encryption")
	one.ok("export", "--leave-running", "--encrypt", recipient, "--base", one.built.base, c.id, name)
	one.ok("export", "--leave-running", "--encrypt", recipient, "--decrypt-identity", key, "--base", one.built.base, c.id, registry.Host+"/secret/counter:v2")
	list := decode[[]struct{ OwnBytes, Bytes int64 }](one.ok("list", "--json"))
	if len(list) != 2 || list[1].OwnBytes >= list[0].Bytes/2 {
		t.Errorf("%+v: the second checkpoint is no child of the first", list)
	}
	file := one.path("c.tar.zst.age")
	one.ok("export", "--encrypt", recipient, "--base", one.built.base, c.id, file)
	one.ok("push", "--plain-http", name, name)
	for _, dir := range []string{registry.Dir, one.root, file} {
		if found(t, "ociVersion", dir) || found(t, "inventory.img", dir) {
			t.Errorf("%s tells what is in the checkpoint", dir)
		}
	}

	base := two.copyBase(two.path("base"))
	two.restoreRefused("none", []string{"--plain-http", "--base", base, name}, 5, "encrypted")
	two.restoreRefused("stranger", []string{"--plain-http", "--decrypt-identity", stranger, "--base", base, name}, 5, "encrypted")
	two.restoreRefused("file", []string{"--decrypt-identity", stranger, "--base", base, file}, 5, "encrypted")
	two.restore("r", name, "--plain-http", "--decrypt-identity", key, "--base", base).wellBehaved()
	two.restore("f", file, "--engine", "direct", "--decrypt-identity", key, "--base", base).wellFrom(c)
}

// TestSigned demands the signature of one key for the repositories of a team, on a registry without and with lists of referrers.
func TestSigned(t *testing.T) {
	one, two := newHost(t, "docker-registry"), newHost(t)
	registry := env.Registry(t, env.RegistryOptions{})
	private, public := one.signingKey("team")
	eve, _ := one.signingKey("eve")
	name := registry.Host + "/team/counter:v1"
	trust := two.path("trust.toml")
	if err := os.WriteFile(trust, []byte("[[repository]]\nprefix = \""+registry.Host+"/team\"\nkeys = [\""+public+"\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := one.start("c", counts())
	digest := one.ok("export", "--leave-running", "--base", one.built.base, c.id, name).line()
	one.ok("push", "--plain-http", name, name)
	two.extra = append(two.extra, "CKARCHIVE_TRUST_FILE="+trust)
	base := two.copyBase(two.path("base"))
	refused := func(why string) {
		t.Helper()
		two.restoreRefused("no", []string{"--plain-http", "--base", base, name}, 3, why)
		two.run("pull", "--plain-http", name).refused(3, why)
		two.run("pull", "--plain-http", name, two.path("no.tar")).refused(3, why)
		if left := decode[[]struct{ Name string }](two.ok("list", "--json")); len(left) > 0 || exists(t, two.path("no.tar")) {
			t.Errorf("what is not signed was taken: %v", left)
		}
	}
	refused("no signature of it")
	one.ok("sign", "--plain-http", "--key", eve, name)
	refused("by such a key")
	one.ok("sign", "--plain-http", "--key", private, name)
	if got := two.ok("pull", "--plain-http", name).line(); !strings.Contains(got, digest) {
		t.Errorf("pull prints %q, want %s", got, digest)
	}
	// The signature came along: no registry is needed any more.
	two.restore("r", name, "--pull", "never", "--base", base).wellBehaved()

	// The tag is moved to something that nobody signed.
	one.ok("export", "--base", one.built.base, c.id, name)
	one.ok("push", "--plain-http", name, name)
	two.restoreRefused("moved", []string{"--plain-http", "--pull", "always", "--base", base, name}, 3, "no signature of it")
	// Signed before it is sent, it is sent with its signature.
	one.ok("sign", "--local", "--key", private, name)
	one.ok("push", "--plain-http", name, name)
	two.restore("again", name, "--plain-http", "--pull", "always", "--base", base).wellFrom(c)
}
