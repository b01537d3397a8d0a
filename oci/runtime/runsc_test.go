package runtime

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// statefile makes a checkpoint.img with that head.
func statefile(t *testing.T, head map[string]string) []byte {
	t.Helper()
	b, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint64([]byte("gVisorSF"), uint64(len(b))), append(b, "state"...)...)
}

func TestCheckSandbox(t *testing.T) {
	head := map[string]string{
		"runsc_version": "release-1", "network": "none", "container_count": "1", "compression": "none",
		"container_specs": `{"__no_name_0":{"ociVersion":"1.0.2"}}`,
	}
	with := func(key, value string) map[string]string {
		m := maps.Clone(head)
		m[key] = value
		return m
	}
	whole := map[string][]byte{
		archive.SandboxState: statefile(t, head), archive.SandboxPages: make([]byte, 8192), archive.SandboxPagesMeta: []byte("x"),
	}
	for _, tt := range []struct {
		name string
		edit func(map[string][]byte)
		says string // in the error; empty for images that are good
	}{
		{"whole", func(map[string][]byte) {}, ""},
		{"packed", func(m map[string][]byte) {
			clear(m)
			m[archive.SandboxState] = statefile(t, with("compression", "flate-best-speed"))
		}, ""},
		{"no state", func(m map[string][]byte) { delete(m, archive.SandboxState) }, "checkpoint.img is missing"},
		{"no pages", func(m map[string][]byte) { delete(m, archive.SandboxPages) }, "pages.img is missing"},
		{"no index", func(m map[string][]byte) { delete(m, archive.SandboxPagesMeta) }, "pages_meta.img is missing"},
		{"orders for runsc", func(m map[string][]byte) { m["gcs_opts.json"] = []byte("{}") }, "gcs_opts.json"},
		{"of CRIU", func(m map[string][]byte) { m[archive.SandboxState] = []byte("\x54\x56\x43\x00inventory") }, "no image of runsc"},
		{"empty", func(m map[string][]byte) { m[archive.SandboxState] = nil }, "no image of runsc"},
		{"cut", func(m map[string][]byte) { m[archive.SandboxState] = m[archive.SandboxState][:40] }, "cut"},
		{"at the limit", func(m map[string][]byte) {
			m[archive.SandboxState] = binary.BigEndian.AppendUint64([]byte("gVisorSF"), maxStatefile)
		}, "cut"},
		{"over the limit", func(m map[string][]byte) {
			m[archive.SandboxState] = binary.BigEndian.AppendUint64([]byte("gVisorSF"), maxStatefile+1)
		}, "limit"},
		{"no JSON", func(m map[string][]byte) {
			m[archive.SandboxState] = append(binary.BigEndian.AppendUint64([]byte("gVisorSF"), 4), "text"...)
		}, "head"},
		{"two containers", func(m map[string][]byte) { m[archive.SandboxState] = statefile(t, with("container_count", "2")) }, "2"},
		{"no count", func(m map[string][]byte) { m[archive.SandboxState] = statefile(t, with("container_count", "")) }, "containers"},
		{"two names", func(m map[string][]byte) {
			m[archive.SandboxState] = statefile(t, with("container_specs", `{"a":{},"b":{}}`))
		}, "does not name"},
		{"no name", func(m map[string][]byte) { m[archive.SandboxState] = statefile(t, with("container_specs", "")) }, "does not name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := maps.Clone(whole)
			tt.edit(files)
			dir := t.TempDir()
			for name, content := range files {
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := CheckSandbox(dir)
			if tt.says != "" {
				if !errors.Is(err, archive.ErrRejected) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v, want an ErrRejected with %q", err, tt.says)
				}
				return
			}
			want := SandboxImages{Version: "release-1", Name: "__no_name_0", Network: "none", Containers: 1, MemoryBytes: int64(len(files[archive.SandboxPages]))}
			if err != nil || got != want {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		})
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, archive.SandboxState)); err != nil {
		t.Fatal(err)
	}
	if _, err := CheckSandbox(dir); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("a link: %v, want an ErrRejected", err)
	}
}

func TestSandboxPrepare(t *testing.T) {
	for _, tt := range []struct {
		name string
		want map[string]string
	}{
		{"__no_name_0", map[string]string{"kept": "yes"}},
		{"shop", map[string]string{"kept": "yes", "io.kubernetes.cri.container-name": "shop"}},
	} {
		spec := &specs.Spec{Annotations: map[string]string{
			"kept": "yes", "io.kubernetes.cri.container-name": "other", "io.kubernetes.cri.container-type": "container",
			"io.kubernetes.cri.sandbox-id": "victim", "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "victim",
		}}
		SandboxImages{Name: tt.name}.Prepare(spec)
		if !maps.Equal(spec.Annotations, tt.want) {
			t.Errorf("%s: annotations %v, want %v", tt.name, spec.Annotations, tt.want)
		}
	}
	var spec specs.Spec
	SandboxImages{Name: "shop"}.Prepare(&spec)
	if got := spec.Annotations["io.kubernetes.cri.container-name"]; got != "shop" {
		t.Errorf("without annotations it gets the name %q", got)
	}
}

func TestSandboxState(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "runsc", root: "/run/runsc", id: "alone"})
	h.write("/run/runsc/alone_sandbox:alone.state", object{
		"createdAt": "2026-01-02T03:04:05Z",
		"sandbox":   object{"metricMetadata": object{"network": "none", "overlay": "root:self", "platform": "systrap"}},
	})
	c, err := Find(t.Context(), "alone", h.options())
	if err != nil {
		t.Fatal(err)
	}
	if want := (archive.Sandbox{Network: "none", Overlay: "root:self", Platform: "systrap"}); c.Sandbox == nil || *c.Sandbox != want {
		t.Errorf("sandbox %+v, want %+v", c.Sandbox, want)
	}
	if got := c.Created.Format("2006-01-02"); got != "2026-01-02" {
		t.Errorf("created %s", got)
	}
	if got, want := c.SandboxFiles(), []string{"/.gvisor.filestore.alone"}; !slices.Equal(got, want) {
		t.Errorf("files of the sandbox: %q, want %q", got, want)
	}
	if err := c.Dumpable(); err != nil {
		t.Errorf("dumpable: %v", err)
	}

	// A second one in the same sandbox.
	h.add(made{runtime: "runsc", root: "/run/runsc", id: "guest"})
	if err := os.Rename(h.path("/run/runsc/guest_sandbox:guest.state"), h.path("/run/runsc/guest_sandbox:alone.state")); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"alone", "guest"} {
		c, err := Find(t.Context(), id, h.options())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Dumpable(); !errors.Is(err, ErrShared) {
			t.Errorf("%s: dumpable: %v, want ErrShared", id, err)
		}
	}

	// runsc goes on to call paused what was killed while it was.
	h.add(made{runtime: "runsc", root: "/run/runsc", id: "dead"})
	h.write("/run/runsc/dead.answer", object{"id": "dead", "status": Paused, "pid": 1 << 30, "bundle": c.Bundle})
	c, err = Find(t.Context(), "dead", h.options())
	if err != nil {
		t.Fatal(err)
	}
	if c.Status != Stopped || c.PID != 0 {
		t.Errorf("a dead sandbox is %s with pid %d, want stopped", c.Status, c.PID)
	}
	if hint := c.AfterStop(); !strings.Contains(hint, "delete --force dead") {
		t.Errorf("after a stop: %q", hint)
	}
}

// runsc takes an ID for the beginning of others too.
func TestSandboxApart(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "runsc", root: "/run/runsc", id: "web-1"})
	r, err := Lookup("runsc", h.path("/run/runsc"))
	if err != nil {
		t.Fatal(err)
	}
	for id, free := range map[string]bool{"web-1": false, "web": false, "web-12": false, "web-2": true, "shop": true} {
		if err := r.CheckFree(id); errors.Is(err, ErrExists) == free || free != (err == nil) {
			t.Errorf("%s: %v, want free: %v", id, err, free)
		}
	}
}

func TestSandboxRestoreArgs(t *testing.T) {
	o := SandboxRestoreOptions{ID: "c", Bundle: "/b", ImagesDir: "/i", ConsoleSocket: "/s", Flags: []string{"network=none"}}
	want := "--log /log --network=none restore --detach --image-path /i --bundle /b --pid-file /pid --console-socket /s c"
	if got := strings.Join(o.args("/log", "/pid"), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestCheckRestoreFormat(t *testing.T) {
	runc, runsc, youki := fakeRuntime(t, "runc", ""), fakeRuntime(t, "runsc", ""), fakeRuntime(t, "youki", "")
	for _, tt := range []struct {
		r      Runtime
		format string
		can    bool
	}{
		{runc, archive.FormatCRIU, true},
		{runc, archive.FormatGVisor, false},
		{youki, archive.FormatCRIU, false},
		{youki, archive.FormatGVisor, false},
		{runsc, archive.FormatCRIU, false},
		{runsc, archive.FormatGVisor, true},
	} {
		if err := tt.r.CheckRestore(t.Context(), tt.format); errors.Is(err, ErrNoRestore) == tt.can {
			t.Errorf("%s, images of %s: %v, want that it can: %v", tt.r.Name, tt.format, err, tt.can)
		}
	}
}

func TestSandboxError(t *testing.T) {
	said := `{"msg":"starting container: no room\ngoroutine 5 [running]:\nmain()","level":"error"}` + "\nFetchSpec failed\n"
	if got, want := lastLines(said), "starting container: no room; FetchSpec failed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
