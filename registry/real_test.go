package registry

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"oras.land/oras-go/v2/content"
)

// needProgram skips a test where a program is not installed, but not in CI.
func needProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// startRegistry runs Debian's docker-registry (distribution) and gives its host, with a port that the kernel chooses.
func startRegistry(t *testing.T, env ...string) string {
	t.Helper()
	program := needProgram(t, "docker-registry")
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s/data\nhttp:\n  addr: 127.0.0.1:0\n", dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), env...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		_ = cmd.Wait()
	})
	hosts := make(chan string, 1)
	go func() {
		defer close(ended)
		defer close(hosts)
		found := false
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if _, after, ok := strings.Cut(lines.Text(), "listening on "); ok && !found {
				found = true
				host, _, _ := strings.Cut(after, `"`)
				hosts <- host
			}
		}
	}()
	select {
	case host := <-hosts:
		if host == "" {
			t.Fatal("docker-registry has ended")
		}
		return host
	case <-time.After(time.Minute):
		t.Fatal("docker-registry does not say where it listens")
	}
	return ""
}

func TestRealRegistry(t *testing.T) {
	host := startRegistry(t)
	ctx := t.Context()
	c, _ := newTestClient(ClientOptions{})
	src := newStore(t)
	desc := mustImage(t, src, big("0123456789", 5_000_000), "two", "three")
	mustTag(t, src, desc, "x")
	repo := mustRepo(t, c, host+"/team/app:1")
	got, err := Copy(ctx, repo, "", src, "x", CopyOptions{})
	if err != nil || got.Blobs != 4 {
		t.Fatalf("push: got %+v, %v, want 4 blobs", got, err)
	}
	if got, err = Copy(ctx, repo, "2", src, "x", CopyOptions{}); err != nil || got.Blobs != 0 || got.Skipped != 4 {
		t.Errorf("push again: got %+v, %v, want everything skipped", got, err)
	}
	if tags, err := repo.Tags(ctx); err != nil || strings.Join(tags, " ") != "1 2" {
		t.Errorf("tags: got %v, %v, want 1 and 2", tags, err)
	}
	if got, err = Copy(ctx, mustRepo(t, c, host+"/other/app:1"), "", repo, "", CopyOptions{}); err != nil || got.Mounted != 4 {
		t.Errorf("copy to another repository: got %+v, %v, want 4 mounted", got, err)
	}
	dst := newStore(t)
	if _, err := Copy(ctx, dst, "y", mustRepo(t, c, host+"/other/app@"+desc.Digest.String()), "", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	checkImage(t, dst, src, desc)
	b, err := repo.OpenBlob(ctx, content.NewDescriptorFromBytes("", []byte(big("0123456789", 5_000_000))))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	if _, err := b.ReadAt(p, 4_000_005); err != nil || string(p) != "5678901234" {
		t.Errorf("range: got %q, %v", p, err)
	}
	for name, ref := range map[string]string{"tag": host + "/team/app:none", "repository": host + "/none/app:1"} {
		if _, err := mustRepo(t, c, ref).Resolve(ctx, ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown %s: got %v, want ErrNotFound", name, err)
		}
	}
	if skopeo, err := exec.LookPath("skopeo"); err == nil {
		out, err := exec.CommandContext(ctx, skopeo, "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/team/app:1").Output()
		if err != nil || desc.Digest.Algorithm().FromBytes(out) != desc.Digest {
			t.Errorf("skopeo inspect: got %s, %v, want %s", out, err, desc.Digest)
		}
		out, err = exec.CommandContext(ctx, skopeo, "copy", "--src-tls-verify=false", "docker://"+host+"/team/app:1", "oci:"+filepath.Join(t.TempDir(), "layout")+":x").CombinedOutput()
		if err != nil {
			t.Errorf("skopeo copy: %s", out)
		}
	}
}

// TestRealRegistryCut cuts the connection in the middle of an upload once.
// This is what oras-go itself does not survive: the registry gives up the session.
func TestRealRegistryCut(t *testing.T) {
	host := startRegistry(t)
	proxy := startProxy(t, host, 3_000_000)
	ctx := t.Context()
	retries := 0
	c, _ := newTestClient(ClientOptions{PlainHTTP: true, OnRetry: func(Retry) { retries++ }})
	src := newStore(t)
	desc := mustImage(t, src, big("incompressible", 8<<20))
	mustTag(t, src, desc, "x")
	repo := mustRepo(t, c, proxy+"/a:1")
	if _, err := Copy(ctx, repo, "", src, "x", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if retries == 0 {
		t.Error("nothing was cut")
	}
	checkImage(t, mustRepo(t, c, host+"/a:1"), src, desc)
}

// startProxy forwards to host and cuts the first connection that sends more than limit bytes.
func startProxy(t *testing.T, host string, limit int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	cuts := make(chan struct{}, 1)
	cuts <- struct{}{}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", host)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(in, out) }()
				if _, err := io.CopyN(out, in, limit); err != nil {
					return
				}
				select {
				case <-cuts:
				default:
					_, _ = io.Copy(out, in)
				}
			}()
		}
	}()
	return l.Addr().String()
}

func TestRealRegistryLogin(t *testing.T) {
	dir := t.TempDir()
	// "me" with the password "secret", as htpasswd -B makes it.
	const entry = `me:$2y$05$4RRKnVf2fAEDRpmBbHb3C.F/SidytXgtZRfA/aNDwVgUUQYz7vhSS` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	host := startRegistry(t, "REGISTRY_AUTH=htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM=test", "REGISTRY_AUTH_HTPASSWD_PATH="+filepath.Join(dir, "htpasswd"))
	ctx := t.Context()
	c, _ := newTestClient(ClientOptions{RuntimeDir: dir})
	src := newStore(t)
	mustTag(t, src, mustImage(t, src, big("layer", 300_000)), "x")
	repo := mustRepo(t, c, host+"/a:1")
	if _, err := Copy(ctx, repo, "", src, "x", CopyOptions{}); !errors.Is(err, ErrDenied) {
		t.Errorf("without login: got %v, want ErrDenied", err)
	}
	if _, err := c.Login(ctx, host, "me", "wrong"); !errors.Is(err, ErrDenied) {
		t.Errorf("wrong password: got %v, want ErrDenied", err)
	}
	if _, err := c.Login(ctx, host, "me", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(ctx, mustRepo(t, c, host+"/a:1"), "", src, "x", CopyOptions{}); err != nil {
		t.Errorf("after login: %v", err)
	}
}
