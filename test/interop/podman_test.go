package interop

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

const baseImage = "localhost/interop/base:1"

// inPodman finds the first process of a container of Podman.
func inPodman(t *testing.T, p *env.Podman, name string) *env.Container {
	t.Helper()
	pid, err := strconv.Atoi(p.Run(t, "inspect", "--format", "{{.State.Pid}}", name))
	must(t, err)
	c := env.Watch(t, env.Container{ID: name, PID: pid, Log: filepath.Join(t.TempDir(), "output")})
	return c
}

// podmans are those that the tests are about: this machine's and, in `make interop`, the newest.
func podmans() map[string]func(testing.TB) *env.Podman {
	all := map[string]func(testing.TB) *env.Podman{"installed": env.NewPodman}
	if os.Getenv(fullRun) != "" {
		all["newest"] = env.NewestPodman
	}
	return all
}

// fullRun is set by `make interop`.
const fullRun = "CKARCHIVE_INTEROP_FULL"

// A container of runc goes on in Podman, from a file and from an image, with the same memory and
// files; and so does what ckarchive exports of Podman's own containers.
func TestOursInPodman(t *testing.T) {
	for version, podman := range podmans() {
		t.Run(version, func(t *testing.T) { testOursInPodman(t, podman) })
	}
}

func testOursInPodman(t *testing.T, podman func(testing.TB) *env.Podman) {
	for _, from := range []string{"runc", "podman"} {
		t.Run(from, func(t *testing.T) {
			env.Leaks(t, "iop"+strconv.Itoa(os.Getpid()))
			h, p := newHost(t), podman(t)
			h.env[0] = "PATH=" + filepath.Dir(p.Program) + ":" + os.Getenv("PATH")
			id := p.Image(t, h.base, baseImage)
			file, image := h.path("checkpoint.tar.zst"), "oci:"+lowerDir(t)+":v1"
			var want map[string]string
			known := []string{"--base-image", baseImage, "--base-id", id}
			if from == "runc" {
				c := h.start("plain", env.BundleOptions{Args: workload(), HostNetwork: true})
				torture(t, c.Path("/"))
				want = snapshot(t, c.Path("/"))
				h.ok("export", "--base", h.base, "--name", "moved", c.ID, file)
			} else {
				c := startPodman(t, p, "moved")
				torture(t, c.Path("/"))
				want = snapshot(t, c.Path("/"))
				writeFile(t, c.Path("/dev/shm/shared"), "shared")
				full := p.Run(t, "inspect", "--format", "{{.Id}}", "moved")
				h.beside(p).ok("export", "--runtime-root", "/run/runc", full, file)
				p.Run(t, "rm", "--force", "--time", "0", "moved")
			}
			h.ok(append([]string{"convert", "--to", "podman", file, h.path("podman.tar")}, known...)...)
			h.ok(append([]string{"convert", "--to", "image", "--compress", "gzip", file, image}, known...)...)
			pulled := p.Run(t, "pull", "--quiet", image)
			for _, restore := range [][]string{{"--import", h.path("podman.tar")}, {pulled}} {
				p.Run(t, append([]string{"container", "restore"}, restore...)...)
				r := inPodman(t, p, "moved")
				if tick := r.Verify(t).Tick; tick < 3 {
					t.Errorf("%q: it began anew: tick %d", restore, tick)
				}
				wantSame(t, snapshot(t, r.Path("/")), want)
				if from == "podman" {
					wantFile(t, r.Path("/dev/shm/shared"), "shared")
				}
				p.Run(t, "rm", "--force", "--time", "0", "moved")
			}
			// In one step, and Podman is asked for the ID of the image.
			into := []string{"restore", "--into", "podman", "--base-image", baseImage, "--name", "again"}
			for i := 0; i < len(p.Args); i += 2 {
				into = append(into, "--podman-flag="+p.Args[i]+"="+p.Args[i+1])
			}
			if _, stderr, err := newHost(t).try(append(into, file)...); err == nil || !strings.Contains(stderr, "--allow engine:podman") {
				t.Errorf("on a host that did not make it: %v: %s", err, stderr)
			}
			h.ok(append(into, file)...)
			inPodman(t, p, "again").Verify(t)
			if _, stderr, err := h.try(append(into, file)...); err == nil || !strings.Contains(stderr, "again") {
				t.Errorf("a second one of that name: %v: %s", err, stderr)
			}
		})
	}
}

// start runs the workload under Podman, and waits until it counts.
func startPodman(t *testing.T, p *env.Podman, name string, flags ...string) *env.Container {
	t.Helper()
	return runPodman(t, p, name, workload(), flags...)
}

// runPodman runs a program that becomes the workload.
func runPodman(t *testing.T, p *env.Podman, name string, program []string, flags ...string) *env.Container {
	t.Helper()
	args := append([]string{"run", "--detach", "--name", name, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, flags...)
	if !slices.Contains(flags, "--network") {
		args = append(args, "--network", "host")
	}
	p.Run(t, append(append(args, baseImage), program...)...)
	c := inPodman(t, p, name)
	c.WaitTick(t, 3)
	return c
}

// What Podman exports restores through runc and without any runtime, on a host that has no
// Podman: with its files, its volume, its shared memory, and stand-ins for what Podman had made.
func TestPodmanInOurs(t *testing.T) {
	for version, podman := range podmans() {
		t.Run(version, func(t *testing.T) { testPodmanInOurs(t, podman) })
	}
}

func testPodmanInOurs(t *testing.T, podman func(testing.TB) *env.Podman) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			env.Leaks(t, "iop"+strconv.Itoa(os.Getpid()))
			h, p := newHost(t), podman(t)
			p.Image(t, h.base, baseImage)
			c := startPodman(t, p, "shop", "--volume", "goods:/mnt")
			writeFile(t, c.Path("/mnt/in the volume"), "goods")
			writeFile(t, c.Path("/dev/shm/shared"), "shared")
			writeFile(t, c.Path("/tmp/new file"), "new")
			file := h.path("podman.tar.zst")
			p.Run(t, "container", "checkpoint", "--export", file, "shop")
			p.Run(t, "rm", "--force", "--time", "0", "shop")

			id := h.id("shop")
			var said struct {
				PID int
			}
			decode(t, h.ok("--json", "restore", "--detach", "--engine", engine, "--allow", "host:network", "--base", h.base, "--id", id, file), &said)
			runtime := "runc"
			if engine == "direct" {
				runtime = env.Direct
			}
			r := env.Adopt(t, env.Container{ID: id, PID: said.PID, Runtime: runtime, Root: h.path("runc"), Log: h.path("log")})
			if tick := r.Verify(t).Tick; tick < 3 {
				t.Errorf("it began anew: tick %d", tick)
			}
			for name, want := range map[string]string{"/mnt/in the volume": "goods", "/dev/shm/shared": "shared", "/tmp/new file": "new", "/run/.containerenv": ""} {
				wantFile(t, r.Path(name), want)
			}
		})
	}
}

// What Podman alone binds into a container is not in an archive that goes elsewhere, and the container
// does without; unless the archive is to be as the container was, or the container uses it.
func TestNormalized(t *testing.T) {
	const own = "/run/.containerenv"
	for name, c := range map[string]struct {
		flags  []string
		inUse  bool
		stays  bool
		warned string
	}{
		"default": {},
		"off":     {flags: []string{"--no-normalize"}, stays: true},
		"in use":  {inUse: true, stays: true, warned: "is in use"},
	} {
		t.Run(name, func(t *testing.T) {
			env.Leaks(t, "iop"+strconv.Itoa(os.Getpid()))
			h, p := newHost(t), env.NewPodman(t)
			p.Image(t, h.base, baseImage)
			program := workload()
			if c.inUse {
				program = []string{"/bin/sh", "-c", "exec 9<" + own + "; exec " + strings.Join(program, " ")}
			}
			runPodman(t, p, "moved", program)
			file, id := h.path("moved.tar"), h.id("moved")
			writeFile(t, filepath.Join("/proc", p.Run(t, "inspect", "--format", "{{.State.Pid}}", "moved"), "root/dev/shm/shared"), "shared")
			full := p.Run(t, "inspect", "--format", "{{.Id}}", "moved")
			_, stderr, err := h.try(append([]string{"export", "--runtime-root", "/run/runc", full, file}, c.flags...)...)
			if err != nil || !strings.Contains(stderr, c.warned) {
				t.Fatalf("export: %v: %s", err, stderr)
			}
			p.Run(t, "rm", "--force", "--time", "0", "moved")
			h.ok("verify", file)
			spec, err := exec.Command("tar", "-xOf", file, "spec.dump", "ckarchive.json").Output()
			must(t, err)
			if got := strings.Contains(string(spec), own); got != c.stays {
				t.Errorf("%s is in the metadata: %t, want %t", own, got, c.stays)
			}
			var said struct{ PID int }
			decode(t, h.ok("--json", "restore", "--detach", "--base", h.base, "--id", id, file), &said)
			r := env.Adopt(t, env.Container{ID: id, PID: said.PID, Runtime: "runc", Root: h.path("runc"), Log: h.path("log")})
			if tick := r.Verify(t).Tick; tick < 3 {
				t.Errorf("it began anew: tick %d", tick)
			}
			wantFile(t, r.Path("/dev/shm/shared"), "shared")
			mounts, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(said.PID), "mountinfo"))
			must(t, err)
			if got := strings.Contains(string(mounts), own); got != c.stays {
				t.Errorf("%s is mounted: %t, want %t", own, got, c.stays)
			}
		})
	}
}

// The same changes of a root file system, carried by Podman alone and by ckarchive: everything has to
// survive with ckarchive, and nothing that Podman's own restore makes of Podman's archive may be lost
// by reading it here. What Podman loses is printed.
func TestWhatIsLost(t *testing.T) {
	for version, podman := range podmans() {
		t.Run(version, func(t *testing.T) {
			env.Leaks(t, "iop"+strconv.Itoa(os.Getpid()))
			h, p := newHost(t), podman(t)
			known := []string{"--base-image", baseImage, "--base-id", p.Image(t, h.base, baseImage)}
			c := startPodman(t, p, "moved")
			torture(t, c.Path("/"))
			want := snapshot(t, c.Path("/"))
			ours, theirs, image := h.path("ours.tar"), h.path("theirs.tar"), "localhost/interop/checkpoint:1"
			full := p.Run(t, "inspect", "--format", "{{.Id}}", "moved")
			h.beside(p).ok("export", "--leave-running", "--runtime-root", "/run/runc", full, h.path("plain.tar"))
			h.ok(append([]string{"convert", "--to", "podman", h.path("plain.tar"), ours}, known...)...)
			p.Run(t, "container", "checkpoint", "--leave-running", "--create-image", image, "moved")
			layout := "oci:" + lowerDir(t) + ":v1"
			p.Run(t, "push", "--quiet", image, layout)
			p.Run(t, "container", "checkpoint", "--export", theirs, "moved")
			p.Run(t, "rm", "--force", "--time", "0", "moved")

			back := func(file string) map[string]string {
				p.Run(t, "container", "restore", "--import", file)
				r := inPodman(t, p, "moved")
				r.Verify(t)
				defer p.Run(t, "rm", "--force", "--time", "0", "moved")
				return snapshot(t, r.Path("/"))
			}
			here := func(name, src string) map[string]string {
				var said struct{ PID int }
				id := h.id(name)
				decode(t, h.ok("--json", "restore", "--detach", "--allow", "host:network", "--base", h.base, "--id", id, src), &said)
				r := env.Adopt(t, env.Container{ID: id, PID: said.PID, Runtime: "runc", Root: h.path("runc"), Log: h.path("log")})
				r.Verify(t)
				return snapshot(t, r.Path("/"))
			}
			carried, alone, read, fromImage := back(ours), back(theirs), here("file", theirs), here("image", layout)
			wantSame(t, carried, want)
			wantSame(t, fromImage, read)
			wantKept(t, read, alone, want)
			tellLost(t, version, want, column{"Podman's own", alone}, column{"ckarchive's, in Podman", carried}, column{"Podman's, read by ckarchive", read})
		})
	}
}

// wantKept wants everything that an engine's own restore makes of the engine's archive.
func wantKept(t *testing.T, got, alone, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if alone[name] == value && got[name] != value {
			t.Errorf("%s: the engine restores it, and ckarchive gives %q, want %q", name, got[name], value)
		}
	}
}

// column is what one way of carrying it made of a root file system.
type column struct {
	head  string
	found map[string]string
}

// tellLost prints what the first way loses, and what the others make of it.
func tellLost(t *testing.T, version string, want map[string]string, ways ...column) {
	t.Helper()
	heads := []string{}
	for _, w := range ways {
		heads = append(heads, w.head)
	}
	t.Logf("| of the root file system (%s) | %s |", version, strings.Join(heads, " | "))
	names := maps.Clone(want)
	maps.Copy(names, ways[0].found)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if ways[0].found[name] == want[name] {
			continue
		}
		row := []string{}
		for _, w := range ways {
			row = append(row, verdict(w.found, want, name))
		}
		t.Logf("| %s | %s |", name, strings.Join(row, " | "))
	}
}

func verdict(got, want map[string]string, name string) string {
	switch {
	case got[name] == want[name]:
		return "kept"
	case got[name] == "":
		return "missing"
	case want[name] == "":
		return "came back"
	}
	return "reverted"
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	must(t, json.Unmarshal([]byte(text), v))
}

// lowerDir is a directory that Podman makes a name of an image of, which has to be lower case.
func lowerDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(env.ShortTemp, "interop-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// The named volumes of Podman's container go along when they are asked for: to a host without Podman, and back into Podman,
// which makes them anew.
func TestVolumes(t *testing.T) {
	env.Leaks(t, mark())
	h, p := newHost(t), env.NewPodman(t)
	known := []string{"--base-image", baseImage, "--base-id", p.Image(t, h.base, baseImage)}
	c := startPodman(t, p, "shop", "--volume", "goods:/mnt", "--volume", h.path("base", "t")+":/srv")
	writeFile(t, c.Path("/mnt/in the volume"), "goods")
	full, file := p.Run(t, "inspect", "--format", "{{.Id}}", "shop"), h.path("shop.tar.zst")
	h.ok("export", "--leave-running", "--runtime-root", "/run/runc", full, h.path("without.tar.zst"))
	h.ok("export", "--volumes", "--runtime-root", "/run/runc", full, file)
	p.Run(t, "rm", "--force", "--time", "0", "shop")
	p.Run(t, "volume", "rm", "goods")

	flags := []string{"--allow", "host:network", "--map-mount", "/srv=" + h.path("base", "t")}
	r := h.restoreHere(t, "runc", file, flags...)
	wantFile(t, r.Path("/mnt/in the volume"), "goods")
	if _, stderr, err := h.try(append(append([]string{"restore", "--detach", "--base", h.base, "--id", h.id("no")}, flags...), h.path("without.tar.zst"))...); err == nil || !strings.Contains(stderr, "/mnt") {
		t.Errorf("an export without volumes: %v: %s", err, stderr)
	}
	h.ok(append([]string{"convert", "--to", "podman", file, h.path("podman.tar")}, known...)...)
	p.Run(t, "container", "restore", "--import", h.path("podman.tar"), "--name", "again")
	back := inPodman(t, p, "again")
	back.Verify(t)
	wantFile(t, back.Path("/mnt/in the volume"), "goods")
	if listed := p.Run(t, "volume", "ls", "--quiet"); listed != "goods" {
		t.Errorf("Podman's volumes are %q, want goods", listed)
	}
}
