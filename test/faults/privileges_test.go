package faults

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/test/env"
)

// nobody is a user without rights.
const nobody = 65534

// writeKey makes a private key that anybody may read.
func writeKey(t *testing.T, path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

// Everything but to dump and to restore needs no rights, from a file, a stream, a layout, the local store and a registry.
func TestUnprivileged(t *testing.T) {
	env.Require(t, "root", "setpriv")
	registry := env.Registry(t, env.RegistryOptions{})
	dir := place(t)
	writeKey(t, filepath.Join(dir, "key.pem"))
	sample, err := os.ReadFile("../../archive/foreign/testdata/podman-volume.tar.zst")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "real.tar.zst"), sample, 0o644)
	}
	if err == nil { // whatever the umask is
		err = os.Chmod(filepath.Join(dir, "real.tar.zst"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "hidden"), 0o700); err != nil {
		t.Fatal(err)
	}
	name := registry.Host + "/nobody:1"
	lines := []string{
		`import ./c.tar.zst x:1`, `tag x:1 y:1`, `list`, `push y:1 oci:layout:1`, `push y:1 oci-archive:layout.tar:1`, `push y:1 ` + name,
		`push oci:layout:1 ` + name + `-layout`, `push ./c.tar.zst ` + name + `-file`, `import oci:layout:1 z:1`, `import - w:1 <./c.tar.zst`,
		`pull ` + name, `pull ` + name + ` ./pulled.tar`, `pull ` + name + ` oci:pulled:1`, `verify ./pulled.tar`, `flatten x:1 flat:1`,
		`import ./real.tar.zst real:1`, `push real:1 oci:real:1`, `push real:1 ` + name + `-real`, `diff ./real.tar.zst real:1`, `diff oci:real:1 ` + name + `-real`, `sign --key ./key.pem ./pulled.tar`, `sign --key ./key.pem oci:layout:1`, `sign --key ./key.pem ` + name,
		`sign --key ./key.pem x:1`,
	}
	for i, source := range []string{`./c.tar.zst`, `oci:layout:1`, `oci-archive:layout.tar:1`, `x:1`, `--pull always ` + name} {
		lines = append(lines, `inspect `+source, `verify `+source, fmt.Sprintf(`convert %s ./copy-%d.tar`, source, i))
	}
	for _, source := range []string{`./real.tar.zst`, `oci:real:1`, `real:1`, name + `-real`} {
		lines = append(lines, `inspect --tree `+source, `check `+source+`; test $? = 0 -o $? = 5`) // it may not be restorable on this host
	}
	lines = append(lines, `rm x:1`, `gc`)
	for _, line := range lines {
		if said, err := shell(t, dir, `export CKARCHIVE_PLAIN_HTTP=true; "$CKARCHIVE" `+line, true); err != nil {
			t.Errorf("%s: %v: %s", line, err, said)
		}
	}
	// What is hidden is told of, and not taken for something else.
	for _, line := range []string{`list --containers`, `check ./real.tar.zst`} {
		said, _ := shell(t, dir, `"$CKARCHIVE" `+line+` --runtime-root "$PWD/hidden"`, true)
		if strings.Contains(said, "container exists") || strings.HasPrefix(line, "list") && !strings.Contains(said, "hidden: permission denied") {
			t.Errorf("%s: %s", line, said)
		}
	}
	for _, line := range []string{`export c ./x.tar`, `restore ./c.tar.zst`, `recover`} {
		if said, err := shell(t, dir, `"$CKARCHIVE" `+line, true); err == nil || !strings.Contains(said, "root") {
			t.Errorf("%s: %v, want the need for root: %s", line, err, said)
		}
	}
}

// statusOf is what the kernel says of a process: its status in /proc, by field.
func statusOf(pid int) map[string]string {
	status := map[string]string{}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return status
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	return status
}

// child is the one child of a process, or 0.
func child(pid int) int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		b, _ := os.ReadFile(file) // it may have ended
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return n
		}
	}
	return 0
}

// What root reads is read without the rights of root: each verb, while it waits for its first bytes.
func TestReadersGiveUpRoot(t *testing.T) {
	env.Require(t, "root")
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	name := strings.TrimPrefix(server.URL, "http://") + "/x:1"
	for _, line := range []string{
		"verify -", "inspect -", "import - x:1", "convert - ./copy.tar", "push - oci:layout:1", "diff - ./c.tar.zst",
		"pull " + name, "pull " + name + " ./pulled.tar", "inspect " + name, "verify " + name, "push old:1 " + name, "sign --key ./key.pem " + name,
		"check -", "check --pull always " + name, "tag old:1 new:1", "rm old:1", "flatten old:1",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			dir := place(t)
			writeKey(t, filepath.Join(dir, "key.pem"))
			if said, err := shell(t, dir, `"$CKARCHIVE" import ./c.tar.zst old:1`, false); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			for _, lock := range []string{"ckarchive.lock", "ckarchive.gc.lock"} {
				if strings.HasPrefix(line, "tag") || strings.HasPrefix(line, "rm") || strings.HasPrefix(line, "flatten") {
					hold(t, filepath.Join(dir, "root", lock))
				}
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "ckarchive"), strings.Fields(line)...)
			cmd.Dir = dir
			cmd.Env = []string{"HOME=" + dir, "TMPDIR=" + dir, "CKARCHIVE_ROOT=" + filepath.Join(dir, "root"), "CKARCHIVE_PLAIN_HTTP=true"}
			var said bytes.Buffer
			cmd.Stderr = &said
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = stdin.Close()
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			reads := func() map[string]string { // check lets a process of its own read
				if strings.HasPrefix(line, "check") {
					return statusOf(child(cmd.Process.Pid))
				}
				return statusOf(cmd.Process.Pid)
			}
			is := reads()
			for begin := time.Now(); strings.Trim(is["CapPrm"], "0") != "" || is["NoNewPrivs"] != "1"; is = reads() {
				if time.Since(begin) > maxTime || statusOf(cmd.Process.Pid)["State"] == "Z (zombie)" {
					t.Fatalf("it has CapPrm %s, NoNewPrivs %s, state %s: %s", is["CapPrm"], is["NoNewPrivs"], is["State"], &said)
				}
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond)
			if is := reads(); is["State"] == "Z (zombie)" || is["State"] == "" || strings.Trim(is["CapPrm"]+is["CapEff"]+is["CapInh"], "0") != "" {
				t.Errorf("later it is %v: %s", is, &said)
			}
		})
	}
}

// hold keeps a lock until the end of the test.
func hold(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
}

// What belongs to another user can be read and written beside by root, as ever.
func TestReadersOfOthersFiles(t *testing.T) {
	env.Require(t, "root")
	dir := place(t)
	home := filepath.Join(dir, "home")
	if said, err := shell(t, dir, `mkdir -m 700 home && cp c.tar.zst home/ && "$CKARCHIVE" push ./c.tar.zst oci:home/layout:1 && chmod -R go-rwx home && chown -R 65534:65534 home`, false); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for _, line := range []string{
		`inspect home/c.tar.zst`, `verify oci:home/layout:1`, `convert home/c.tar.zst home/copy.tar`, `push home/c.tar.zst oci:home/layout:2`, `verify home/copy.tar`,
	} {
		if said, err := shell(t, dir, `"$CKARCHIVE" `+strings.ReplaceAll(line, "home/", home+"/"), false); err != nil {
			t.Errorf("%s: %v: %s", line, err, said)
		}
	}
}

// A credential helper is a program with needs of its own: it runs before the rights are given up, once.
func TestReadersAskHelpers(t *testing.T) {
	env.Require(t, "root")
	registry := env.Registry(t, env.RegistryOptions{User: user, Password: password})
	dir := place(t)
	for path, content := range map[string]string{
		"bin/docker-credential-test": fmt.Sprintf("#!/bin/sh\necho asked >>\"$HOME/../asked\"\nprintf '{\"Username\":%q,\"Secret\":%q}'\n", user, password),
		"home/.docker/config.json":   fmt.Sprintf(`{"credHelpers": {%q: "test"}}`, registry.Host),
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	name := registry.Host + "/x:1"
	for _, line := range []string{`push --plain-http ./c.tar.zst ` + name, `pull --plain-http ` + name + ` ./pulled.tar`, `inspect --plain-http --pull always ` + name} {
		said, err := shell(t, dir, `rm -f asked; export HOME="$PWD/home" PATH="$PWD/bin:$PATH"; "$CKARCHIVE" `+line, false)
		if err != nil {
			t.Errorf("%s: %v: %s", line, err, said)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "asked")); err != nil || string(b) != "asked\n" {
			t.Errorf("%s: the helper was asked %q times: %v", line, b, err)
		}
	}
}
