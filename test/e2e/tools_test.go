package e2e

import (
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
	c.unharmed()
}
