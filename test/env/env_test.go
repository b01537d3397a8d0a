package env

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/oci/runtime"
)

// testID is a container ID that no other test process has.
func testID(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("env-%s-%d", strings.ToLower(t.Name()), os.Getpid())
}

func testBundle(t *testing.T, opts BundleOptions) string {
	t.Helper()
	bundle := Bundle(t, filepath.Join(t.TempDir(), "bundle"), opts)
	Rootfs(t, filepath.Join(bundle, "rootfs"))
	return bundle
}

// The ground under all other tests: a container made here is dumped and
// restored by runc itself, and the workload finds nothing wrong.
func TestRuncCheckpointAndRestore(t *testing.T) {
	Require(t, "root", "criu", "runc", "busybox")
	id := testID(t)
	Leaks(t, id)
	volume, root, images := t.TempDir(), t.TempDir(), t.TempDir()
	bundle := testBundle(t, BundleOptions{
		Args:   []string{"/bin/workload", "--memory", "8", "--children", "2", "--tmpfs", "/cache", "--volume", "/vol", "--deleted"},
		Mounts: []specs.Mount{Tmpfs("/cache"), Bind(volume, "/vol")},
	})
	before := RunRunc(t, root, id, bundle)
	before.WaitTick(t, 5)
	dumped := before.Verify(t)
	if got, want := before.State(t).Status, specs.StateRunning; got != want {
		t.Errorf("state: got %s, want %s", got, want)
	}
	before.Command(t, "checkpoint", "--image-path", images, "--work-path", t.TempDir(), id)
	before.WaitEnd(t)

	after := RestoreRunc(t, root, id+"-again", bundle, images)
	if got := after.Status(t); got.Tick < dumped.Tick {
		t.Errorf("tick after the restore: got %d, want %d or more", got.Tick, dumped.Tick)
	}
	after.WaitTick(t, dumped.Tick+5)
	if got := after.Verify(t); got.PID != 1 {
		t.Errorf("pid in the container: got %d, want 1", got.PID)
	}
	first, second := read(before.Log), read(after.Log)
	if !strings.HasPrefix(first, "tick 1\n") || strings.Contains(second, "tick 1\n") || !strings.HasPrefix(second, "tick ") {
		t.Errorf("output: got %q before and %q after, want it to begin at tick 1 and to go on", first, second)
	}
}

func TestReadOnlyContainerWithTCP(t *testing.T) {
	Require(t, "root", "runc", "busybox")
	id := testID(t)
	Leaks(t, id)
	c := RunRunc(t, t.TempDir(), id, testBundle(t, BundleOptions{
		Args: []string{"/bin/workload", "--tcp"}, CgroupNamespace: true, NoCgroupMount: true, ReadOnly: true, Mounts: []specs.Mount{Tmpfs("/tmp")},
	}))
	c.WaitTick(t, 2)
	c.Verify(t)
}

func TestTerminal(t *testing.T) {
	Require(t, "root", "runc", "busybox")
	id := testID(t)
	Leaks(t, id)
	c := RunRunc(t, t.TempDir(), id, testBundle(t, BundleOptions{
		Terminal: true, HostNetwork: true,
		Args: []string{"/bin/sh", "-c", "test -t 0 && test -t 1 && echo it is a terminal; exec workload"},
	}))
	c.wait(t, "its output", func() (bool, error) {
		got := read(c.Log)
		return strings.HasPrefix(got, "it is a terminal\r\n") && strings.Contains(got, "tick 3\r\n"), nil
	})
	c.Command(t, "kill", id, "TERM")
	c.WaitEnd(t)
}

func TestRegistry(t *testing.T) {
	Require(t, "docker-registry", "htpasswd")
	for _, test := range []struct {
		name           string
		opts           RegistryOptions
		user, password string
		want           int
	}{
		{"open", RegistryOptions{}, "", "", http.StatusOK},
		{"no credentials", RegistryOptions{User: "u", Password: "p"}, "", "", http.StatusUnauthorized},
		{"wrong credentials", RegistryOptions{User: "u", Password: "p"}, "u", "q", http.StatusUnauthorized},
		{"credentials", RegistryOptions{User: "u", Password: "p"}, "u", "p", http.StatusOK},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := Registry(t, test.opts)
			if !strings.HasPrefix(r.Host, "127.0.0.1:") || r.Host == "127.0.0.1:0" {
				t.Errorf("host: got %q, want a port of 127.0.0.1", r.Host)
			}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Host+"/v2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.user != "" {
				request.SetBasicAuth(test.user, test.password)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if got := response.StatusCode; got != test.want {
				t.Errorf("status: got %d, want %d", got, test.want)
			}
		})
	}
}

func TestLeaksAreFound(t *testing.T) {
	Require(t, "root")
	mark := testID(t)
	for _, test := range []struct {
		name       string
		make, undo func(path string) error
		path       string
		want       string
	}{
		{
			name: "mount", path: filepath.Join(t.TempDir(), mark), want: "mount ",
			make: func(path string) error {
				if err := os.Mkdir(path, 0o755); err != nil {
					return err
				}
				return unix.Mount("tmpfs", path, "tmpfs", 0, "")
			},
			undo: func(path string) error { return unix.Unmount(path, 0) },
		},
		{
			name: "entry of /run", path: filepath.Join("/run", mark), want: "entry ",
			make: func(path string) error { return os.Mkdir(path, 0o755) }, undo: os.Remove,
		},
		{
			name: "cgroup", path: filepath.Join(someCgroup(t), mark), want: "cgroup ",
			make: func(path string) error { return os.Mkdir(path, 0o755) }, undo: os.Remove,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, err := traces(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := test.make(test.path); err != nil {
				t.Fatal(err)
			}
			during, leakErr := leaked(before, []string{mark})
			if err := test.undo(test.path); err != nil {
				t.Fatal(err)
			}
			if leakErr != nil {
				t.Fatal(leakErr)
			}
			if len(during) != 1 || !strings.HasPrefix(during[0], test.want) || !strings.HasSuffix(during[0], test.path) {
				t.Errorf("left behind: got %q, want one line %q...%q", during, test.want, test.path)
			}
			after, err := leaked(before, []string{mark})
			if err != nil {
				t.Fatal(err)
			}
			if len(after) != 0 {
				t.Errorf("left behind after it was removed: got %q, want nothing", after)
			}
		})
	}
}

// someCgroup is a hierarchy in which a cgroup can be made.
func someCgroup(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/sys/fs/cgroup/freezer", "/sys/fs/cgroup"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("no cgroup file system is mounted")
	return ""
}

// A container's process counts as left behind while it runs.
func TestLeakedProcess(t *testing.T) {
	Require(t, "root", "runc", "busybox")
	id := testID(t)
	before, err := traces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("container", func(t *testing.T) {
		RunRunc(t, t.TempDir(), id, testBundle(t, BundleOptions{}))
		left, err := leaked(before, []string{id})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(left, func(s string) bool {
			return strings.HasPrefix(s, "process ") && strings.Contains(s, "(/bin/workload)")
		}) {
			t.Errorf("left behind: got %q, want the container's process in it", left)
		}
	})
	left, err := leaked(before, []string{id})
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("after the container's end: got %q, want nothing", left)
	}
}

func TestMissing(t *testing.T) {
	if got, want := missing("no-such-program"), "no-such-program is needed and not installed"; got != want {
		t.Errorf("reason: got %q, want %q", got, want)
	}
	if got := missing("go"); got != "" {
		t.Errorf("reason for go: got %q, want none", got)
	}
	if err := checkCRIU("/bin/false"); err == nil {
		t.Error("a criu that fails its check was taken")
	}
}

func TestProgramsAreBuiltOnce(t *testing.T) {
	first, second := Workload(t), Workload(t)
	if first != second {
		t.Errorf("built twice: %s and %s", first, second)
	}
	if info, err := os.Stat(first); err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("%s is no program: %v", first, err)
	}
}

// Every runtime runs the workload, with the files of it where the test looks.
func TestRuntimes(t *testing.T) {
	Require(t, "root", "busybox")
	if InCgroups(t, CgroupViews(t)[0]) {
		return
	}
	for runtime, require := range map[string]func(testing.TB) string{
		"crun": RequireCrun, "runsc": RequireRunsc,
	} {
		t.Run(runtime, func(t *testing.T) {
			require(t)
			id := strings.ReplaceAll(testID(t), "/", "-")
			Leaks(t, id)
			shared := t.TempDir()
			opts := BundleOptions{
				Args:   []string{"/bin/workload", "--children", "1", "--status", "/shared/status"},
				Mounts: []specs.Mount{Bind(shared, "/shared")}, NoCgroupMount: true,
			}
			c := Run(t, runtime, t.TempDir(), id, testBundle(t, opts))
			c.Shared = shared
			c.WaitTick(t, 2)
			if got := c.Verify(t); got.PID != 1 {
				t.Errorf("pid in the container: got %d, want 1", got.PID)
			}
			if got, want := c.State(t).Status, specs.StateRunning; got != want {
				t.Errorf("state: got %s, want %s", got, want)
			}
		})
	}
}

func TestInCgroups(t *testing.T) {
	for _, view := range CgroupViews(t) {
		t.Run(view, func(t *testing.T) {
			before := read("/proc/self/mountinfo")
			if InCgroups(t, view) {
				if after := read("/proc/self/mountinfo"); after != before {
					t.Errorf("the machine's mounts: got %q afterwards, want %q", after, before)
				}
				return
			}
			if got, err := runtime.CgroupVersion(); err != nil || got != view {
				t.Errorf("cgroups here: got %s (%v), want %s", got, err, view)
			}
		})
	}
}
