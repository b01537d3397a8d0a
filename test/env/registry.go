package env

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// RegistryOptions says what is special about a registry. The zero value lets
// everybody push and pull.
type RegistryOptions struct {
	User, Password string // asked for when User is not empty
	// TokenRealm is the address that gives tokens, which are signed with a certificate of the file TokenCertificates,
	// issued by "test" for the service "test".
	TokenRealm, TokenCertificates string
	// V3 is distribution's third version instead of Debian's, which is the second.
	V3 bool
}

// RegistryServer is a running registry that speaks plain HTTP.
type RegistryServer struct {
	Host string // "127.0.0.1:PORT", the start of an image's name
	Dir  string // where it keeps its content
	Log  string // the file that has its log

	program, config string
}

// Registry starts Debian's docker-registry, or distribution's third version, on a free port of 127.0.0.1, with its
// content in a temporary directory, and waits until it answers. It ends with the test.
func Registry(tb testing.TB, opts RegistryOptions) *RegistryServer {
	tb.Helper()
	program := "docker-registry"
	if opts.V3 {
		program = "registry"
	}
	dir := tb.TempDir()
	r := &RegistryServer{
		Dir: filepath.Join(dir, "content"), Log: filepath.Join(dir, "log"),
		program: Program(tb, program), config: filepath.Join(dir, "config.yml"),
	}
	config := fmt.Sprintf(`version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: "127.0.0.1:0"}
`, r.Dir)
	if opts.User != "" {
		passwords := filepath.Join(dir, "htpasswd")
		writeHtpasswd(tb, passwords, opts)
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", passwords)
	}
	if opts.TokenRealm != "" {
		config += fmt.Sprintf("auth: {token: {realm: %q, service: test, issuer: test, rootcertbundle: %q}}\n", opts.TokenRealm, opts.TokenCertificates)
	}
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		tb.Fatalf("configure registry: %v", err)
	}
	r.serve(tb)
	r.waitReady(tb)
	return r
}

// Delete removes a manifest of a repository.
func (r *RegistryServer) Delete(tb testing.TB, repository, digest string) {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), http.MethodDelete, "http://"+r.Host+"/v2/"+repository+"/manifests/"+digest, nil)
	if err != nil {
		tb.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		tb.Fatalf("delete %s@%s: %v", repository, digest, err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	if response.StatusCode != http.StatusAccepted {
		tb.Fatalf("delete %s@%s: %s", repository, digest, response.Status)
	}
}

// CollectGarbage lets the registry's own command remove the blobs that no manifest names any more.
func (r *RegistryServer) CollectGarbage(tb testing.TB) {
	tb.Helper()
	said, err := exec.CommandContext(tb.Context(), r.program, "garbage-collect", r.config).CombinedOutput()
	if err != nil || !strings.Contains(string(said), "eligible for deletion") {
		tb.Fatalf("collect garbage: %v\n%s", err, said)
	}
}

// Blobs gives the size of each blob that it keeps, by its path.
func (r *RegistryServer) Blobs(tb testing.TB) map[string]int64 {
	tb.Helper()
	sizes := map[string]int64{}
	err := filepath.WalkDir(r.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "data" || !strings.Contains(path, "/blobs/") {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sizes[path] = info.Size()
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return sizes
}

func writeHtpasswd(tb testing.TB, path string, opts RegistryOptions) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), Program(tb, "htpasswd"), "-Bin", opts.User)
	cmd.Stdin = strings.NewReader(opts.Password)
	line, err := cmd.Output()
	if err != nil {
		tb.Fatalf("make registry password: %v", err)
	}
	if err := os.WriteFile(path, line, 0o600); err != nil {
		tb.Fatalf("make registry password: %v", err)
	}
}

// serve starts the server and learns its port, which the kernel chooses, from
// its log.
func (r *RegistryServer) serve(tb testing.TB) {
	tb.Helper()
	logFile, err := os.Create(r.Log)
	if err != nil {
		tb.Fatalf("start registry: %v", err)
	}
	cmd := exec.Command(r.program, "serve", r.config) // It is asked to end, and waited for, in the cleanup.
	// Should the test process be killed, the server is not to outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		tb.Fatalf("start registry: %v", err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start registry: %v", err)
	}
	address := make(chan string, 1)
	copied := make(chan error, 1)
	go func() { copied <- copyLog(logFile, stderr, address) }()
	stop := sync.OnceFunc(func() {
		signalErr := cmd.Process.Signal(syscall.SIGTERM)
		if err := errors.Join(signalErr, <-copied, logFile.Close()); err != nil {
			tb.Errorf("stop registry: %v", err)
		}
		// SIGTERM is how it ended, which is no news.
		if err := cmd.Wait(); err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			tb.Errorf("stop registry: %v", err)
		}
	})
	tb.Cleanup(stop)
	select {
	case host, ok := <-address:
		if !ok {
			tb.Fatalf("registry did not start:\n%s", read(r.Log))
		}
		r.Host = host
	case <-time.After(patience):
		tb.Fatalf("registry did not say where it listens:\n%s", read(r.Log))
	}
}

// copyLog copies a registry's log and sends the address in it, or closes the
// channel when the log ends without one.
func copyLog(log io.Writer, from io.Reader, address chan<- string) error {
	defer close(address)
	lines, found := bufio.NewScanner(from), false
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if _, err := fmt.Fprintln(log, lines.Text()); err != nil {
			return err
		}
		if _, after, ok := strings.Cut(lines.Text(), "listening on "); ok && !found {
			found = true
			host, _, _ := strings.Cut(after, `"`)
			address <- strings.TrimSpace(host)
		}
	}
	return lines.Err()
}

func (r *RegistryServer) waitReady(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		err := ping(ctx, r.Host)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("registry does not answer: %v\n%s", err, read(r.Log))
		case <-look.C:
		}
	}
}

func ping(ctx context.Context, host string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v2/", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // read only
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("registry answers %s", response.Status)
	}
	return nil
}
