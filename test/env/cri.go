package env

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// CRI is an engine that speaks the Container Runtime Interface, as the kubelet asks it to. It has
// storage, cgroups and sockets of its own, which go with the test.
type CRI struct {
	Engine string // "containerd" or "cri-o"

	dir    string // holds everything of it
	mark   string // is in the name of everything else
	config string // crictl's
	log    string // the server's output
	client string // ctr, if it is containerd
	load   func(tb testing.TB, archive, name string)
	pods   []string
}

// criTimeout bounds one command of crictl or of an engine.
const criTimeout = 2 * time.Minute

// criPause is an image of which the engines keep a pod's namespaces open.
const criPause = "localhost/interop/pause:1"

// RequireCRI is [Require] for the engines that `test/setup interop` builds, and gives the path of one
// of their programs.
func RequireCRI(tb testing.TB, program string) string {
	tb.Helper()
	Require(tb, "root", "criu", "runc")
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(cache, "ckarchive", "cri")
	if _, err := os.Stat(filepath.Join(dir, ".complete")); err != nil {
		skipOrFail(tb, "containerd and CRI-O are needed and not built (`test/setup interop`)")
	}
	return filepath.Join(dir, program)
}

// newCRI makes what both engines need. mark names the test on the machine.
func newCRI(tb testing.TB, engine, mark string) *CRI {
	tb.Helper()
	// Not below tb.TempDir: the name of a socket may have 107 bytes.
	dir, err := os.MkdirTemp(ShortTemp, mark+"-cri-")
	if err != nil {
		tb.Fatal(err)
	}
	c := &CRI{Engine: engine, dir: dir, mark: mark, config: filepath.Join(dir, "crictl.yaml"), log: filepath.Join(dir, "server.log")}
	tb.Cleanup(func() {
		err := errors.Join(removeCgroupsOf(c.cgroup()), os.RemoveAll(dir))
		if err != nil {
			tb.Errorf("clean up after %s: %v", engine, err)
		}
	})
	for _, name := range []string{"empty", "logs"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	c.write(tb, "crictl.yaml", fmt.Sprintf("runtime-endpoint: unix://%[1]s\nimage-endpoint: unix://%[1]s\ntimeout: 60\n", c.socket()))
	return c
}

func (c *CRI) socket() string { return filepath.Join(c.dir, "sock") }

// cgroup is the parent of all that the engine makes.
func (c *CRI) cgroup() string { return c.mark + "-cri" }

// removeCgroupsOf removes a cgroup and what is left below it, in every hierarchy.
func removeCgroupsOf(name string) error {
	tops, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", name))
	if err != nil {
		return err
	}
	for _, top := range tops {
		var dirs []string
		err = errors.Join(err, directories(top, func(dir string) { dirs = append(dirs, dir) }))
		for i := len(dirs) - 1; i >= 0; i-- { // children first
			if rmErr := os.Remove(dirs[i]); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
	}
	return err
}

func (c *CRI) write(tb testing.TB, name, content string) string {
	tb.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func (c *CRI) path(elem ...string) string { return filepath.Join(append([]string{c.dir}, elem...)...) }

// serve starts the server, which is stopped when the test ends, after its pods.
func (c *CRI) serve(tb testing.TB, program string, args ...string) {
	tb.Helper()
	output, err := os.Create(c.log)
	if err != nil {
		tb.Fatal(err)
	}
	defer output.Close() //nolint:errcheck // the server has its own
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+filepath.Dir(Program(tb, "criu"))+":"+os.Getenv("PATH"))
	// Should the test process be killed, the server is not to outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		c.removePods(tb)
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			tb.Errorf("stop %s: %v\n%s", c.Engine, err, read(c.log))
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		said, err := c.Try(tb, "version")
		if err == nil {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("%s does not answer: %s\n%s", c.Engine, said, read(c.log))
		}
	}
}

func (c *CRI) removePods(tb testing.TB) {
	tb.Helper()
	for _, pod := range c.pods {
		if said, err := c.Try(tb, "rmp", "--force", pod); err != nil {
			tb.Errorf("remove the pod of %s: %v: %s", c.Engine, err, said)
		}
	}
}

// Try runs crictl and gives all that it prints.
func (c *CRI) Try(tb testing.TB, args ...string) (string, error) {
	tb.Helper()
	return c.command(tb, RequireCRI(tb, "crictl"), append([]string{"--config", c.config}, args...)...)
}

// Crictl runs crictl, which has to succeed, and gives the last line that it prints.
func (c *CRI) Crictl(tb testing.TB, args ...string) string {
	tb.Helper()
	return c.run(tb, RequireCRI(tb, "crictl"), append([]string{"--config", c.config}, args...)...)
}

func (c *CRI) run(tb testing.TB, program string, args ...string) string {
	tb.Helper()
	said, err := c.command(tb, program, args...)
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s\n%s", filepath.Base(program), strings.Join(args, " "), err, said, read(c.log))
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return lines[len(lines)-1]
}

// command runs a program and gives what it prints to standard output, or all of it if it fails.
func (c *CRI) command(tb testing.TB, program string, args ...string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), criTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// tagOf is the tag of a name that has one and names no port.
func tagOf(name string) string {
	_, tag, _ := strings.Cut(name, ":")
	return tag
}

// Load puts an image into the engine's store: one of an OCI layout in a tar file, where it goes by its tag.
func (c *CRI) Load(tb testing.TB, archive, name string) {
	tb.Helper()
	c.load(tb, archive, name)
}

// Image makes an image of a root file system and gives its ID. It is the first one: pods are made of it too.
func (c *CRI) Image(tb testing.TB, rootfs, name string) string {
	tb.Helper()
	file := c.path("image.tar")
	id := OCIArchive(tb, rootfs, file, tagOf(name))
	c.Load(tb, file, criPause)
	c.Load(tb, file, name)
	return id
}

// Pod makes a pod in the network of the host, so that none has to be made.
func (c *CRI) Pod(tb testing.TB) *Pod {
	tb.Helper()
	name := fmt.Sprintf("pod%d", len(c.pods))
	p := &Pod{cri: c, config: c.json(tb, name+".json", map[string]any{
		"metadata":      map[string]any{"name": name, "namespace": "interop", "uid": c.mark + "-" + name, "attempt": 0},
		"log_directory": c.path("logs"),
		"linux":         map[string]any{"cgroup_parent": "/" + c.cgroup(), "security_context": criNamespaces()},
	})}
	p.ID = c.Crictl(tb, "runp", p.config)
	c.pods = append(c.pods, p.ID)
	return p
}

// criNamespaces are those of a container that a kubelet starts in the network of its node.
func criNamespaces() map[string]any {
	const container, node = 1, 2
	return map[string]any{
		"namespace_options": map[string]any{"network": node, "pid": container},
		"masked_paths":      Spec(BundleOptions{}).Linux.MaskedPaths,
		"readonly_paths":    Spec(BundleOptions{}).Linux.ReadonlyPaths,
	}
}

func (c *CRI) json(tb testing.TB, name string, v any) string {
	tb.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return c.write(tb, name, string(content))
}

// Pod is one of a [CRI].
type Pod struct {
	ID     string
	cri    *CRI
	config string
}

// Start creates and starts a container, or restores one: image is the name of an image, also of a
// checkpoint, or the path of a checkpoint.
func (p *Pod) Start(tb testing.TB, name, image string, args []string) *Container {
	tb.Helper()
	c := p.cri
	config := c.json(tb, "container.json", map[string]any{
		"metadata": map[string]any{"name": name, "attempt": 0},
		"image":    map[string]any{"image": image},
		"command":  args,
		"log_path": name + ".log",
		// The kubelet's own file; CRI-O wants to be told of it.
		"mounts": []any{map[string]any{"container_path": "/etc/hosts", "host_path": c.write(tb, "hosts", "127.0.0.1 localhost\n")}},
		"linux":  map[string]any{"security_context": criNamespaces()},
	})
	id := c.Crictl(tb, "create", p.ID, config, p.config)
	if said, err := c.Try(tb, "start", id); err != nil {
		tb.Fatalf("start %s: %v\n%s\n%s", image, err, said, read(c.log))
	}
	pid, err := strconv.Atoi(c.Crictl(tb, "inspect", "--output", "go-template", "--template", "{{.info.pid}}", id))
	if err != nil {
		tb.Fatalf("the PID of %s: %v", id, err)
	}
	return Watch(tb, Container{ID: id, PID: pid, Log: c.path("logs", name+".log")})
}

// Remove ends a container and removes it.
func (p *Pod) Remove(tb testing.TB, r *Container) {
	tb.Helper()
	p.cri.Crictl(tb, "stop", "--timeout", "0", r.ID)
	r.WaitEnd(tb)
	p.cri.Crictl(tb, "rm", r.ID)
}

// Checkpoint lets the engine write a checkpoint of a container, which goes on.
func (p *Pod) Checkpoint(tb testing.TB, r *Container, file string) {
	tb.Helper()
	p.cri.Crictl(tb, "checkpoint", "--export", file, r.ID)
}
