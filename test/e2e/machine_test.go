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
	"syscall"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/test/env"
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
	syscall.Umask(0o022) // what tests put into containers is for all of their users
	return m.Run()
}

// need skips a test on a machine that lacks something, and gives what all tests share.
func need(t *testing.T, programs ...string) built {
	t.Helper()
	env.Require(t, append([]string{"root", "criu", "runc", "busybox"}, programs...)...)
	b := built{ckarchive: env.Ckarchive(t), base: filepath.Join(scratch, "base")}
	making.Do(func() { makeBase(t, b.base) })
	if _, err := os.Stat(filepath.Join(b.base, "bin/locker")); err != nil {
		t.Fatal(err)
	}
	return b
}

var making sync.Once

// makeBase makes the pristine root file system.
func makeBase(t *testing.T, dir string) {
	t.Helper()
	env.Rootfs(t, dir)
	for _, d := range []string{"mem", "vol"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "bin")+"/", "github.com/ckarchive/ckarchive/test/e2e/locker", "github.com/ckarchive/ckarchive/test/e2e/sharer", "github.com/ckarchive/ckarchive/test/e2e/talker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build locker, sharer and talker: %v\n%s", err, said)
	}
}

// patience bounds every waiting. Nothing is expected to take that long.
const patience = 2 * time.Minute

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
	if !within(context.Background(), patience, func() bool {
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
