package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// parseRestore is a restore with these flags, of an archive without options.
func parseRestore(t *testing.T, flags ...string) *restore {
	t.Helper()
	a := &app{stdin: os.Stdin, stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	p, err := a.newParser()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(append(append([]string{"restore"}, flags...), "x.tar")); err != nil {
		t.Fatal(err)
	}
	a.cli.Quiet = true
	return &restore{
		cmd: &a.cli.Restore, app: a, meta: &archive.Metadata{}, id: "c", home: "/home", bundle: "/none", rootfs: "/r", own: true,
		spec: &specs.Spec{Version: "1.0.2", Process: &specs.Process{}, Root: &specs.Root{}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
		}}},
	}
}

// fakeRuntime is a runtime of that kind that is never run.
func fakeRuntime(t *testing.T, name string) runtime.Runtime {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/false\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	rt, err := runtime.Lookup(path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

var directRuntime = runtime.Runtime{Name: runtime.Direct}

// handed is all that an engine is told.
func handed(t *testing.T, r *restore, rt runtime.Runtime) []any {
	t.Helper()
	var err error
	r.runtime = rt
	if r.options, err = settle(r.cmd, r.meta.Options, rt); err != nil {
		t.Fatal(err)
	}
	spec, err := r.rebuildSpec()
	if err != nil {
		t.Fatal(err)
	}
	files, err := r.cmd.inheritedFiles()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	if rt.Name == runtime.Direct {
		o, err := r.criuOptions("/i", spec, files)
		if err != nil {
			t.Fatal(err)
		}
		return []any{o, r.lockOptions()}
	}
	config, err := r.configOptions(files)
	if err != nil {
		t.Fatal(err)
	}
	o := r.runtimeOptions("/i", nil, files)
	if len(o.Inherited) != len(config.Inherit) {
		t.Errorf("the configuration names %v and %d descriptors are handed over", config.Inherit, len(o.Inherited))
	}
	return []any{o, config, spec, r.lockOptions()}
}

// Each option changes what the engines that have it are told, and is refused by the others.
func TestRestoreOptionsReachTheEngines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "criu.conf")
	if err := os.WriteFile(file, []byte("ghost-limit 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // as one that the caller left open
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	inherit := "fd[" + strconv.Itoa(fd) + "]:socket[77]"
	arguments := map[string][]string{
		"manage-cgroups-mode": {"--manage-cgroups-mode", "full"}, "cgroup-path": {"--cgroup-path", "/a/b"},
		"network-lock": {"--network-lock", "skip"}, "lsm-profile": {"--lsm-profile", "apparmor:x"}, "lsm-mount-context": {"--lsm-mount-context", "system_u:x"},
		"namespace": {"--namespace", "net=/proc/self/ns/net"}, "external": {"--external", "unix[7]"},
		"inherit-fd": {"--inherit-fd", inherit}, "veth": {"--veth", "eth0=host0@br0"}, "criu-config": {"--criu-config", file},
	}
	for _, o := range restoreOptions() {
		flags := arguments[o.flag]
		if flags == nil {
			flags = []string{"--" + o.flag}
		}
		for _, rt := range []runtime.Runtime{directRuntime, fakeRuntime(t, "runc"), fakeRuntime(t, "crun")} {
			t.Run(rt.Name+" "+o.flag, func(t *testing.T) {
				r := parseRestore(t, flags...)
				if _, err := settle(r.cmd, nil, rt); o.refusal(rt) != "" {
					var usage *usageError
					if !errors.As(err, &usage) || usage.hint == "" {
						t.Errorf("error %v, want a usage error with a hint", err)
					}
					return
				}
				plain, got := handed(t, parseRestore(t), rt), handed(t, r, rt)
				if reflect.DeepEqual(plain, got) {
					t.Errorf("%s changes nothing: %+v", strings.Join(flags, " "), got)
				}
			})
		}
	}
	for _, want := range []struct{ flag, runtime string }{{"veth", "runc"}, {"no-pivot", "direct"}, {"no-pivot", "crun"}, {"manage-cgroups-mode", "crun"}} {
		i := slices.IndexFunc(restoreOptions(), func(o restoreOption) bool { return o.flag == want.flag })
		rt := directRuntime
		if want.runtime != runtime.Direct {
			rt = fakeRuntime(t, want.runtime)
		}
		if restoreOptions()[i].refusal(rt) == "" {
			t.Errorf("%s takes --%s", want.runtime, want.flag)
		}
	}
}

func TestSettle(t *testing.T) {
	for name, tt := range map[string]struct {
		flags  []string
		dumped map[string]string
		want   string
	}{
		"nothing":              {nil, nil, "none"},
		"as dumped":            {nil, map[string]string{"tcp-established": "true", "file-locks": "true"}, "--tcp-established (as dumped), --file-locks (as dumped)"},
		"given":                {[]string{"--file-locks"}, map[string]string{"file-locks": "true"}, "--file-locks"},
		"refused":              {[]string{"--no-file-locks", "--shell-job=false"}, map[string]string{"file-locks": "true", "shell-job": "true", "ext-unix-sk": "true"}, "--ext-unix-sk (as dumped)"},
		"closed instead":       {[]string{"--tcp-close"}, map[string]string{"tcp-established": "true"}, "--tcp-close"},
		"established instead":  {[]string{"--tcp-established"}, map[string]string{"tcp-close": "true"}, "--tcp-established"},
		"neither":              {[]string{"--no-tcp-established"}, map[string]string{"tcp-established": "true"}, "none"},
		"cgroups as dumped":    {nil, map[string]string{"manage-cgroups-mode": "ignore"}, "--manage-cgroups-mode ignore (as dumped)"},
		"cgroups given":        {[]string{"--manage-cgroups-mode", "full"}, map[string]string{"manage-cgroups-mode": "ignore"}, "--manage-cgroups-mode full"},
		"not of a dump":        {nil, map[string]string{"lsm-profile": "apparmor:unconfined", "external": "x", "link-remap": "true", "file-locks": "yes"}, "none"},
		"no mode of cgroups":   {nil, map[string]string{"manage-cgroups-mode": "--evil"}, "none"},
		"mounts and the modes": {[]string{"--mntns-compat-mode"}, map[string]string{"skip-file-rwx-check": "true"}, "--skip-file-rwx-check (as dumped), --mntns-compat-mode"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := settle(parseRestore(t, tt.flags...).cmd, tt.dumped, directRuntime)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.describe(); got != tt.want {
				t.Errorf("options %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRestoreFlagsRefused(t *testing.T) {
	for _, flags := range [][]string{
		{"--tcp-established", "--tcp-close"},
		{"--manage-cgroups-mode", "hard"},
		{"--network-lock", "ufw"},
		{"--cgroup-path", "a"},
		{"--cgroup-path", "/a/../b"},
		{"--cgroup-path", "/"},
		{"--lsm-profile", "unconfined"},
		{"--namespace", "mount=/proc/self/ns/mnt"},
		{"--namespace", "net=/nowhere"},
		{"--namespace", "net=proc/self/ns/net"},
		{"--inherit-fd", "3:socket[7]"},
		{"--inherit-fd", "fd[9999]:socket[7]"},
		{"--veth", "eth0"},
		{"--veth", "eth0=host0@"},
		{"--veth", "eth0=a-name-that-is-too-long"},
		{"--veth", "eth0=a", "--veth", "eth0=b"},
	} {
		if err := parseRestore(t, flags...).cmd.check(); err == nil {
			t.Errorf("%s: no error", strings.Join(flags, " "))
		}
	}
}

// A descriptor that ckarchive opened for itself is not one of the caller's.
func TestInheritFDOfOurOwn(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := (&restoreFlags{InheritFD: []string{"fd[" + strconv.Itoa(int(f.Fd())) + "]:socket[7]"}}).inherited(); err == nil {
		t.Error("a descriptor with close-on-exec was taken for the caller's")
	}
}
