package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

// Every step that an engine's rules demand is told, with the checkpoint's own names.
func TestRestoreSteps(t *testing.T) {
	const ref, id = "registry.example.com/web@sha256:0123", "ae32e3d0"
	notes := map[string]string{"org.criu.checkpoint.rootfsImageName": "docker.io/library/web:1", "org.criu.checkpoint.rootfsImageID": "sha256:" + id}
	for _, test := range []struct {
		engine, file string
		want         []string // in this order
	}{
		{"podman", "", []string{"podman pull docker.io/library/web:1", "podman pull " + ref, "podman container restore " + ref}},
		{"podman", "/x.tar", []string{"podman pull docker.io/library/web:1", "podman container restore --import /x.tar"}},
		{"cri-o", "", []string{"enable_criu_support = true", "crictl pull docker.io/library/web:1", "crictl pull " + ref, `{"image": "` + ref + `"}`, "crictl create", "crictl start"}},
		{"containerd", "", []string{"enable_experimental_restore_via_create = true", "ctr -n k8s.io images tag docker.io/library/web:1 " + id, "crictl pull " + ref, "crictl start"}},
		{"containerd", "/x.tar", []string{"ctr -n k8s.io images tag", `{"image": "/x.tar"}`}},
	} {
		steps := restoreSteps(test.engine, ref, test.file, notes)
		at := -1
		for _, want := range test.want {
			next := slices.IndexFunc(steps, func(s string) bool { return strings.Contains(s, want) })
			if next <= at {
				t.Errorf("%s %s: %q is not told in its place: %q", test.engine, test.file, want, steps)
			}
			at = next
		}
	}
	if steps := restoreSteps("podman", ref, "", nil); !strings.Contains(steps[0], "BASE-IMAGE") {
		t.Errorf("what is not known is made up: %q", steps)
	}
}

// Podman's archives do not say with which options they were made: ours do, and it is told.
func TestPodmanFlags(t *testing.T) {
	meta := &archive.Metadata{Options: map[string]string{"tcp-established": "true", "file-locks": "false", "shell-job": "true"}}
	if got, want := podmanFlags(meta), []string{"--tcp-established"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
