package env

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const module = "github.com/ckarchive/ckarchive"

// Ckarchive builds the ckarchive binary, once per process, and returns its path.
func Ckarchive(tb testing.TB) string {
	tb.Helper()
	return built(tb, "cmd/ckarchive")
}

// Workload builds the program of test/workload, once per process, and returns
// its path. [Rootfs] puts it at /bin/workload.
func Workload(tb testing.TB) string {
	tb.Helper()
	return built(tb, "test/workload")
}

//nolint:gochecknoglobals // once per process is the point
var builds sync.Map // package to func() (string, error)

func built(tb testing.TB, pkg string) string {
	tb.Helper()
	once, _ := builds.LoadOrStore(pkg, sync.OnceValues(func() (string, error) { return build(pkg) }))
	path, err := once.(func() (string, error))()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// build makes a static program. It is kept in the user's cache under the hash
// of its content, so that test processes which run side by side share it, and
// none overwrites a program that another one runs.
func build(pkg string) (_ string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	dir := filepath.Join(cache, "ckarchive", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	scratch, err := os.MkdirTemp(dir, ".build-*")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	defer os.RemoveAll(scratch) //nolint:errcheck // a cache
	name := filepath.Base(pkg)
	made := filepath.Join(scratch, name)
	cmd := exec.Command("go", "build", "-trimpath", "-o", made, module+"/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	content, err := os.ReadFile(made)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	sum := sha256.Sum256(content)
	final := filepath.Join(dir, hex.EncodeToString(sum[:6]), name)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	if err := os.Rename(made, final); err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	forgetOld(dir)
	return final, nil
}

// forgetOld removes what no test of the last day has built.
func forgetOld(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // a cache: it may stay as it is
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour && !strings.HasPrefix(e.Name(), ".") {
			os.RemoveAll(filepath.Join(dir, e.Name())) //nolint:errcheck // a cache
		}
	}
}
