package matrix

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// ofPodman is a container that Podman runs with runc.
func ofPodman() source {
	return source{
		name: "direct of podman", needs: []string{"podman", "runc", "conmon"},
		start: startPodman, export: func(*host) []string { return nil },
		allow: []string{"--allow", "host:network"},
		maps:  []string{"/etc/hosts", "/etc/hostname", "/dev/shm"},
	}
}

func startPodman(h *host) *env.Container {
	h.t.Helper()
	// Podman allows 50 characters for the name of its run root.
	run, err := os.MkdirTemp(env.ShortTemp, "podman")
	if err != nil {
		h.t.Fatal(err)
	}
	graph := h.path("graph")
	podman := []string{
		env.Program(h.t, "podman"), "--root", graph, "--runroot", filepath.Join(run, "root"), "--tmpdir", filepath.Join(run, "tmp"),
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
	}
	h.t.Cleanup(func() {
		// Podman mounts the directory of its layers on itself.
		for _, dir := range []string{filepath.Join(graph, "overlay"), graph} {
			err := unix.Unmount(dir, unix.MNT_DETACH)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				h.t.Errorf("unmount %s: %v", dir, err)
			}
		}
		if err := os.RemoveAll(run); err != nil {
			h.t.Errorf("remove podman's run root: %v", err)
		}
	})
	log := h.path("podman.log")
	args := append(podman[:len(podman):len(podman)],
		"run", "--detach", "--name", h.token, "--network", "none", "--log-driver", "k8s-file", "--log-opt", "path="+log,
		// Podman's own limits need more capabilities than a container that runs this test may have.
		"--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1024:1024",
		// Version 2 of a hybrid machine has no controllers to limit anything.
		"--pids-limit", "-1",
		"--tmpfs", "/cache", "--volume", h.path("volume")+":/vol", "--rootfs", h.base+":O")
	id := strings.TrimSpace(command(h.t, append(args, workload()...)...))
	h.t.Cleanup(func() {
		out, err := exec.Command(podman[0], append(podman[1:len(podman):len(podman)], "rm", "--force", "--time", "0", "--ignore", id)...).CombinedOutput()
		if err != nil {
			h.t.Errorf("podman rm: %v: %s", err, out)
		}
	})
	pid := strings.TrimSpace(command(h.t, append(podman[:len(podman):len(podman)], "inspect", "--format", "{{.State.Pid}}", id)...))
	return h.foreign(id, pid, log)
}

// ofContainerd is a container that containerd runs with runc.
func ofContainerd() source {
	return source{
		name: "direct of containerd", needs: []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc"},
		start: startContainerd,
		export: func(h *host) []string {
			return []string{"--runtime", "runc", "--runtime-root", h.path("runtime", "default")}
		},
	}
}

func startContainerd(h *host) *env.Container {
	h.t.Helper()
	// A socket's name may have 107 bytes.
	run, err := os.MkdirTemp(env.ShortTemp, "ctrd")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := os.RemoveAll(run); err != nil {
			h.t.Errorf("remove containerd's state: %v", err)
		}
	})
	config, log := filepath.Join(run, "config.toml"), h.path("containerd.log")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		h.path("containerd"), filepath.Join(run, "state"), filepath.Join(run, "sock"), filepath.Join(run, "ttrpc"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	output, err := os.Create(log)
	if err != nil {
		h.t.Fatal(err)
	}
	defer output.Close()
	cmd := exec.Command(env.Program(h.t, "containerd"), "--config", config)
	cmd.Stdout, cmd.Stderr = output, output
	// Should the test process be killed, the server is not to outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			h.t.Errorf("stop containerd: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("stop containerd: %v", err)
		}
	})
	ctr := []string{env.Program(h.t, "ctr"), "--address", filepath.Join(run, "sock")}
	h.await(log, func() bool { return exec.Command(ctr[0], append(ctr[1:len(ctr):len(ctr)], "version")...).Run() == nil })
	h.copyRootfs(h.path("rootfs"))
	out := h.path("ctr.log")
	args := append(ctr[:len(ctr):len(ctr)], "run", "--detach", "--rootfs", "--cpu-shares", "0", "--runc-root", h.path("runtime"), "--log-uri", "file://"+out,
		"--mount", "type=bind,src="+h.path("volume")+",dst=/vol,options=rbind:rw", "--mount", "type=tmpfs,src=tmpfs,dst=/cache",
		h.path("rootfs"), h.token)
	command(h.t, append(args, workload()...)...)
	h.t.Cleanup(func() {
		for _, verb := range [][]string{{"task", "delete", "--force"}, {"container", "delete"}} {
			if out, err := exec.Command(ctr[0], append(append(ctr[1:len(ctr):len(ctr)], verb...), h.token)...).CombinedOutput(); err != nil {
				h.t.Errorf("ctr %s: %v: %s", verb[0], err, out)
			}
		}
	})
	for line := range strings.Lines(command(h.t, append(ctr[:len(ctr):len(ctr)], "task", "list")...)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == h.token {
			return h.foreign(h.token, f[1], out)
		}
	}
	h.t.Fatal("containerd does not list its task")
	return nil
}

// foreign is a container that an engine looks after.
func (h *host) foreign(id, pid, log string) *env.Container {
	h.t.Helper()
	number, err := strconv.Atoi(pid)
	if err != nil {
		h.t.Fatal(err)
	}
	return env.Watch(h.t, env.Container{ID: id, PID: number, Log: log})
}

// await waits until something is so; log is shown when it does not come to be.
func (h *host) await(log string, ready func() bool) {
	h.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			content, _ := os.ReadFile(log) //nolint:errcheck // the failure stands without it
			h.t.Fatalf("it does not come to be:\n%s", content)
		}
	}
}
