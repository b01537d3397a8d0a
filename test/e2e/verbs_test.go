package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestExportByRuntime(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--children", "2", "--tmpfs", "/dev/shm", "--deleted"))
	path := c.export("c.tar.zst", "--engine", "runtime", "--base", h.built.base)
	if got := h.inspect(path).Metadata.Options["engine"]; got != "runtime" {
		t.Errorf("the archive says %q of the engine, want runtime", got)
	}
	for _, engine := range []string{"runtime", "direct"} {
		r := h.restore(engine, path, "--engine", engine, "--base", h.built.base)
		r.wellFrom(c)
	}
	d := h.restore("d", path, "--engine", "direct", "--base", h.built.base)
	d.wellFrom(c)
	h.run("export", "--engine", "runtime", "--base", h.built.base, d.id, h.path("d.tar")).refused(5, "--engine direct")
	d.wellBehaved()
}

func TestDryRun(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	store := listing(t, h.dir)
	for _, format := range [][]string{nil, {"--json"}} {
		o := h.ok(append(format, "export", "--dry-run", "--base", h.built.base, c.id, h.path("c.tar"))...)
		for _, want := range []string{c.id, h.built.base, "runc", h.path("c.tar")} {
			if !strings.Contains(o.stdout, want) {
				t.Errorf("export --dry-run does not tell of %s: %s", want, o)
			}
		}
	}
	if got := listing(t, h.dir); got != store {
		t.Errorf("export --dry-run has changed\n%s to\n%s", store, got)
	}
	c.unharmed()
	path := c.export("c.tar", "--base", h.built.base)
	before := listing(t, h.dir)
	for _, engine := range []string{"runtime", "direct"} {
		o := h.ok("restore", "--dry-run", "--engine", engine, "--base", h.built.base, "--id", h.id("r"), path)
		for _, want := range []string{h.id("r"), h.built.base, engine} {
			if !strings.Contains(o.stdout, want) {
				t.Errorf("restore --dry-run does not tell of %s: %s", want, o)
			}
		}
		wantNothing(h, "r")
	}
	if got := listing(t, h.dir); got != before {
		t.Errorf("restore --dry-run has changed\n%s to\n%s", before, got)
	}
}

// listing names everything below dir but what the container itself writes.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case strings.Contains(path, "/rootfs/tmp/"):
			return nil
		}
		all.WriteString(path + "\n")
		return nil
	}))
	return all.String()
}

func TestWithoutCRIU(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	h.run("--criu", "/nonexistent", "export", "--base", h.built.base, c.id, h.path("c.tar")).refused(5, "/nonexistent")
	c.unharmed()
	path := c.export("c.tar", "--base", h.built.base)
	h.restoreRefused("no", []string{"--criu", "/nonexistent", "--base", h.built.base, path}, 5, "/nonexistent")
	if o := h.run("--criu", "/nonexistent", "check"); o.status != 5 || !strings.Contains(o.stdout, "MISSING") {
		t.Errorf("check without CRIU: %s", o)
	}
	// Reading needs none.
	h.ok("--criu", "/nonexistent", "verify", path)
	h.ok("--criu", "/nonexistent", "inspect", "--tree", path)
}

func TestNotRoot(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar", "--leave-running", "--base", h.built.base)
	// The test's directory is root's alone: nobody gets a place and a binary of its own.
	public, err := os.MkdirTemp("", "e2e-nobody-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(public)) })
	must(t, os.Chmod(public, 0o755))
	home := filepath.Join(public, "home")
	must(t, os.Mkdir(home, 0o755))
	const nobody = 65534
	must(t, os.Chown(home, nobody, nobody))
	binary := filepath.Join(public, "ckarchive")
	command(t, "cp", h.built.ckarchive, binary)
	copied := filepath.Join(public, "c.tar")
	command(t, "cp", path, copied)
	must(t, os.Chmod(copied, 0o644))
	must(t, os.Chmod(binary, 0o755))
	as := func(args ...string) outcome {
		t.Helper()
		cmd := h.command(args...)
		cmd.Path = binary
		cmd.Dir = home
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home}
		return h.end(cmd, &syscall.Credential{Uid: nobody, Gid: nobody})
	}
	for _, args := range [][]string{{"export", c.id, filepath.Join(home, "x.tar")}, {"restore", copied}, {"recover"}} {
		as(args...).refused(5, "root", "sudo")
	}
	if o := as("check"); o.status != 5 || !strings.Contains(o.stdout, "uid 65534") {
		t.Errorf("check as nobody: %s", o)
	}
	// Reading and carrying needs no root.
	as("verify", copied).want(0)
	as("inspect", "--tree", copied).want(0)
	as("import", copied, "localhost/x:1").want(0)
	as("push", copied, "oci:"+filepath.Join(home, "layout")+":v1").want(0)
	c.unharmed()
}

func TestJSON(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	for _, args := range [][]string{
		{"check"},
		{"check", c.id},
		{"export", "--leave-running", "--base", h.built.base, c.id, h.path("c.tar")},
		{"export", "--leave-running", "--base", h.built.base, c.id, "localhost/counter:v1"},
		{"inspect", h.path("c.tar")},
		{"inspect", "--tree", h.path("c.tar")},
		{"verify", h.path("c.tar")},
		{"verify", "localhost/counter:v1"},
		{"import", h.path("c.tar"), "localhost/other:v1"},
		{"tag", "localhost/counter:v1", "localhost/counter:v2"},
		{"push", h.path("c.tar"), "oci:" + h.path("layout") + ":v1"},
		{"list"},
		{"list", "--containers"},
		{"rm", "localhost/counter:v2"},
		{"gc"},
		{"recover"},
		{"version"},
		{"restore", "--dry-run", "--base", h.built.base, "--id", h.id("r"), h.path("c.tar")},
	} {
		o := h.ok(append([]string{"--json", "--quiet"}, args...)...)
		if !json.Valid([]byte(o.stdout)) {
			t.Errorf("ckarchive --json %s prints no JSON: %s", strings.Join(args, " "), o)
		}
		if o.stderr != "" {
			t.Errorf("ckarchive --json --quiet %s says %q", strings.Join(args, " "), o.stderr)
		}
	}
	o := h.run("--json", "--quiet", "export", h.id("absent"), h.path("x.tar"))
	var failed struct {
		Error, Hint string
		Status      int
	}
	must(t, json.Unmarshal([]byte(o.stderr), &failed))
	if failed.Status != 4 || o.status != 4 || failed.Hint == "" || !strings.Contains(failed.Error, h.id("absent")) || o.stdout != "" {
		t.Errorf("the JSON error is %+v: %s", failed, o)
	}
	c.unharmed()
}

// TestCheckContainer wants the verdict that export then confirms, without any harm to the container.
func TestCheckContainer(t *testing.T) {
	h := newHost(t)
	plain := h.start("plain", counts())
	if o := h.ok("check", plain.id); strings.Contains(o.stdout, "blocker") || !strings.Contains(o.stdout, "memory") {
		t.Errorf("check of a plain container: %s", o)
	}
	talks := h.start("talks", counts("--tcp"))
	if o := h.run("check", talks.id); o.status != 5 || !strings.Contains(o.stdout, "blocker") || !strings.Contains(o.stderr, "--tcp-established") {
		t.Errorf("check of a container with a connection: %s", o)
	}
	h.ok("check", "--tcp-established", talks.id)
	h.run("check", "nobody").refused(4, "no such container")
	plain.unharmed()
	talks.unharmed()
}

func TestListContainers(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar", "--leave-running", "--base", h.built.base)
	d := h.restore("d", path, "--engine", "direct", "--base", h.built.base)
	c.runc("pause", c.id)
	type row struct{ ID, Runtime, Status string }
	got := map[row]bool{}
	for _, r := range decode[[]row](h.ok("--json", "list", "--containers")) {
		got[r] = true
	}
	for _, want := range []row{{c.id, "runc", "paused"}, {d.id, "direct", "running"}} {
		if !got[want] {
			t.Errorf("list --containers has %v, want %v in it", got, want)
		}
	}
	if len(got) != 2 {
		t.Errorf("list --containers has %v, want 2", got)
	}
	c.runc("resume", c.id)
	c.unharmed()
}

func TestCheck(t *testing.T) {
	h := newHost(t)
	o := h.ok("check")
	if strings.Contains(o.stdout, "MISSING ") || !strings.Contains(o.stdout, "runc") {
		t.Errorf("check says %s", o)
	}
}

// After a restore that was killed nothing is left, and recover says what it did.
func TestKilledRestore(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts("--memory", "64"))
			path := c.export("c.tar.zst", "--base", h.built.base)
			r := &container{t: t, h: h, id: h.id("r"), log: h.path("log")}
			t.Cleanup(r.remove)
			for _, task := range []string{"unpack", "root file system", "restore"} {
				var said outcome
				h.interruptCommand(syscall.SIGKILL, task, 0, "restore", "--detach", "--engine", engine, "--log", r.log, "--id", r.id, "--base", h.built.base, path)
				if !within(t.Context(), patience, func() bool {
					said = h.ok("recover") // a runtime at work may have to come to its end first
					return strings.Contains(said.stdout, r.id)
				}) {
					t.Fatalf("killed in %q: recover says %s", task, said)
				}
				h.ok("recover").want(0, "nothing to recover")
				noFiles(t, filepath.Join(h.root, "containers"))
				if !within(t.Context(), patience, func() bool { return len(leftovers(filepath.Join(h.root, "containers"), r.id)) == 0 }) {
					t.Errorf("killed in %q: left behind: %q", task, leftovers(filepath.Join(h.root, "containers"), r.id))
				}
			}
			for _, task := range []string{"unpack", "root file system", "restore"} {
				status, said := h.interruptCommand(syscall.SIGTERM, task, 0, "restore", "--detach", "--engine", engine, "--log", r.log, "--id", r.id, "--base", h.built.base, path)
				if want := 128 + int(syscall.SIGTERM); status != want {
					t.Errorf("terminated in %q: status %d, want %d: %s", task, status, want, said)
				}
				wantNothing(h, "r")
			}
			h.restore("yes", path, "--engine", engine, "--base", h.built.base).wellFrom(c)
		})
	}
}

// The state directory of a runtime is no place for what has no runtime: the same
// environment finds a container of either kind.
func TestDirectWithRuntimeRoot(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar", "--base", h.built.base)
	r := &container{t: t, h: h, id: h.id("r"), log: h.path("log"), direct: true}
	t.Cleanup(r.remove)
	said := decode[restored](h.ok("--json", "restore", "--detach", "--engine", "direct", "--id", r.id, "--log", r.log, "--base", h.built.base, path))
	r.pid, r.rootfs = said.PID, said.Rootfs
	r.wellFrom(c)
	noFiles(t, h.runtime, c.id)
	next := r.export("next.tar", "--base", h.built.base)
	h.restore("next", next, "--base", h.built.base).wellFrom(r)
}

// A variable that is set to nothing is as good as none.
func TestEmptyEnvironment(t *testing.T) {
	h := newHost(t)
	cmd := h.command("--json", "list", "--containers")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "CKARCHIVE_ROOT=", "CKARCHIVE_RUN=", "CKARCHIVE_RUNTIME_ROOT="}
	cmd.Dir = h.tmp
	for _, row := range decode[[]struct{ Runtime, Root string }](h.end(cmd, nil).want(0)) {
		if strings.HasPrefix(row.Root, h.tmp) {
			t.Errorf("%s is looked for in the working directory: %s", row.Runtime, row.Root)
		}
	}
	cmd = h.command("check")
	cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "CKARCHIVE_ROOT="}, h.tmp
	if o := h.end(cmd, nil).want(0); strings.Contains(o.stdout, h.tmp) {
		t.Errorf("the working directory is the store: %s", o)
	}
	noFiles(t, h.tmp)
}
