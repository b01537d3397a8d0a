package capture

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// orphan starts a program that inherits the lock of a run, and then lets the run die. It gives the run's
// directory, and what is closed when the program has ended.
func orphan(t *testing.T, spool string, phase Phase, script string) (dir string, ended <-chan struct{}) {
	t.Helper()
	j, err := newJournal(t.Context(), spool, record{Version: journalVersion, Phase: phase, BootID: archive.BootID(), Target: Target{ID: "c1"}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = j.dir
	cmd.ExtraFiles = []*os.File{j.lock}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = cmd.Wait() // a signal ends it
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
	})
	if err := j.release(); err != nil {
		t.Fatal(err)
	}
	return j.dir, gone
}

// isOver tells whether the program ends within a time.
func isOver(ended <-chan struct{}, within time.Duration) bool {
	select {
	case <-ended:
		return true
	case <-time.After(within):
		return false
	}
}

const (
	soon = 100 * time.Millisecond // for what is not to happen
	late = time.Minute            // for what has to happen, on any machine
)

// A program that waits for its dead run is released; only then is the run recovered.
func TestEndOrphans(t *testing.T) {
	spool := t.TempDir()
	dir, ended := orphan(t, spool, Dumped, "while ! [ -e released ]; do sleep 0.01; done")
	if done, err := Recover(t.Context(), spool, nil); err != nil || len(done) != 0 {
		t.Fatalf("recovered %v, %v while a program is at work", done, err)
	}
	release := func(images string) error {
		if images != ImagesDir(dir) {
			t.Errorf("released %q, want %q", images, ImagesDir(dir))
		}
		return os.WriteFile(filepath.Join(dir, "released"), nil, 0o600)
	}
	if err := EndOrphans(t.Context(), spool, release); err != nil {
		t.Fatal(err)
	}
	if !isOver(ended, late) {
		t.Error("the program is still at work")
	}
}

// One that was stopped, or that does not listen, is made to end.
func TestEndHolders(t *testing.T) {
	steps := []step{{unix.SIGCONT, 100 * time.Millisecond}, {unix.SIGTERM, 100 * time.Millisecond}, {unix.SIGKILL, late}}
	for name, script := range map[string]string{
		"sleeps":          "exec sleep 1000",
		"stopped":         "kill -STOP $$; exit 0",
		"does not listen": "trap '' TERM; while :; do sleep 0.01; done",
	} {
		t.Run(name, func(t *testing.T) {
			dir, ended := orphan(t, t.TempDir(), Dumped, script)
			if err := endHolders(t.Context(), filepath.Join(dir, lockFile), nil, steps); err != nil {
				t.Fatal(err)
			}
			if !isOver(ended, late) {
				t.Error("the program is still at work")
			}
		})
	}
}

// The programs of a run that lives are its own, those of a committed one do what was wanted, and who only waits for a
// run is none of its programs.
func TestEndOrphansLeavesOthersAlone(t *testing.T) {
	never := func(string) error { return errors.New("released") }
	spool := t.TempDir()
	dir, ended := orphan(t, spool, Dumped, "exec sleep 1000")
	living, err := lockPath(filepath.Join(dir, ownerFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := EndOrphans(t.Context(), spool, never); err != nil || isOver(ended, soon) {
		t.Errorf("of a living run: %v", err)
	}
	if err := living.Close(); err != nil {
		t.Fatal(err)
	}
	spool = t.TempDir()
	if _, ended = orphan(t, spool, Committed, "exec sleep 1000"); EndOrphans(t.Context(), spool, never) != nil || isOver(ended, soon) {
		t.Error("that of a committed run was ended")
	}
	spool = t.TempDir()
	leave(t, spool, record{Version: journalVersion, Phase: Dumped, Target: Target{ID: "c1"}})
	lock := filepath.Join(spool, entryOf(t, spool), lockFile)
	waiter := exec.Command("flock", "--shared", "--no-fork", lock, "sleep", "1000")
	if err := waiter.Start(); err != nil {
		t.Fatal(err)
	}
	if err := EndHolders(t.Context(), lock, nil); err != nil || waiter.Process.Signal(unix.Signal(0)) != nil {
		t.Errorf("a program that waits: %v", err)
	}
	if err := errors.Join(waiter.Process.Kill(), ignoreExit(waiter.Wait())); err != nil {
		t.Error(err)
	}
}

func ignoreExit(err error) error {
	if err != nil && strings.Contains(err.Error(), "killed") {
		return nil
	}
	return err
}

func entryOf(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v: want one", entries, err)
	}
	return entries[0].Name()
}
