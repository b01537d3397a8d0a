package runtime

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// fakeHost is a directory that stands for /, and runtimes in PATH that answer from files in it.
type fakeHost struct {
	t    *testing.T
	root string
}

func newFakeHost(t *testing.T) fakeHost {
	t.Helper()
	h := fakeHost{t: t, root: t.TempDir()}
	bin := t.TempDir()
	for _, k := range kinds() {
		// --root DIR state ID
		if err := os.WriteFile(filepath.Join(bin, k.name), []byte("#!/bin/sh\n[ $3 = state ] && cat \"$2/$4.answer\"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return h
}

func (h fakeHost) options() FindOptions { return FindOptions{Host: Host{Dir: h.root}} }

func (h fakeHost) path(path string) string { return filepath.Join(h.root, path) }

func (h fakeHost) write(path string, v any) {
	h.t.Helper()
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			h.t.Fatal(err)
		}
	}
	path = h.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

type object = map[string]any

// made is a container of a fake host.
type made struct {
	runtime, root, id, bundle string
	annotations               object
	rootfs                    string
	mounts                    []string // sources
}

// add makes the files of a container as its runtime makes them.
func (h fakeHost) add(m made) {
	h.t.Helper()
	if m.bundle == "" {
		m.bundle = "/bundles/" + m.id
	}
	bundle := h.path(m.bundle)
	if m.rootfs == "" {
		m.rootfs = "rootfs"
	} else {
		m.rootfs = h.path(m.rootfs)
	}
	mounts := []object{{"destination": "/proc", "source": "proc", "type": "proc"}}
	for _, source := range m.mounts {
		mounts = append(mounts, object{"destination": "/" + filepath.Base(source), "source": h.path(source), "type": "bind"})
	}
	h.write(m.bundle+"/config.json", object{
		"ociVersion": "1.0.2", "process": object{"cwd": "/"}, "root": object{"path": m.rootfs},
		"linux": object{}, "annotations": m.annotations, "mounts": mounts,
	})
	dir := m.root + "/" + m.id
	switch m.runtime {
	case "runc":
		h.write(dir+"/state.json", object{
			"external_descriptors": []string{"/dev/null", "pipe:[1]", "pipe:[2]"},
			"config":               object{"labels": []string{"bundle=/an/annotation", "bundle=" + bundle}},
		})
	case "crun":
		h.write(dir+"/status", object{"bundle": bundle, "external_descriptors": `["/dev/null","pipe:[1]","pipe:[2]"]`})
	case "youki":
		h.write(dir+"/state.json", object{"bundle": bundle})
		h.write(dir+"/youki_config.json", object{})
	case "runsc":
		h.write(dir+"_sandbox:"+m.id+".state", object{"bundleDir": bundle})
	}
	h.write(dir+".answer", object{"id": m.id, "status": Running, "pid": os.Getpid(), "bundle": bundle})
}

// longID is an ID as engines make them.
func longID(first string) string { return first + strings.Repeat("0", 64-len(first)) }

func TestFindByIDAndPrefix(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "runc", root: "/run/runc", id: "looper"})
	h.add(made{runtime: "crun", root: "/run/crun", id: longID("abc1")})
	h.add(made{runtime: "crun", root: "/run/crun", id: longID("abc2")})
	h.add(made{runtime: "youki", root: "/run/youki", id: "yard"})
	h.add(made{runtime: "runsc", root: "/run/runsc", id: "safe"})
	h.write("/run/runc/not-a-container/file", object{})
	for _, tt := range []struct{ name, id, runtime string }{
		{"looper", "looper", "runc"},
		{"loo", "looper", "runc"},
		{longID("abc2"), longID("abc2"), "crun"},
		{"abc2", longID("abc2"), "crun"},
		{"yard", "yard", "youki"},
		{"safe", "safe", "runsc"},
	} {
		c, err := Find(t.Context(), tt.name, h.options())
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if c.ID != tt.id || c.Runtime.Name != tt.runtime || c.Engine != "" || c.PID != os.Getpid() {
			t.Errorf("%s: got %s of %s, engine %q, pid %d", tt.name, c.ID, c.Runtime.Name, c.Engine, c.PID)
		}
	}
	for _, name := range []string{"lo", "ya", "nobody", "", "../looper", "not-a-container"} {
		if _, err := Find(t.Context(), name, h.options()); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v, want ErrNotFound", name, err)
		}
	}
	all, err := All(t.Context(), h.options())
	if err != nil || len(all) != 5 {
		t.Errorf("all: %d containers, %v; want 5", len(all), err)
	}
}

func TestSandbox(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "runsc", root: "/run/containerd/runsc/k8s.io", id: "safe"})
	c, err := Find(t.Context(), "safe", h.options())
	if err != nil {
		t.Fatal(err)
	}
	if c.Runtime.Format() != archive.FormatGVisor || c.Runtime.CanRestore() {
		t.Error("runsc is said to know CRIU")
	}
	if err := c.Dumpable(); err != nil {
		t.Errorf("dumpable: %v", err)
	}
	if r := (Runtime{Name: Direct}); r.Format() != archive.FormatCRIU {
		t.Error("the direct runtime is said not to know CRIU")
	}
	list, err := c.Runtime.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != "safe" {
		t.Errorf("list: %v, %v; want one container", list, err)
	}
}

func TestFindAmbiguous(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "crun", root: "/run/crun", id: longID("abc1")})
	h.add(made{runtime: "crun", root: "/run/crun", id: longID("abc2")})
	h.add(made{runtime: "runc", root: "/run/runc", id: "web"})
	h.add(made{runtime: "youki", root: "/run/youki", id: "web"})
	for _, tt := range []struct {
		name string
		want []string
	}{
		{"abc", []string{longID("abc1"), longID("abc2"), "crun in ", "name one by its full ID"}},
		{"web", []string{"runc in ", "youki in ", "choose one with --runtime and --runtime-root"}},
	} {
		_, err := Find(t.Context(), tt.name, h.options())
		var ambiguous *AmbiguousError
		if !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 2 {
			t.Errorf("%s: %v, want an AmbiguousError of two", tt.name, err)
			continue
		}
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrExists) {
			t.Errorf("%s: %v is another error too", tt.name, err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q lacks %q", tt.name, err, want)
			}
		}
	}
	opts := h.options()
	opts.Runtime, opts.Root = "youki", h.path("/run/youki")
	if c, err := Find(t.Context(), "web", opts); err != nil || c.Runtime.Name != "youki" {
		t.Errorf("with the advice followed: %v", err)
	}
	opts = h.options()
	opts.Root = h.path("/run/runc")
	if c, err := Find(t.Context(), "web", opts); err != nil || c.Runtime.Name != "runc" {
		t.Errorf("with a state directory: %v", err)
	}
	if _, err := Find(t.Context(), longID("abc1"), opts); !errors.Is(err, ErrNotFound) {
		t.Errorf("outside of the only state directory: %v, want ErrNotFound", err)
	}
}

// TestFindIDAmongNames wants an ID to win over another container's name only where the
// caller has said where to look.
func TestFindIDAmongNames(t *testing.T) {
	h := newFakeHost(t)
	id := longID("aa")
	h.add(made{runtime: "runc", root: "/run/runc", id: "web"})
	h.add(made{runtime: "runc", root: "/run/runc", id: id, bundle: "/store/overlay-containers/" + id + "/userdata"})
	h.write("/store/overlay-containers/containers.json", []object{{"id": id, "names": []string{"web"}}})
	_, err := Find(t.Context(), "web", h.options())
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) || !strings.Contains(err.Error(), "--runtime-root") {
		t.Errorf("got %v, want an AmbiguousError that names the flags", err)
	}
	opts := h.options()
	opts.Root = h.path("/run/runc")
	if c, err := Find(t.Context(), "web", opts); err != nil || c.ID != "web" {
		t.Errorf("with a state directory: %v", err)
	}
}

func TestFindWithoutBinary(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "youki", root: "/run/youki", id: "yard"})
	h.add(made{runtime: "runc", root: "/run/runc", id: "looper"})
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if _, err := os.Stat(dir + "/youki"); err == nil {
			t.Skip("youki is installed in " + dir)
		}
	}
	_, err := Find(t.Context(), "yard", h.options())
	if !errors.Is(err, ErrNoRuntime) || !strings.Contains(err.Error(), "--runtime-root") {
		t.Errorf("got %v, want ErrNoRuntime and the flags", err)
	}
	t.Setenv("PATH", path)
	if err := os.WriteFile(h.path("/run/youki/yard.answer"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := All(t.Context(), h.options())
	if err == nil || len(all) != 1 || all[0].ID != "looper" {
		t.Errorf("all: %v, %v; want the readable one and an error", all, err)
	}
}

// TestFindUsers wants the caller's own containers before those of others, whose state
// directories may say anything.
func TestFindUsers(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "runc", root: "/run/runc", id: "web"})
	h.add(made{runtime: "crun", root: "/run/user/1000/crun", id: "web"})
	h.add(made{runtime: "crun", root: "/run/user/1000/crun", id: "mine"})
	h.add(made{runtime: "runc", root: "/run/user/1000/docker/runtime-runc/moby", id: "whale"})
	c, err := Find(t.Context(), "web", h.options())
	if err != nil || c.Runtime.Name != "runc" || c.User != 0 {
		t.Errorf("as root: %+v, %v; want the system's", c, err)
	}
	// The state names this test, which is not user 1000's.
	if _, err := Find(t.Context(), "mine", h.options()); err == nil || !strings.Contains(err.Error(), "not one of user 1000") {
		t.Errorf("a user's state that names another one's process: %v", err)
	}
	opts := h.options()
	opts.Host.User = 1000
	for _, name := range []string{"web", "mine", "whale"} {
		if c, err := Find(t.Context(), name, opts); err != nil || c.User != 1000 {
			t.Errorf("%s as the user: %+v, %v", name, c, err)
		}
	}
}

func TestRootUser(t *testing.T) {
	for root, want := range map[string]int{
		"/run/runc": 0, "/run/user/1000/crun": 1000, "/var/run/user/7/docker/runtime-runc/moby": 7,
		"/run/user": 0, "/run/user/x/crun": 0, "/run/user/-1/crun": 0, "/run/user/4294967296/crun": 0, "/home/run/user/5/crun": 0,
		"/run/user/../runc": 0, "/run/user/0/runc": 0,
	} {
		if got := rootUser(root); got != want {
			t.Errorf("%s: user %d, want %d", root, got, want)
		}
	}
}

func TestBelongs(t *testing.T) {
	if err := belongs(os.Getpid(), 12345); err == nil {
		t.Error("this process belongs to user 12345")
	}
	if err := belongs(1<<30, 12345); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody: %v", err)
	}
}

func TestRunAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root becomes another user")
	}
	r := Runtime{Name: "crun", Path: "/bin/true", Root: "/run/user/1000/crun"}
	cmd := r.command(t.Context(), "state", "x")
	if cred := cmd.SysProcAttr.Credential; cred == nil || cred.Uid != 1000 || cred.Gid == 0 {
		t.Errorf("credential %+v, want user 1000", cmd.SysProcAttr.Credential)
	}
	if !slices.Contains(cmd.Env, "XDG_RUNTIME_DIR=/run/user/1000") {
		t.Errorf("environment %v", cmd.Env)
	}
	if (Runtime{Root: "/run/crun"}).command(t.Context()).SysProcAttr.Credential != nil {
		t.Error("the system's runtime runs as another user")
	}
}

// TestReadState wants files that would block or fill the memory to be refused.
func TestReadState(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readState(fifo); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("fifo: %v", err)
	}
	big := filepath.Join(dir, "big")
	for size, ok := range map[int64]bool{maxStateFile: true, maxStateFile + 1: false} {
		f, err := os.Create(big)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := readState(big); (err == nil) != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestFindWhereItLooked(t *testing.T) {
	h := newFakeHost(t)
	h.write("/run/docker/runtime-runc/moby/x", object{})
	opts := h.options()
	opts.State = filepath.Join(t.TempDir(), "direct")
	_, err := Find(t.Context(), "nobody", opts)
	for _, want := range []string{"/run/runc", "/run/crun", "/run/docker/runtime-runc/moby", opts.State} {
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want ErrNotFound that names %s", err, want)
		}
	}
}
