package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/test/env"
)

// cosign accepts what ckarchive signs, in registries and beside files, and ckarchive what cosign signs. Both refuse
// another key.
func TestCosignLive(t *testing.T) {
	if os.Getenv(fullRun) == "" {
		t.Skip("only `make interop` installs cosign")
	}
	cosign := env.Program(t, "cosign")
	registry := env.Registry(t, env.RegistryOptions{})
	dir := t.TempDir()
	run := func(program string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = dir
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "COSIGN_PASSWORD=word", "CKARCHIVE_PASSPHRASE_FILE=" + filepath.Join(dir, "word"),
			"CKARCHIVE_ROOT=" + filepath.Join(dir, "store"), "CKARCHIVE_PLAIN_HTTP=true",
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	ok := func(program string, args ...string) string {
		t.Helper()
		said, err := run(program, args...)
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, said)
		}
		return said
	}
	ckarchive := env.Ckarchive(t)
	must(t, os.WriteFile(filepath.Join(dir, "word"), []byte("word\n"), 0o600))
	for _, name := range []string{"cosign", "other"} {
		ok(cosign, "generate-key-pair", "--output-key-prefix", name)
	}
	writeCheckpoint(t, filepath.Join(dir, "c.tar.zst"))
	here := registry.Host + "/team/"
	verify := func(how ...string) []string {
		return append([]string{"verify", "--insecure-ignore-tlog", "--allow-http-registry", "--key"}, how...)
	}
	for _, tt := range []struct {
		name    string
		sign    []string // by whom, and how
		verify  []string // the same, without the key and what is verified
		subject string
	}{
		{"ours by cosign", []string{ckarchive, "sign", "--key", "cosign.key", here + "ours:1"}, append([]string{cosign}, verify()...), here + "ours:1"},
		{"ours by us", []string{ckarchive, "sign", "--key", "cosign.key", here + "same:1"}, []string{ckarchive, "verify", "--key"}, here + "same:1"},
		{"cosign's by us", []string{cosign, "sign", "--yes", "--tlog-upload=false", "--allow-http-registry", "--key", "cosign.key", here + "theirs:1"}, []string{ckarchive, "verify", "--key"}, here + "theirs:1"},
		{"our file by cosign", []string{ckarchive, "sign", "--key", "cosign.key", "./ours.tar.zst"}, []string{cosign, "verify-blob", "--insecure-ignore-tlog", "--signature", "ours.tar.zst.sig", "--key"}, "./ours.tar.zst"},
		{"cosign's file by us", []string{cosign, "sign-blob", "--yes", "--tlog-upload=false", "--key", "cosign.key", "--output-signature", "theirs.tar.zst.sig", "theirs.tar.zst"}, []string{ckarchive, "verify", "--key"}, "./theirs.tar.zst"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasPrefix(tt.subject, ".") {
				b, err := os.ReadFile(filepath.Join(dir, "c.tar.zst"))
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, tt.subject), b, 0o600))
			} else {
				ok(ckarchive, "push", "./c.tar.zst", tt.subject)
			}
			check := func(key string) (string, error) {
				return run(tt.verify[0], append(append([]string{}, tt.verify[1:]...), key, tt.subject)...)
			}
			if said, err := check("cosign.pub"); err == nil {
				t.Errorf("it is accepted before it is signed: %s", said)
			}
			ok(tt.sign[0], tt.sign[1:]...)
			if said, err := check("cosign.pub"); err != nil {
				t.Errorf("it is not accepted: %v\n%s", err, said)
			}
			if said, err := check("other.pub"); err == nil {
				t.Errorf("it is accepted with another key: %s", said)
			}
		})
	}
}

// writeCheckpoint writes a small archive.
func writeCheckpoint(t *testing.T, path string) {
	t.Helper()
	out, err := archive.CreateFile(path, archive.FileOptions{Compression: archive.Zstd})
	must(t, err)
	_, err = archive.Copy(t.Context(), out, archivetest.Source(archivetest.Checkpoint()), archive.CopyOptions{})
	must(t, err)
	must(t, out.Commit(t.Context()))
}
