package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// plain is the spec of an ordinary container without anything of its host.
func plain() *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{Args: []string{"sh"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
}

func TestRebuildPlain(t *testing.T) {
	archived := plain()
	res, err := Rebuild(archived, Options{Rootfs: "/r", Annotations: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := res.Spec.Root.Path, "/r"; got != want {
		t.Errorf("root path %q, want %q", got, want)
	}
	if got, want := res.Spec.Annotations["k"], "v"; got != want {
		t.Errorf("annotation %q, want %q", got, want)
	}
	if len(res.Dropped) != 0 {
		t.Errorf("dropped %v of a plain spec", res.Dropped)
	}
	if archived.Root.Path != "rootfs" || archived.Annotations != nil {
		t.Error("the archive's spec was changed")
	}
}

func TestRebuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*specs.Spec)
		opts Options
		what string
	}{
		{"bind", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: "/etc"})
		}, Options{}, `mount "/v"`},
		{"bind hidden by its type", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "none", Source: "/etc", Options: []string{"rbind"}})
		}, Options{}, `mount "/v"`},
		{"overlay", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "overlay", Options: []string{"lowerdir=/"}})
		}, Options{}, `mount "/v"`},
		{"dotdot", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/a/../../v", Type: "tmpfs"})
		}, Options{}, `mount "/a/../../v"`},
		{"mapping of nothing", func(*specs.Spec) {}, Options{Mounts: map[string]string{"/x": "/y"}}, "--map-mount /x"},
		{"namespace by path", func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/proc/1/ns/net" }, Options{}, "network namespace"},
		{"host pid namespace", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, Options{}, "pid namespace"},
		{"device", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/vda", Type: "b", Major: 254}}
		}, Options{}, "device /dev/vda"},
		{"seccomp listener", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/run/s"} }, Options{}, "seccomp listener"},
		{"shared root", func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" }, Options{}, "root propagation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := plain()
			tt.edit(s)
			_, err := Rebuild(s, tt.opts)
			var refused *RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("error %v, want a RefusedError", err)
			}
			if !slices.ContainsFunc(refused.Reasons, func(r Reason) bool { return r.What == tt.what }) {
				t.Errorf("reasons %v, want one for %s", refused.Reasons, tt.what)
			}
		})
	}
}

func TestRebuildGivesAllReasonsAtOnce(t *testing.T) {
	s := plain()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: "/etc"})
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/vda", Type: "b"}}
	_, err := Rebuild(s, Options{})
	if err == nil || !strings.Contains(err.Error(), "--map-mount /v=SOURCE") || !strings.Contains(err.Error(), "/dev/vda") {
		t.Errorf("error %v, want both reasons and the grant of the first", err)
	}
}

func TestRebuildGrantsAndDrops(t *testing.T) {
	s := plain()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: "/etc", Options: []string{"rbind", "ro"}})
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/evil"}}}
	s.Annotations = map[string]string{"org.criu.config": "/tmp/x", "org.systemd.property.ExecStopPost": "x", "mine": "kept"}
	s.Linux.CgroupsPath = "/../x"
	s.Process.ApparmorProfile = "unconfined"
	res, err := Rebuild(s, Options{Mounts: map[string]string{"/v": "/data"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Spec.Mounts[len(res.Spec.Mounts)-1]; got.Source != "/data" || !slices.Contains(got.Options, "ro") {
		t.Errorf("mount %+v, want the mapped source and the old options", got)
	}
	if res.Spec.Hooks != nil || res.Spec.Linux.CgroupsPath != "" || res.Spec.Process.ApparmorProfile != "" {
		t.Errorf("hooks, cgroup path or label survived: %+v", res.Spec)
	}
	if len(res.Spec.Annotations) != 1 || res.Spec.Annotations["mine"] != "kept" {
		t.Errorf("annotations %v, want only mine", res.Spec.Annotations)
	}
	if len(res.Dropped) != 5 {
		t.Errorf("dropped %v, want five things", res.Dropped)
	}
}
