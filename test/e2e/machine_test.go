package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// built is what all tests share and none changes.
type built struct {
	ckarchive string
	base      string // the pristine root file system
}

// scratch is where the shared things are made. TestMain removes it.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ckarchive-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // below the temporary directory
	scratch = dir
	return m.Run()
}

// tools builds the programs and the root file system, once.
var tools = sync.OnceValues(func() (built, error) {
	b := built{ckarchive: filepath.Join(scratch, "ckarchive"), base: filepath.Join(scratch, "base")}
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "mem", "vol", "var"} {
		if err := os.MkdirAll(filepath.Join(b.base, d), 0o755); err != nil {
			return b, err
		}
	}
	for path, pkg := range map[string]string{
		b.ckarchive: "cmd/ckarchive", filepath.Join(b.base, "bin/workload"): "test/workload", filepath.Join(b.base, "bin/locker"): "test/e2e/locker",
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", path, "github.com/ckarchive/ckarchive/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("build %s: %w\n%s", pkg, err, said)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return b, err
	}
	if err := exec.Command("cp", "-L", busybox, filepath.Join(b.base, "bin/busybox")).Run(); err != nil {
		return b, err
	}
	for _, applet := range []string{"sh", "cat", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(b.base, "bin", applet)); err != nil {
			return b, err
		}
	}
	return b, os.WriteFile(filepath.Join(b.base, "etc/passwd"), []byte("root:x:0:0:root:/:/bin/sh\n"), 0o644)
})

// need skips a test on a machine that lacks something, and says what. In continuous
// integration that is a failure.
func need(t *testing.T, programs ...string) built {
	t.Helper()
	missing := func(what string) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing", what)
		}
		t.Skipf("%s is missing", what)
	}
	if os.Geteuid() != 0 {
		missing("root")
	}
	for _, p := range append([]string{"criu", "runc", "busybox"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			missing(p)
		}
	}
	b, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// patience bounds every waiting. Nothing is expected to take that long.
const patience = time.Minute

// await polls until found is true.
func await(t *testing.T, what string, found func() bool) {
	t.Helper()
	if !within(context.WithoutCancel(t.Context()), patience, found) {
		t.Fatalf("no %s within %s", what, patience)
	}
}

// within polls until found is true, or the time is over.
func within(ctx context.Context, limit time.Duration, found func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		if found() {
			return true
		}
		select {
		case <-ctx.Done():
			return found()
		case <-ticker.C:
		}
	}
}

// command runs a program of the machine that has to succeed, and gives what it prints.
func command(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// leaks fails the test if anything that has to do with dir or with a container of the
// token is left: a mount, a cgroup, a process, something below /run.
func leaks(t *testing.T, dir, token string) {
	t.Helper()
	var left []string
	if !within(context.Background(), 10*time.Second, func() bool {
		left = leftovers(dir, token)
		return len(left) == 0
	}) {
		t.Errorf("left behind: %s", strings.Join(left, "\n\t"))
	}
}

func leftovers(dir, token string) []string {
	var left []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo") //nolint:errcheck // always there
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) || strings.Contains(line, token) {
			left = append(left, "mount: "+strings.TrimSpace(line))
		}
	}
	for _, tree := range []struct {
		root  string
		depth int
	}{{"/sys/fs/cgroup", 7}, {"/run", 4}} {
		left = append(left, named(tree.root, token, tree.depth)...)
	}
	return append(left, processesOf(dir, token)...)
}

// named finds what is called after the token below root.
func named(root, token string, depth int) []string {
	var left []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { //nolint:errcheck // what goes away is not left
		if err != nil {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		if strings.Contains(d.Name(), token) {
			left = append(left, path)
		}
		if d.IsDir() && strings.Count(path, "/") >= depth {
			return fs.SkipDir
		}
		return nil
	})
	return left
}

// processesOf finds processes that work in dir: by command line, root, working directory
// or open files.
func processesOf(dir, token string) []string {
	self := fmt.Sprint(os.Getpid())
	var left []string
	procs, _ := filepath.Glob("/proc/[0-9]*") //nolint:errcheck // the pattern is right
	for _, p := range procs {
		if filepath.Base(p) == self {
			continue
		}
		cmdline, err := os.ReadFile(p + "/cmdline")
		if err != nil {
			continue
		}
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		links := []string{text}
		for _, l := range []string{"/root", "/cwd"} {
			target, err := os.Readlink(p + l)
			if err == nil {
				links = append(links, target)
			}
		}
		fds, _ := os.ReadDir(p + "/fd") //nolint:errcheck // a process that is gone
		for _, fd := range fds {
			target, err := os.Readlink(p + "/fd/" + fd.Name())
			if err == nil {
				links = append(links, target)
			}
		}
		for _, l := range links {
			if strings.Contains(l, dir) || strings.Contains(l, token) {
				left = append(left, fmt.Sprintf("process %s: %s (%s)", filepath.Base(p), text, l))
				break
			}
		}
	}
	return left
}

// exists tells whether there is something at path.
func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// entries are the names in a directory; one that is not there has none.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
