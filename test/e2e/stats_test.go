package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

// timedStep is a step as --stats gives it in JSON.
type timedStep struct {
	Task  string `json:"task"`
	Bytes int64  `json:"bytes"`
	Time  int64  `json:"time"`
}

func hasStep(steps []timedStep, task string, bytes int64) bool {
	return slices.ContainsFunc(steps, func(s timedStep) bool { return s.Task == task && s.Time > 0 && s.Bytes >= bytes })
}

// TestStats: what export and restore tell of themselves, and what the archive keeps.
func TestStats(t *testing.T) {
	const mib = 1 << 20
	h := newHost(t)
	c := h.start("c", counts())
	for _, engine := range []string{"direct", "runtime"} {
		said := decode[struct {
			Stats archive.Stats `json:"stats"`
			Steps []timedStep   `json:"timings"`
		}](h.ok("--json", "export", "-R", "--stats", "--engine", engine, "--base", h.built.base, c.id, h.path(engine+".tar.zst")))
		s := said.Stats
		if s.PausingTime == 0 || s.DumpTime == 0 || s.RootfsTime == 0 || s.FrozenTime == 0 {
			t.Errorf("%s: times are missing: %+v", engine, s)
		}
		if sum := s.PausingTime + s.DumpTime + s.RootfsTime; s.PausedTime < sum || s.DumpTime < s.FrozenTime {
			t.Errorf("%s: the container stood still for %d microseconds, its parts took %d; the dump %d, CRIU's part of it %d", engine, s.PausedTime, sum, s.DumpTime, s.FrozenTime)
		}
		if !hasStep(said.Steps, "dump", 0) || !hasStep(said.Steps, "archive", 4*mib) {
			t.Errorf("%s: steps %+v, want the dump and the archive of its memory", engine, said.Steps)
		}
		// It was held in memory, whoever asked CRIU for the dump.
		if !hasStep(said.Steps, "pack", 4*mib) {
			t.Errorf("%s: steps %+v, want memory that was packed after the freeze", engine, said.Steps)
		}
		if kept := h.metadata(h.path(engine + ".tar.zst")).Stats; kept == nil || *kept != s {
			t.Errorf("%s: the archive keeps %+v, export says %+v", engine, kept, s)
		}
	}
	sent := decode[struct {
		Steps []timedStep `json:"timings"`
	}](h.ok("--json", "push", "--stats", h.path("direct.tar.zst"), "oci:"+h.path("layout")))
	if !hasStep(sent.Steps, "push", mib) {
		t.Errorf("push says %+v", sent)
	}
	o := h.ok("-q", "export", "--stats", "--base", h.built.base, c.id, h.path("c.tar"))
	for _, want := range []string{"stood still:", "frozen for CRIU:", "archive:", "MiB/s"} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("--stats does not tell %q: %s", want, o)
		}
	}
	for _, engine := range []string{"direct", "runtime"} {
		r := &container{t: t, h: h, id: h.id(engine), log: h.path(engine + ".log"), direct: engine == "direct"}
		t.Cleanup(r.remove)
		said := decode[struct {
			PID   int
			Stats struct{ PagesRestored, RestoreTime int64 }
			Steps []timedStep `json:"timings"`
		}](h.ok("--json", "restore", "--detach", "--stats", "--log", r.log, "--engine", engine, "--id", r.id, "--base", h.built.base, h.path("c.tar")))
		r.pid = said.PID
		if said.Stats.PagesRestored*4096 < 4*mib || said.Stats.RestoreTime == 0 || !hasStep(said.Steps, "unpack", 4*mib) || !hasStep(said.Steps, "restore", 0) {
			t.Errorf("%s: restore says %+v", engine, said)
		}
	}
}
