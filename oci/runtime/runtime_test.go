package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fakeRuntime is a shell script that stands for the runtime called name; it notes its
// arguments in the file "calls" of the state directory.
func fakeRuntime(t *testing.T, name, script string) Runtime {
	t.Helper()
	dir, root := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, name)
	body := "#!/bin/sh\necho \"$@\" >> " + root + "/calls\n" + script
	if err := os.WriteFile(path, []byte(body), 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := Lookup(path, root)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// addContainer makes a bundle and a state directory for id.
func addContainer(t *testing.T, r Runtime, id, state string) (bundle string) {
	t.Helper()
	bundle = t.TempDir()
	config := `{"ociVersion":"1.0.2","process":{"cwd":"/"},"root":{"path":"rootfs"},"linux":{},"annotations":{"io.ckarchive.generation":"3"}}`
	for path, content := range map[string]string{
		filepath.Join(bundle, "config.json"):                        config,
		filepath.Join(r.Root, id, "state.json"):                     state,
		filepath.Join(bundle, "rootfs", "etc", "hostname"):          "x",
		filepath.Join(filepath.Dir(r.Path), "bundle-of-"+id+".txt"): bundle,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return bundle
}

func TestCheckID(t *testing.T) {
	for _, tt := range []struct {
		id string
		ok bool
	}{
		{"c1", true},
		{"a_b.c-d+e", true},
		{strings.Repeat("a", 255), true},
		{strings.Repeat("a", 256), false},
		{"", false},
		{"-rf", false},
		{"--root=/", false},
		{"../x", false},
		{"a/b", false},
		{"a b", false},
		{"a\n", false},
		{".", false},
	} {
		if got := CheckID(tt.id) == nil; got != tt.ok {
			t.Errorf("CheckID(%q) accepts: %v, want %v", tt.id, got, tt.ok)
		}
	}
}

func TestLookup(t *testing.T) {
	if _, err := Lookup("no-such-runtime", ""); !errors.Is(err, ErrNoRuntime) {
		t.Errorf("unknown runtime: %v, want ErrNoRuntime", err)
	}
	if _, err := Lookup("/nowhere/runc", ""); !errors.Is(err, ErrNoRuntime) {
		t.Errorf("missing binary: %v, want ErrNoRuntime", err)
	}
	r := fakeRuntime(t, "runc-1.5", "")
	if r.Name != "runc" || !r.CanRestore() {
		t.Errorf("runc-1.5 is %q, restores: %v; want a runc that does", r.Name, r.CanRestore())
	}
	if y := fakeRuntime(t, "youki", ""); y.CanRestore() {
		t.Error("youki restores, but it has no such command")
	}
	if _, err := Lookup(Direct, ""); err == nil {
		t.Error("the direct runtime was found without a state directory")
	}
}

func TestContainer(t *testing.T) {
	r := fakeRuntime(t, "runc", `cat <<END
{"id":"c1","status":"running","pid":42,"bundle":"$(cat $(dirname $0)/bundle-of-c1.txt)","created":"2026-11-21T08:56:07.05Z"}
END
`)
	bundle := addContainer(t, r, "c1", `{"external_descriptors":["/dev/null","pipe:[1]","pipe:[2]"]}`)
	c, err := r.Container(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if c.PID != 42 || c.Status != Running || c.Bundle != bundle {
		t.Errorf("pid %d, status %s, bundle %s", c.PID, c.Status, c.Bundle)
	}
	if got, want := c.Rootfs, filepath.Join(bundle, "rootfs"); got != want {
		t.Errorf("rootfs %q, want %q", got, want)
	}
	if want := []string{"/dev/null", "pipe:[1]", "pipe:[2]"}; !slices.Equal(c.Descriptors, want) {
		t.Errorf("descriptors %v, want %v", c.Descriptors, want)
	}
	if c.Created.IsZero() || c.Generation != 3 {
		t.Errorf("created %v, generation %d", c.Created, c.Generation)
	}
	if _, err := r.Container(t.Context(), "other"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown ID: %v, want ErrNotFound", err)
	}
}

func TestContainerGarbage(t *testing.T) {
	r := fakeRuntime(t, "runc", "echo this is not JSON\n")
	addContainer(t, r, "c1", "{}")
	if _, err := r.Container(t.Context(), "c1"); err == nil || !strings.Contains(err.Error(), "runc state c1") {
		t.Errorf("error %v, want one that names the command", err)
	}
	r = fakeRuntime(t, "runc", "echo 'time=\"x\" level=error msg=\"it is broken\"' >&2; exit 1\n")
	addContainer(t, r, "c1", "{}")
	if _, err := r.Container(t.Context(), "c1"); err == nil || !strings.Contains(err.Error(), "it is broken") {
		t.Errorf("error %v, want what the runtime said", err)
	}
}

func TestCrunDescriptors(t *testing.T) {
	dir := t.TempDir()
	status := `{"pid":1,"external_descriptors":"[\"/dev/null\",\"pipe:[7]\"]"}`
	if err := os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := crunDescriptors(dir)
	if err != nil || !slices.Equal(got, []string{"/dev/null", "pipe:[7]"}) {
		t.Errorf("descriptors %v, %v", got, err)
	}
}

func TestDumpable(t *testing.T) {
	for status, ok := range map[string]bool{Created: false, Running: true, Paused: true, Stopped: false} {
		err := (&Container{ID: "c", Status: status}).Dumpable()
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", status, err)
		}
	}
}

// A container that has come to its end when it goes on is no failure to resume it; one that was dead before is.
func TestResumeEnded(t *testing.T) {
	for said, ended := range map[string]bool{"": true, "echo container not paused >&2; exit 1": false} {
		r := fakeRuntime(t, "runc", `case "$*" in
*resume*) `+said+` ;;
*) cat <<END
{"id":"c1","status":"stopped","pid":0,"bundle":"$(cat $(dirname $0)/bundle-of-c1.txt)","created":"2026-11-21T08:56:07.05Z"}
END
esac
`)
		addContainer(t, r, "c1", "{}")
		c, err := r.Container(t.Context(), "c1")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Resume(t.Context()); err == nil || errors.Is(err, ErrEnded) != ended {
			t.Errorf("%q: %v, want ErrEnded: %v", said, err, ended)
		}
	}
}

func TestFind(t *testing.T) {
	state := t.TempDir()
	_, err := Find(t.Context(), "nobody", FindOptions{Runtime: Direct, State: state})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), state) {
		t.Errorf("error %v, want ErrNotFound and where it looked", err)
	}
	if _, err := Find(t.Context(), "no", FindOptions{Runtime: Direct, State: state}); err == nil || !strings.Contains(err.Error(), "from 3 characters on") {
		t.Errorf("of two characters: %v", err)
	}
}

func TestRestoreArgs(t *testing.T) {
	got := RestoreOptions{
		ID: "new", Bundle: "/b", ImagesDir: "/i", WorkDir: "/w", ConsoleSocket: "/s",
		TCPEstablished: true, ExtUnixSk: true, ShellJob: true, FileLocks: true, NoPivot: true, NoSubreaper: true, ConsumeImages: true,
		CgroupMode: "full", LSMProfile: "selinux:l", LSMMountContext: "c",
	}.args("/w/pid")
	want := "restore --detach --image-path /i --work-path /w --bundle /b --pid-file /w/pid --console-socket /s --manage-cgroups-mode full " +
		"--lsm-profile selinux:l --lsm-mount-context c --tcp-established --ext-unix-sk --shell-job --file-locks --no-pivot --no-subreaper --auto-dedup new"
	if strings.Join(got, " ") != want {
		t.Errorf("arguments %q, want %q", strings.Join(got, " "), want)
	}
}

// TestRestoreFailure wants what the runtime said, and nothing of the ID left in it.
func TestRestoreFailure(t *testing.T) {
	r := fakeRuntime(t, "runc", `
case "$*" in
*restore*) mkdir -p `+"$2"+`/c9; while [ "$1" != --log ]; do shift; done; echo 'level=error msg="criu failed: type NOTIFY errno 0"' > $2; exit 1;;
*delete*) rmdir $2/c9;;
esac
`)
	work := t.TempDir()
	_, err := r.Restore(t.Context(), RestoreOptions{ID: "c9", Bundle: work, ImagesDir: work, WorkDir: work})
	if err == nil || !strings.Contains(err.Error(), "criu failed: type NOTIFY") {
		t.Errorf("error %v, want what the runtime said", err)
	}
	if err := r.CheckFree("c9"); err != nil {
		t.Errorf("after the failure: %v", err)
	}
	calls, err := os.ReadFile(filepath.Join(r.Root, "calls"))
	if err != nil || !strings.Contains(string(calls), "delete --force c9") {
		t.Errorf("calls %q, %v: want a delete", calls, err)
	}
}

func TestCheckFree(t *testing.T) {
	r := fakeRuntime(t, "runc", "")
	if err := r.CheckFree("c1"); err != nil {
		t.Error(err)
	}
	addContainer(t, r, "c1", "{}")
	if err := r.CheckFree("c1"); !errors.Is(err, ErrExists) {
		t.Errorf("used ID: %v, want ErrExists", err)
	}
}

// TestRecord follows a process through the direct runtime.
func TestRecord(t *testing.T) {
	dir, bundle := t.TempDir(), t.TempDir()
	config := `{"process":{"cwd":"/"},"root":{"path":"/"},"linux":{}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	rec := Record{ID: "c1", PID: pid, StartTime: StartTime(pid), Bundle: bundle}
	if rec.StartTime == 0 {
		t.Fatal("the process has no start time")
	}
	if err := WriteRecord(t.Context(), dir, rec); err != nil {
		t.Fatal(err)
	}
	if err := WriteRecord(t.Context(), dir, rec); !errors.Is(err, ErrExists) {
		t.Errorf("second record: %v, want ErrExists", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	r := Runtime{Name: Direct, Root: dir}
	c, err := r.Container(context.Background(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if c.Status != Stopped || c.PID != 0 {
		t.Errorf("status %s, pid %d of a process that is gone", c.Status, c.PID)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.Container(t.Context(), "c1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after delete: %v, want ErrNotFound", err)
	}
}

func TestStartTimeOfNobody(t *testing.T) {
	if got := StartTime(1 << 30); got != 0 {
		t.Errorf("start time %d of a process that is not there", got)
	}
	if alive(1 << 30) {
		t.Error("a process that is not there is alive")
	}
}

func TestGeneration(t *testing.T) {
	for value, want := range map[string]int{"": 0, "2": 2, "-1": 0, "x": 0} {
		spec := &specs.Spec{Annotations: map[string]string{AnnotationGeneration: value}}
		if got := generation(spec); got != want {
			t.Errorf("generation %q is %d, want %d", value, got, want)
		}
	}
}

func TestLastLines(t *testing.T) {
	got := lastLines("time=\"x\" level=warning msg=\"a\"\n\nb\nc\nd\ne\nf\n")
	if want := "b; c; d; e; f"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestThisHost(t *testing.T) {
	h, err := ThisHost()
	if err != nil {
		t.Fatal(err)
	}
	if h.Architecture == "" || h.Kernel == "" || !slices.Contains([]string{"v1", "v2", "hybrid"}, h.CgroupVersion) {
		t.Errorf("host %+v", h)
	}
}
