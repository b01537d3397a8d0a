package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// statsFlag asks for statistics.
type statsFlag struct {
	Stats bool `help:"Tell how long each step took and how much went through it; with --json in the result."`
}

// step is a part of a command's work that is over.
type step struct {
	Task  string `json:"task"`
	Bytes int64  `json:"bytes,omitempty"`
	Time  int64  `json:"time"` // microseconds
}

// timings are the steps of the command so far, if they are wanted.
func (f statsFlag) timings(a *app) []step {
	if !f.Stats {
		return nil
	}
	return a.steps
}

// statRow is one line of statistics.
type statRow struct {
	what  string
	time  int64 // microseconds; 0: it has none
	bytes int64 // 0: it has none
}

// print shows the steps, and then what else is known.
func (f statsFlag) print(a *app, more []statRow) error {
	if !f.Stats || a.cli.JSON {
		return nil // the result has them
	}
	w := tabwriter.NewWriter(a.stderr, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, s := range a.steps {
		statRow{s.Task, s.Time, s.Bytes}.write(w)
	}
	for _, r := range more {
		r.write(w)
	}
	return w.Flush()
}

func (r statRow) write(w io.Writer) {
	took, size, speed := "", "", ""
	if r.time > 0 {
		took = time.Duration(r.time * int64(time.Microsecond)).Round(100 * time.Microsecond).String()
	}
	if r.bytes > 0 {
		size = units.BytesSize(float64(r.bytes))
	}
	if r.time > 0 && r.bytes > 0 {
		speed = units.BytesSize(float64(r.bytes)*float64(time.Second/time.Microsecond)/float64(r.time)) + "/s"
	}
	fmt.Fprintf(w, "%s:\t%s\t%s\t%s\t\n", r.what, took, size, speed)
}

// dumpRows are the statistics of a dump that the archive keeps.
func dumpRows(s *archive.Stats) []statRow {
	if s == nil {
		return nil
	}
	const page = 4096
	return []statRow{
		{"stood still", micros(s.PausedTime), 0},
		{"paused by the runtime in", micros(s.PausingTime), 0},
		{"frozen by CRIU in", micros(s.FreezingTime), 0},
		{"frozen for CRIU", micros(s.FrozenTime), 0},
		{"memory read by CRIU", micros(s.MemdumpTime), int64(s.PagesScanned) * page},     //nolint:gosec // a count of pages
		{"memory written by CRIU", micros(s.MemwriteTime), int64(s.PagesWritten) * page}, //nolint:gosec // a count of pages
	}
}

// statRows are the statistics of a restore.
func (r *restore) statRows() []statRow {
	if r.stats == nil {
		return nil
	}
	const page = 4096
	return []statRow{
		{"tasks made by CRIU", micros(r.stats.ForkingTime), 0},
		{"restored by CRIU", micros(r.stats.RestoreTime), int64(r.stats.PagesRestored) * page}, //nolint:gosec // a count of pages
	}
}

func micros(n uint64) int64 { return int64(n) } //nolint:gosec // a duration

// stopwatch takes the times of a capture from outside of CRIU.
type stopwatch struct {
	paused, pausing, dumped, collect, resumed time.Time
	end                                       time.Time // of collecting
	packed                                    time.Duration
}

// dumping begins the dump, and with CRIU's own freeze the standstill, unless the runtime has done so.
func (s *stopwatch) dumping() {
	s.dumped = time.Now()
	if s.paused.IsZero() {
		s.paused = s.dumped
	}
}

func (s *stopwatch) collecting() { s.collect = time.Now() }

func (s *stopwatch) collected() { s.end = time.Now() }

// packing ends the compression that began then.
func (s *stopwatch) packing(began time.Time) { s.packed = time.Since(began) }

// note puts the times into the metadata.
func (s *stopwatch) note(m *archive.Metadata) {
	if m.Stats == nil {
		m.Stats = &archive.Stats{}
	}
	still := s.end
	if !s.resumed.IsZero() {
		still = s.resumed
	}
	m.Stats.PausedTime = between(s.paused, still)
	m.Stats.PausingTime = between(s.paused, s.pausing)
	m.Stats.DumpTime = between(s.dumped, s.collect)
	m.Stats.RootfsTime = between(s.collect, s.end)
	m.Stats.PackTime = uint64(s.packed.Microseconds()) //nolint:gosec // never negative
}

// between is a time in microseconds, 0 if one of its ends was not reached.
func between(from, to time.Time) uint64 {
	if from.IsZero() || to.Before(from) {
		return 0
	}
	return uint64(cmp.Or(to.Sub(from).Microseconds(), 1)) //nolint:gosec // never negative
}

// timed is a container whose standstill is measured.
type timed struct {
	*runtime.Container
	watch *stopwatch
}

// Pause implements [capture.Container].
func (t timed) Pause(ctx context.Context) error {
	if t.watch.paused.IsZero() {
		t.watch.paused = time.Now()
	}
	err := t.Container.Pause(ctx)
	if t.watch.dumped.IsZero() {
		t.watch.pausing = time.Now()
	}
	return err
}

// Resume implements [capture.Container].
func (t timed) Resume(ctx context.Context) error {
	err := letGoOn(ctx, t.Container)
	t.watch.resumed = time.Now()
	return err
}
