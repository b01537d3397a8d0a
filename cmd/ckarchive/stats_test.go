package main

import (
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// TestStopwatch: the standstill ends when the container goes on, and where it does not, when everything of
// it is captured.
func TestStopwatch(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1700000000, 0).Add(time.Duration(ms) * time.Millisecond) }
	s := stopwatch{paused: at(0), pausing: at(5), dumped: at(7), collect: at(107), end: at(127), packed: time.Second}
	m := archive.Metadata{Stats: &archive.Stats{FrozenTime: 42}}
	s.note(&m)
	want := archive.Stats{FrozenTime: 42, PausedTime: 127_000, PausingTime: 5000, DumpTime: 100_000, RootfsTime: 20_000, PackTime: 1_000_000}
	if *m.Stats != want {
		t.Errorf("a container that is stopped: %+v, want %+v", *m.Stats, want)
	}
	s.resumed = at(130)
	s.note(&m)
	if want.PausedTime = 130_000; *m.Stats != want {
		t.Errorf("one that goes on: %+v, want %+v", *m.Stats, want)
	}
	m.Stats = nil
	(&stopwatch{dumped: at(0), paused: at(0), collect: at(1)}).note(&m)
	if want := (archive.Stats{DumpTime: 1000}); *m.Stats != want {
		t.Errorf("one that was never collected: %+v, want %+v", *m.Stats, want)
	}
}
