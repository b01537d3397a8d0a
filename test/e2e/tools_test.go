package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// checkpointctl is the tool of others that reads archives of this form.
func TestCheckpointctl(t *testing.T) {
	h := newHost(t, "checkpointctl")
	checkpointctl := env.Program(t, "checkpointctl")
	c := h.start("c", counts("--children", "1", "--tcp"))
	for _, file := range []string{"c.tar", "c.tar.gz", "c.tar.zst"} {
		path := c.export(file, "--leave-running", "--tcp-established", "--name", "the-counter", "--base", h.built.base)
		if got := command(t, checkpointctl, "show", path); !strings.Contains(got, "the-counter") || !strings.Contains(got, "runc") {
			t.Errorf("checkpointctl show %s says %s", file, got)
		}
		got := command(t, checkpointctl, "inspect", "--all", path)
		for _, want := range []string{"the-counter", "workload", "Process tree", "CRIU dump statistics", "Overview of mounts"} {
			if !strings.Contains(got, want) {
				t.Errorf("checkpointctl inspect --all %s does not say %q: %s", file, want, got)
			}
		}
	}
	one, two := h.path("c.tar.gz"), h.path("c.tar.zst")
	if got := command(t, checkpointctl, "memparse", "--pid", "1", "--search", "workload", two); !strings.Contains(got, "workload") {
		t.Errorf("checkpointctl memparse finds nothing: %s", got)
	}
	// It looks at the names that the kubelet gives.
	listed := h.path("checkpoint-pod_default-the-counter-2026-01-02T03:04:05Z.tar")
	if err := os.Link(two, listed); err != nil {
		t.Fatal(err)
	}
	if got := command(t, checkpointctl, "list", h.dir); !regexp.MustCompile(`(?m)the-counter\b.*checkpoint-pod_default`).MatchString(got) {
		t.Errorf("checkpointctl list says %s", got)
	}
	got := command(t, checkpointctl, "diff", "--files", "--sockets", "--ps-tree-cmd", "--show-unchanged", one, two)
	if !strings.Contains(got, "workload") {
		t.Errorf("checkpointctl diff says %s", got)
	}
	c.unharmed()
}
