package foreign_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

// specOf is the runtime configuration of a checkpoint that was converted.
func specOf(t *testing.T, file string, opts foreign.ConvertOptions) (spec specs.Spec, raw string) {
	t.Helper()
	list, err := archivetest.Read(t.Context(), convert(t, reading(file), opts))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.Name == archive.SpecDump {
			if err := json.Unmarshal(f.Content, &spec); err != nil {
				t.Fatal(err)
			}
			raw = string(f.Content)
		}
	}
	return spec, raw
}

// containerd's client hands the configuration to the runtime as it is: nothing in it may be of the engine that is not there.
func TestConvertForClient(t *testing.T) {
	files, err := filepath.Glob("testdata/*.tar.zst")
	if err != nil || len(files) < 4 {
		t.Fatalf("test data: %q, %v", files, err)
	}
	needs := map[string][]string{
		"containerd-cri.tar.zst": {"/proc/10782/ns/net"},
		"podman-volume.tar.zst":  {"/tmp/h1/root/volumes/vol1/_data", "/run/netns/netns-b62fed2a-24ca-8b70-5173-f2598a8787cf"},
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			before, _ := specOf(t, file, foreign.ConvertOptions{Target: foreign.ForAll})
			after, raw := specOf(t, file, foreign.ConvertOptions{Target: foreign.ForClient, OwnTmpfs: []string{"/dev/shm"}})
			if after.Root.Path != "rootfs" || after.Linux.CgroupsPath != "" {
				t.Errorf("root %q, cgroup %q", after.Root.Path, after.Linux.CgroupsPath)
			}
			if len(after.Mounts) != len(before.Mounts) || len(after.Linux.Namespaces) != len(before.Linux.Namespaces) || !slices.Equal(after.Process.Args, before.Process.Args) {
				t.Errorf("something is missing: %s", raw)
			}
			for _, m := range after.Mounts {
				switch {
				case strings.HasPrefix(m.Destination, "/etc/") && m.Source != m.Destination:
					t.Errorf("%s is made of %s", m.Destination, m.Source)
				case m.Destination == "/dev/shm" && (m.Type != "tmpfs" || m.Source != "shm" || archive.IsBind(m) || slices.Contains(m.Options, "rprivate")):
					t.Errorf("/dev/shm is %+v", m)
				}
			}
			for i, ns := range after.Linux.Namespaces {
				if kept := ns.Type == specs.NetworkNamespace; kept && ns != before.Linux.Namespaces[i] || !kept && ns.Path != "" {
					t.Errorf("namespace %+v", ns)
				}
			}
			if got := foreign.NeededByClient(&after, []string{"/run/.containerenv"}); !slices.Equal(got, needs[filepath.Base(file)]) {
				t.Errorf("it needs %q", got)
			}
		})
	}
}

// CRI-O wants every mount of the configuration in its request: what CRIU makes again is not in it.
func TestConvertForCRIO(t *testing.T) {
	const file = "testdata/podman-volume.tar.zst"
	find := func(target foreign.Target, dest string) bool {
		spec, _ := specOf(t, file, foreign.ConvertOptions{Target: target})
		return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == dest })
	}
	for dest, want := range map[string]bool{"/tmpf": false, "/dev": true, "/dev/shm": true, "/etc/hosts": true} {
		if got := find(foreign.ForCRIO, dest); got != want {
			t.Errorf("%s is in the configuration for CRI-O: %t, want %t", dest, got, want)
		}
		if !find(foreign.ForPodman, dest) {
			t.Errorf("%s is not in Podman's", dest)
		}
	}
}
