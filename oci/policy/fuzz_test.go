package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// FuzzRebuild holds whatever passes without a grant against the promises one by one.
func FuzzRebuild(f *testing.F) {
	for _, tt := range beyond() {
		s := plain()
		tt.edit(s)
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	b, err := json.Marshal(plain())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s specs.Spec
		if json.Unmarshal(b, &s) != nil {
			return
		}
		res, err := Rebuild(&s, Options{Rootfs: "/r"})
		if err != nil {
			return
		}
		got := res.Spec
		if got.Hooks != nil || got.Root.Path != "/r" || len(got.Linux.Devices) > 0 && !usual(got.Linux.Devices) || got.Linux.CgroupsPath != "" {
			t.Errorf("hooks, root, devices or cgroup of the archive: %+v", got)
		}
		if len(res.Granted) > 0 || !res.Filter || got.Linux.Seccomp == nil || got.Linux.Seccomp.ListenerPath != "" {
			t.Errorf("granted %q, filter %+v", res.Granted, got.Linux.Seccomp)
		}
		for _, m := range got.Mounts {
			if archive.IsBind(m) || !kernelMount(m.Type) || strings.Contains(m.Destination+"/", "/../") {
				t.Errorf("mount %+v", m)
			}
		}
		for key := range got.Annotations {
			if strings.HasPrefix(key, "org.criu.") || strings.HasPrefix(key, "run.oci.") {
				t.Errorf("annotation %q", key)
			}
		}
		for _, ns := range got.Linux.Namespaces {
			if ns.Path != "" {
				t.Errorf("namespace %+v", ns)
			}
		}
		if len(Guarded(got)) != len(guarded()) {
			t.Errorf("open: masked %q, read-only %q", got.Linux.MaskedPaths, got.Linux.ReadonlyPaths)
		}
		if c := got.Process.Capabilities; c != nil {
			for _, name := range slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient) {
				if !slices.Contains(defaultCapabilities(), strings.TrimPrefix(name, capabilityPrefix)) {
					t.Errorf("capability %q", name)
				}
			}
		}
		if r := got.Linux.Resources.Devices[0]; r.Allow || r.Type != "" || r.Major != nil {
			t.Errorf("first rule for devices %+v", r)
		}
	})
}

func usual(devices []specs.LinuxDevice) bool {
	return !slices.ContainsFunc(devices, func(d specs.LinuxDevice) bool { return d.Type != "c" || d.Major != 1 && d.Major != 5 })
}
