package env

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Require skips the test, saying why, unless this machine has everything named:
// "root", "criu" (one that works on this kernel), or a program. Where CI is
// "true" nothing may be missing, and the test fails instead.
func Require(tb testing.TB, names ...string) {
	tb.Helper()
	for _, name := range names {
		reason := missing(name)
		if reason == "" {
			continue
		}
		skipOrFail(tb, reason)
	}
}

func skipOrFail(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("%s; `test/setup` installs what the tests need", reason)
	}
	tb.Skipf("%s; `test/setup` installs what the tests need", reason)
}

// missing says why the named thing cannot be used, or "" when it can.
func missing(name string) string {
	if name == "root" {
		if os.Geteuid() != 0 {
			return "root is needed"
		}
		return ""
	}
	path, err := lookPath(name)
	if err != nil {
		return fmt.Sprintf("%s is needed and not installed", name)
	}
	if name == "criu" {
		if err := checkCRIU(path); err != nil {
			return fmt.Sprintf("a working criu is needed: %v", err)
		}
	}
	return ""
}

//nolint:gochecknoglobals // `criu check` takes a while: once per process is enough
var criuChecks sync.Map // path to func() error

func checkCRIU(path string) error {
	once, _ := criuChecks.LoadOrStore(path, sync.OnceValue(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, "check").CombinedOutput()
		if err != nil {
			return fmt.Errorf("criu check: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}))
	return once.(func() error)()
}

// Program is the path of an installed program that the test cannot do without.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	Require(tb, name)
	path, err := lookPath(name)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// lookPath also looks where test/setup and Debian put programs for root.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	dirs := []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}
	if cache, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(cache, "ckarchive", "bin"))
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find program %q: %w", name, exec.ErrNotFound)
}
