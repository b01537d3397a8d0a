package matrix

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// full is the variable with which `make matrix` asks for the whole table.
const full = "CKARCHIVE_MATRIX_FULL"

// tokens is the variable with the beginning of the ID of every container of this run.
const tokens = "CKARCHIVE_MATRIX_TOKENS"

// TestMatrix is the table for the kind of cgroups that this machine has.
func TestMatrix(t *testing.T) {
	view := env.CgroupViews(t)[0]
	if inCgroups(t, view) {
		return
	}
	table := newTable(view)
	for _, s := range sources() {
		if !s.quick && os.Getenv(full) == "" {
			continue
		}
		t.Run(s.name, func(t *testing.T) { row(t, s, table) })
	}
	table.print()
}

// TestMatrixUnified is the whole table with cgroups of version 2.
func TestMatrixUnified(t *testing.T) {
	if os.Getenv(full) == "" {
		t.Skip("a part of `make matrix`")
	}
	if env.CgroupViews(t)[0] == env.CgroupV2 {
		t.Skip("TestMatrix was it")
	}
	if inCgroups(t, env.CgroupV2) {
		return
	}
	table := newTable(env.CgroupV2)
	for _, s := range sources() {
		t.Run(s.name, func(t *testing.T) { row(t, s, table) })
	}
	table.print()
}

// inCgroups is [env.InCgroups], after which nothing may be left in the hierarchies that the
// test does not see: CRIU sees them all.
func inCgroups(t *testing.T, view string) bool {
	if os.Getenv(tokens) == "" {
		t.Setenv(tokens, fmt.Sprintf("matrix%d", os.Getpid()))
		env.Leaks(t, os.Getenv(tokens)+"-")
	}
	return env.InCgroups(t, view)
}

// row dumps one container and restores it once for each column.
func row(t *testing.T, s source, table *table) {
	for _, d := range destinations() {
		*table.cell(s.name, d.name) = "FAILED"
	}
	h := newHost(t, s.needs...)
	running := s.start(h)
	running.WaitTick(t, 5)
	archive := h.path("container.tar.zst")
	args := append(append([]string{"export", "--base", h.base}, s.export(h)...), running.ID, archive)
	h.ok(args...)
	running.WaitEnd(t)
	for _, d := range destinations() {
		cell := table.cell(s.name, d.name)
		t.Run("to "+d.name, func(t *testing.T) {
			env.Require(t, d.needs...)
			reason, says := s.impossible(d)
			if reason != "" {
				other := newHost(t, d.needs...)
				other.refused(says, other.restoreArgs(archive, d, s)...)
				*cell = reason
				return
			}
			arrive(t, h, running, archive, d, s)
			*cell = "yes"
		})
	}
}

// arrive restores the archive on another host and has the workload say that nothing is lost.
func arrive(t *testing.T, from *host, before *env.Container, archive string, d destination, s source) {
	h := newHost(t, d.needs...)
	h.copyVolume(from)
	after := h.restore(archive, d, s)
	last := lastTick(t, before.Log)
	after.WaitTick(t, uint64(last)+5)
	if got := after.Verify(t); got.PID != 1 {
		t.Errorf("pid in the container: got %d, want 1", got.PID)
	}
	// The restored container's output begins where the other one's ended, of which the last may still be on its way into the log.
	h.await(before.Log, func() bool { return firstTick(t, after.Log) <= lastTick(t, before.Log)+1 })
	if got, want := firstTick(t, after.Log), lastTick(t, before.Log)+1; got != want {
		t.Errorf("first tick after the restore: got %d, want %d", got, want)
	}
	if d.name != env.Direct {
		if got := after.State(t).Status; got != "running" {
			t.Errorf("%s says that the container is %s, want running", d.name, got)
		}
	}
}

func ticks(t *testing.T, log string) []int {
	t.Helper()
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for line := range strings.Lines(string(content)) {
		line = line[max(0, strings.Index(line, "tick ")):] // Podman's log begins with the time
		var n int
		if _, err := fmt.Sscanf(line, "tick %d\n", &n); err == nil && strings.HasSuffix(line, "\n") {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		t.Fatalf("no ticks in %s: %q", filepath.Base(log), content)
	}
	return all
}

func lastTick(t *testing.T, log string) int  { all := ticks(t, log); return all[len(all)-1] }
func firstTick(t *testing.T, log string) int { return ticks(t, log)[0] }

// A table collects the cells of a run.
type table struct {
	view  string
	rows  []string
	cells map[[2]string]*string
}

func newTable(view string) *table { return &table{view: view, cells: map[[2]string]*string{}} }

func (m *table) cell(row, column string) *string {
	key := [2]string{row, column}
	if len(m.rows) == 0 || m.rows[len(m.rows)-1] != row {
		m.rows = append(m.rows, row)
	}
	if m.cells[key] == nil {
		m.cells[key] = new(string)
	}
	return m.cells[key]
}

// print writes the table as Markdown.
func (m *table) print() {
	head, rule := "| cgroups "+m.view+": dumped by \\ restored by |", "|---|"
	for _, d := range destinations() {
		head += " " + d.name + " |"
		rule += "---|"
	}
	fmt.Printf("\n%s\n%s\n", head, rule)
	for _, row := range m.rows {
		fmt.Printf("| %s |", row)
		for _, d := range destinations() {
			fmt.Printf(" %s |", *m.cells[[2]string{row, d.name}])
		}
		fmt.Println()
	}
	fmt.Println()
}
