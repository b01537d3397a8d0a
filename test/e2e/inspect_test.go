package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
)

// What inspect tells of memory adds up to what was dumped, and secrets are not shown unasked.
func TestInspectMemoryAndEnvironment(t *testing.T) {
	h := newHost(t)
	opts := counts("--children", "1")
	opts.Env = []string{"DB_PASSWORD=never shown", "STAGE=test"}
	c := h.start("c", opts)
	path := c.export("c.tar.zst", "--leave-running", "--base", h.built.base)

	type inspected struct {
		Environment []string         `json:"environment"`
		Metadata    archive.Metadata `json:"metadata"`
		Images      criu.Inspection  `json:"images"`
	}
	o := h.ok("--json", "inspect", "--tree", "--env", path)
	in := decode[inspected](o)
	total, names := uint64(0), []string{}
	var add func(p *criu.Process)
	add = func(p *criu.Process) {
		for _, m := range p.Memory {
			total += m.Dumped
			names = append(names, m.Name)
		}
		for _, child := range p.Children {
			add(child)
		}
	}
	add(in.Images.Root)
	if want := uint64(in.Metadata.Container.MemoryBytes); total != want || total < 4<<20 {
		t.Errorf("the mappings have %d bytes, the pages files %d", total, want)
	}
	for _, want := range []string{"[anonymous]", "[stack]", "/bin/workload"} {
		if !slices.Contains(names, want) {
			t.Errorf("no mapping is of %s: %q", want, names)
		}
	}
	if strings.Contains(o.stdout, "never shown") || !slices.Contains(in.Environment, "STAGE=test") {
		t.Errorf("environment %q", in.Environment)
	}
	if o := h.ok("inspect", "--env", "--show-secrets", path); !strings.Contains(o.stdout, "never shown") {
		t.Errorf("a secret that was asked for is not shown: %s", o)
	}
	if o := h.ok("inspect", path); strings.Contains(o.stdout, "STAGE") {
		t.Errorf("an environment that nobody asked for: %s", o)
	}
	c.unharmed()
}
