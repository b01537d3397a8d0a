package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cpuinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/test/env"
)

// judged is what check --json prints of a checkpoint.
type judged struct {
	ID         string `json:"id"`
	Runtime    string `json:"runtime"`
	Restorable bool   `json:"restorable"`
	Reasons    []struct {
		Code    string `json:"code"`
		Verdict string `json:"verdict"`
		Text    string `json:"text"`
		Remedy  string `json:"remedy"`
	} `json:"reasons"`
}

// verdict is what the report says of a code; empty if it says nothing.
func (j judged) verdict(code string) string {
	for _, r := range j.Reasons {
		if r.Code == code {
			return r.Verdict
		}
	}
	return ""
}

// codes are those of a verdict.
func (j judged) codes(verdict string) []string {
	list := []string{}
	for _, r := range j.Reasons {
		if r.Verdict == verdict && !slices.Contains(list, r.Code) {
			list = append(list, r.Code)
		}
	}
	return list
}

// absentFeatures are words and bits of features that few CPUs have together: 3DNow, FMA4, TBM, MPX.
var absentFeatures = [][2]int{{1, 31}, {6, 16}, {6, 21}, {9, 14}}

// lacking sets a feature that this CPU has not.
func lacking(t *testing.T) func(*cpuinfo.CpuinfoEntry) {
	return func(e *cpuinfo.CpuinfoEntry) {
		words := e.GetX86Entry()[0].GetCapability()
		for _, f := range absentFeatures {
			if words[f[0]]>>f[1]&1 == 0 {
				words[f[0]] |= 1 << f[1]
				return
			}
		}
		t.Fatal("this CPU has every feature")
	}
}

func otherVendor(e *cpuinfo.CpuinfoEntry) {
	x := e.GetX86Entry()[0]
	vendor := cpuinfo.CpuinfoX86Entry_INTEL
	if x.GetVendorId() == vendor {
		vendor = cpuinfo.CpuinfoX86Entry_AMD
	}
	x.VendorId = vendor.Enum()
}

// The verdict on a checkpoint, and what a restore with the same flags then does.
func TestCheckSource(t *testing.T) {
	h := newHost(t)
	volume, tiny := h.path("volume"), h.path("tiny")
	must(t, os.Mkdir(volume, 0o755))
	must(t, os.Mkdir(tiny, 0o700))
	must(t, unix.Mount("tiny", tiny, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(tiny, 0)) })
	c := h.start("c", with(counts("--volume", "/vol"), env.Bind(volume, "/vol")))
	good := c.export("good.tar.zst", "--leave-running", "--base", h.built.base)

	base, mounts := []string{"--base", h.built.base}, []string{"--map-mount", "/vol=" + volume}
	usual := slices.Concat(base, mounts)
	metadata := func(edit func(*archive.Metadata)) func(string, *archive.Metadata) {
		return func(_ string, m *archive.Metadata) { edit(m) }
	}
	cpu := func(edit func(*cpuinfo.CpuinfoEntry)) func(string, *archive.Metadata) {
		return func(dir string, _ *archive.Metadata) {
			editImage(t, dir, archive.CPUInfo, &cpuinfo.CpuinfoEntry{}, edit)
		}
	}
	for i, tt := range []struct {
		name            string
		edit            func(dir string, m *archive.Metadata)
		flags           []string
		code, verdict   string
		blocks, restore bool // restore: it is tried, as long as nothing blocks
	}{
		{"good", nil, usual, "cpu", "ok", false, true},
		{"good, directly", nil, append([]string{"--engine", "direct"}, usual...), "runtime", "ok", false, true},
		{"other vendor", cpu(otherVendor), usual, "cpu-vendor", "warning", false, true},
		{"other vendor, strict", cpu(otherVendor), append([]string{"--cpu", "strict"}, usual...), "cpu-vendor", "blocker", true, false},
		{"feature is missing", cpu(lacking(t)), usual, "cpu-features", "blocker", true, false},
		{"feature is missing, ignored", cpu(lacking(t)), append([]string{"--cpu", "ignore"}, usual...), "cpu-ignored", "warning", false, true},
		{"no record of the CPU", func(dir string, _ *archive.Metadata) {
			must(t, os.Remove(filepath.Join(dir, archive.Image(archive.CPUInfo))))
		}, usual, "cpu-unknown", "warning", false, true},
		{"other architecture", metadata(func(m *archive.Metadata) { m.Host.Architecture = "s390x" }), usual, "architecture", "blocker", true, false},
		{"newer images", func(dir string, _ *archive.Metadata) {
			editImage(t, dir, archive.Inventory, &inventory.InventoryEntry{}, func(e *inventory.InventoryEntry) { e.ImgVersion = proto.Uint32(99) })
		}, usual, "image-version", "blocker", true, false},
		{"newer CRIU", metadata(func(m *archive.Metadata) { m.CRIU = "99.1" }), usual, "criu-older", "warning", false, true},
		{"newer kernel", metadata(func(m *archive.Metadata) { m.Host.Kernel = "99.1.0-1-amd64" }), usual, "kernel-older", "warning", false, false},
		{"base is missing", nil, mounts, "base", "blocker", true, false},
		{"runtime is missing", nil, append([]string{"--runtime", "/nonexistent/runc"}, usual...), "runtime", "blocker", true, false},
		{"mount is not mapped", nil, base, "mount-unmapped", "blocker", true, false},
		{"path of a mount is missing", nil, append([]string{"--map-mount", "/vol=" + h.path("absent")}, base...), "mounts", "blocker", true, false},
		{"no space", nil, append([]string{"--root", tiny}, usual...), "space", "blocker", true, false},
		{"images of gVisor, by runc", metadata(func(m *archive.Metadata) { m.Format = archive.FormatGVisor }), append([]string{"--runtime", "runc"}, usual...), "runtime", "blocker", true, false},
		{"images of nobody", metadata(func(m *archive.Metadata) { m.Format = "other" }), usual, "format", "blocker", true, false},
	} {
		path := good
		if tt.edit != nil {
			path = h.path(fmt.Sprintf("%d.tar.zst", i))
			reforge(t, good, path, tt.edit)
		}
		id := fmt.Sprint("t", i)
		o := h.run(append(append([]string{"--json", "check", "--id", h.id(id)}, tt.flags...), path)...)
		want := 0
		if tt.blocks {
			want = 5
		}
		o.want(want)
		j := decode[judged](o)
		if got := j.verdict(tt.code); got != tt.verdict {
			t.Errorf("%s: %s is %q, want %q: %s", tt.name, tt.code, got, tt.verdict, o)
		}
		if j.Restorable == tt.blocks || !tt.blocks && len(j.codes("blocker")) > 0 || tt.blocks && !slices.Equal(j.codes("blocker"), []string{tt.code}) {
			t.Errorf("%s: blockers %q: %s", tt.name, j.codes("blocker"), o)
		}
		switch {
		case tt.blocks:
			h.run(append(append([]string{"restore", "--detach", "--id", h.id(id)}, tt.flags...), path)...).want(5)
		case tt.restore:
			r := h.restore(id, path, tt.flags...)
			r.awaitTicks(2)
			r.remove()
		}
	}
	if left := entries(t, filepath.Join(tiny, "containers")); len(left) > 0 {
		t.Errorf("left where there was no space: %q", left)
	}
	// The same ID as the container that was dumped, which still runs.
	j := decode[judged](h.run(append(append([]string{"--json", "check"}, usual...), good)...).want(5))
	if j.ID != c.id || !slices.Equal(j.codes("blocker"), []string{"id"}) {
		t.Errorf("the ID is taken, and check says %+v", j)
	}
	if o := h.ok(append(append([]string{"check", "--id", h.id("free")}, usual...), good)...); !strings.Contains(o.stdout, "ok") || strings.Contains(o.stdout, "{") {
		t.Errorf("not a table: %s", o)
	}
	c.unharmed()
}

// What is damaged is rejected, as everywhere.
func TestCheckDamagedSource(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	good := readFile(t, c.export("good.tar", "--leave-running", "--base", h.built.base))
	begin := strings.Index(good, `"sha256": "`)
	for name, content := range map[string]string{
		"metadata that is no JSON": strings.Replace(good, `"formatVersion": 1`, `"formatVersion": x`, 1),
		"later format":             strings.Replace(good, `"formatVersion": 1`, `"formatVersion": 9`, 1),
		"wrong digests":            good[:begin] + strings.NewReplacer("a", "b", "0", "1").Replace(good[begin:begin+4096]) + good[begin+4096:],
		"cut in the metadata":      good[:begin],
		"no archive":               "something else",
	} {
		path := h.path("bad.tar")
		writeFile(t, path, content)
		if o := h.run("check", "--base", h.built.base, path); o.status != 3 || o.stdout != "" {
			t.Errorf("%s: want status 3 and no verdict: %s", name, o)
		}
	}
	c.unharmed()
}

// Of a large checkpoint in a registry less than 1 MB is fetched, for check and for inspect.
func TestCheckFetchesLittle(t *testing.T) {
	h, far := newHost(t, "docker-registry"), newHost(t)
	registry := env.Registry(t, env.RegistryOptions{})
	c := h.start("c", counts("--memory", "48"))
	for _, compression := range []string{"zstd", "gzip", "none", "native"} {
		packing, form := compression, []string{"--to", "image", "--compress", compression}
		if compression == "native" {
			packing, form = "zstd", nil
		}
		path := c.export(compression, "--leave-running", "--compress", packing, "--base", h.built.base)
		const large, most = 16 << 20, 1_000_000
		if info, err := os.Stat(path); err != nil || info.Size() < large {
			t.Fatalf("%s: %v, %v, want more than %d bytes", compression, info, err, large)
		}
		name := "/counter:" + compression
		h.ok(append(append([]string{"push", "--plain-http"}, form...), path, registry.Host+name)...)
		looks := [][]string{{"check", "--id", far.id("free"), "--base", h.built.base}, {"inspect"}, {"inspect", "--tree"}}
		if compression == "native" || compression == "none" {
			looks = append(looks, []string{"inspect", "--files"})
		}
		for _, args := range looks {
			few := env.Sever(t, registry.Host, most, nil)
			o := far.run(append(append([]string{"--json"}, args...), "--plain-http", few.Host+name)...).want(0)
			if !strings.Contains(o.stdout, "runc") {
				t.Errorf("%s %s: nothing was learned: %s", args[0], compression, o)
			}
			if few.Left() < 0 {
				t.Errorf("%s %s: more than %d bytes were fetched", args[0], compression, most)
			}
			t.Logf("%s %s: %d bytes", args[0], compression, most-few.Left())
		}
		if exists(t, filepath.Join(far.root, "blobs")) {
			t.Error("something was kept")
		}
	}
	c.unharmed()
}

// A bare word is the container, unless there is none.
func TestCheckNames(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	h.ok("export", "--leave-running", "--base", h.built.base, c.id, c.id)
	if o := h.ok("check", c.id); !strings.Contains(o.stdout, "freeze") {
		t.Errorf("not the container: %s", o)
	}
	h.ok("tag", c.id, "another")
	for _, src := range []string{"another", "localhost/" + c.id, c.id + ":latest"} {
		if o := h.ok("check", "--id", h.id("free"), "--base", h.built.base, src); !strings.Contains(o.stdout, "architecture") {
			t.Errorf("%s: not the checkpoint: %s", src, o)
		}
	}
	h.run("check", "nothing").refused(4)
	// From a stream.
	path := c.export("c.tar.zst", "--leave-running", "--base", h.built.base)
	h.runWith(readFile(t, path), "check", "--id", h.id("free"), "--base", h.built.base, "-").want(0)
	h.run("check", "--rootfs", h.built.base, "--base", h.built.base, path).refused(2, "--rootfs")
	c.unharmed()
}

// A container on the host's network cannot have a port twice.
func TestCheckPorts(t *testing.T) {
	h := newHost(t)
	opts := counts()
	opts.HostNetwork = true
	opts.Args = []string{"/bin/sh", "-c", "/bin/busybox nc -ll -p 28733 -e /bin/true & exec /bin/workload --tick 10ms"}
	c := h.start("c", opts)
	path := c.export("c.tar.zst", "--leave-running", "--base", h.built.base)
	flags := []string{"--json", "check", "--id", h.id("free"), "--base", h.built.base, path}
	j := decode[judged](h.run(flags...).want(5))
	if !slices.Equal(j.codes("blocker"), []string{"port-taken"}) {
		t.Errorf("the port is taken, and check says %+v", j)
	}
	c.remove()
	if j := decode[judged](h.run(flags...).want(0)); j.verdict("network") != "ok" {
		t.Errorf("the port is free, and check says %+v", j)
	}
}
