package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/test/env"
)

// patience bounds one command of ckarchive.
const patience = 2 * time.Minute

// host is a place for ckarchive, with a pristine root file system.
type host struct {
	t         *testing.T
	dir       string
	base      string
	ckarchive string
	env       []string
}

func newHost(t *testing.T) *host {
	t.Helper()
	env.Require(t, "root", "criu", "runc", "busybox")
	dir := t.TempDir()
	h := &host{t: t, dir: dir, ckarchive: env.Ckarchive(t)}
	h.base = env.Rootfs(t, h.path("base"))
	tortureBase(t, h.base)
	for _, d := range []string{"tmp", "runc"} {
		must(t, os.Mkdir(h.path(d), 0o700))
	}
	h.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + h.path("tmp"), "LC_ALL=C",
		"CKARCHIVE_ROOT=" + h.path("store"), "CKARCHIVE_RUN=" + h.path("run"), "CKARCHIVE_RUNTIME_ROOT=" + h.path("runc"),
	}
	return h
}

func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

// id names a container of this test.
func (h *host) id(name string) string { return fmt.Sprintf("iop%d-%s", os.Getpid(), name) }

// try runs ckarchive and gives what it prints.
func (h *host) try(args ...string) (stdout, stderr string, err error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.t.Context()), patience)
	defer cancel()
	var out, diag bytes.Buffer
	cmd := exec.CommandContext(ctx, h.ckarchive, args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = h.env, h.dir, &out, &diag
	err = cmd.Run()
	return strings.TrimSpace(out.String()), diag.String(), err
}

// ok runs ckarchive, which has to succeed, and gives what it prints.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	stdout, stderr, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("ckarchive %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return stdout
}

// beside is the same place for a ckarchive on the system of Podman.
func (h *host) beside(p *env.Podman) *host {
	h.t.Helper()
	other := *h
	other.ckarchive = p.Beside(h.t, h.ckarchive)
	return &other
}

// start runs the workload under runc, with a root file system that is a copy of the base.
func (h *host) start(name string, opts env.BundleOptions) *env.Container {
	h.t.Helper()
	bundle := h.path(name)
	must(h.t, os.MkdirAll(bundle, 0o755))
	if out, err := exec.Command("cp", "-a", h.base, filepath.Join(bundle, "rootfs")).CombinedOutput(); err != nil {
		h.t.Fatalf("copy the base: %v: %s", err, out)
	}
	c := env.RunRunc(h.t, h.path("runc"), h.id(name), env.Bundle(h.t, bundle, opts))
	c.WaitTick(h.t, 3)
	return c
}

// workload are the arguments of a workload with something in every place.
func workload() []string {
	return []string{"/bin/workload", "--memory", "8", "--tick", "10ms", "--children", "2", "--deleted"}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
	}
}

// tortureBase adds to a root file system what torture changes.
func tortureBase(t *testing.T, root string) {
	t.Helper()
	for _, d := range []string{"t/dir/sub", "t/opaque/old", "t/gone/deep"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for _, f := range []string{"t/modified", "t/chmod", "t/chown", "t/deleted", "t/dir/sub/file", "t/opaque/old/file", "t/gone/deep/file", "t/same", "t/tolink"} {
		writeFile(t, filepath.Join(root, f), "pristine "+f+"\n")
	}
}

// torture changes a root file system in every way that an archive has to carry.
func torture(t *testing.T, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, "t", name) }
	writeFile(t, at("modified"), "pristine t/MODIFIED\n")
	must(t, os.Chmod(at("chmod"), 0o4711))
	must(t, os.Lchown(at("chown"), 12, 34))
	must(t, os.Remove(at("deleted")))
	must(t, os.RemoveAll(at("gone")))
	must(t, os.RemoveAll(at("dir")))
	writeFile(t, at("dir"), "a file now\n")
	must(t, os.Remove(at("tolink")))
	must(t, os.Symlink("/t/same", at("tolink")))
	must(t, os.RemoveAll(at("opaque")))
	must(t, os.Mkdir(at("opaque"), 0o750))
	writeFile(t, at("opaque/new"), "new\n")
	must(t, os.Link(at("opaque/new"), at("hard")))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, os.Mkdir(at("empty"), 0o700))
	must(t, unix.Setxattr(at("same"), "user.interop", []byte("value"), 0))
	must(t, os.Chmod(filepath.Join(root, "t"), 0o751))
}

// snapshot describes what torture touches.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	inodes := map[uint64][]string{}
	top := filepath.Join(root, "t")
	must(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		text := fmt.Sprintf("%v %o %d:%d", d.Type(), st.Mode&0o7777, st.Uid, st.Gid)
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text = "-> " + target
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(b))
			inodes[st.Ino] = append(inodes[st.Ino], name)
		}
		value := make([]byte, 64)
		if n, err := unix.Lgetxattr(path, "user.interop", value); err == nil {
			text += " " + strconv.Quote(string(value[:n]))
		}
		all[name] = text
		return nil
	}))
	for _, names := range inodes {
		slices.Sort(names)
		if len(names) > 1 {
			all["linked: "+strings.Join(names, " ")] = "yes"
		}
	}
	return all
}

func wantSame(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: got %q, want %q", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is there and should not be: %s", name, got[name])
		}
	}
}

// readByAll has every verb that only reads an archive of an engine read it, and gives the name in the local store of what
// import makes of it. facts are flags with what the archive does not say.
func (h *host) readByAll(engine, file string, facts ...string) string {
	h.t.Helper()
	name := engine + ":theirs"
	h.ok(append(append([]string{"import"}, facts...), file, name)...)
	for src, says := range map[string]string{file: "no digests", name: "every digest is right"} {
		if said := h.ok("verify", src); !strings.Contains(said, says) {
			h.t.Errorf("verify %s says %q, want %q in it", src, said, says)
		}
		var said struct {
			Engine, Runtime string
			Metadata        archive.Metadata
			Images          criu.Inspection
		}
		decode(h.t, h.ok("--json", "inspect", "--tree", src), &said)
		meta := said.Metadata
		if said.Engine != engine || said.Runtime != "runc" || said.Images.Root.Comm != "workload" || said.Images.Processes != meta.Container.Processes {
			h.t.Errorf("inspect %s: engine %q, runtime %q, %d processes below %q, %d in the metadata", src, said.Engine, said.Runtime, said.Images.Processes, said.Images.Root.Comm, meta.Container.Processes)
		}
		if meta.Base == nil || meta.Base.Image != baseImage || meta.Base.ImageID == "" || meta.Container.MemoryBytes < 8<<20 {
			h.t.Errorf("inspect %s: base %+v, %d bytes of memory", src, meta.Base, meta.Container.MemoryBytes)
		}
	}
	if len(facts) == 0 { // which would be a difference
		if said := h.ok("diff", "--exit-code", file, name); said != "" {
			h.t.Errorf("diff finds that import changed it: %s", said)
		}
	}
	one, two := h.path("one.tar"), h.path("two.tar")
	h.ok(append(append([]string{"convert"}, facts...), file, one)...)
	h.ok("convert", name, two)
	h.ok("verify", one)
	sameFile(h.t, one, two)
	return name
}

// sameFile wants two files to be equal.
func sameFile(t *testing.T, one, two string) {
	t.Helper()
	if said, err := exec.CommandContext(t.Context(), "cmp", one, two).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
