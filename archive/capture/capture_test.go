package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

// fakeContainer notes what is done to it and fails where it is told to.
type fakeContainer struct {
	did  []string
	fail string
	ends bool // when it has been resumed
}

func (c *fakeContainer) do(ctx context.Context, what string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.did = append(c.did, what)
	if c.fail == what {
		return errors.New("cannot " + what)
	}
	return nil
}

func (c *fakeContainer) Pause(ctx context.Context) error { return c.do(ctx, "pause") }
func (c *fakeContainer) Kill(ctx context.Context) error  { return c.do(ctx, "kill") }

func (c *fakeContainer) Resume(ctx context.Context) error {
	if err := c.do(ctx, "resume"); err != nil || !c.ends {
		return err
	}
	return fmt.Errorf("resume: %w", ErrEnded)
}

// lockedContainer is one that a killed dump left locked.
type lockedContainer struct{ *fakeContainer }

func (c lockedContainer) Unlock(ctx context.Context) error { return c.do(ctx, "unlock") }

// fakeSink notes its commit among the container's events.
type fakeSink struct {
	archive.Discard
	c   *fakeContainer
	err error
}

func (s *fakeSink) Commit(ctx context.Context) error {
	if err := s.c.do(ctx, "commit"); err != nil {
		return err
	}
	return s.err
}

// newJob is a job that captures one file.
func newJob(c *fakeContainer) Job {
	return Job{
		Target: Target{ID: "c1", Runtime: "fake", PID: 1},
		Dump: func(ctx context.Context, dir string, frozen func(context.Context) error) error {
			if err := c.do(ctx, "dump"); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "config.dump"), []byte("{}"), 0o600); err != nil {
				return err
			}
			if frozen == nil {
				return nil
			}
			if err := frozen(ctx); err != nil {
				return err
			}
			return c.do(ctx, "criu-kill")
		},
		Collect: func(ctx context.Context, _ string) error { return c.do(ctx, "collect") },
		Seal: func(ctx context.Context, dir string) (archive.Source, error) {
			if err := c.do(ctx, "seal"); err != nil {
				return nil, err
			}
			return archive.OpenDir(dir, archive.DirOptions{})
		},
		Sink: &fakeSink{c: c},
	}
}

func TestRunOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Job)
		want string
	}{
		{"stop", func(*Job) {}, "pause dump collect seal commit kill"},
		{"leave running", func(j *Job) { j.LeaveRunning = true }, "pause dump collect resume seal commit"},
		{"found paused", func(j *Job) { j.LeaveRunning, j.WasPaused = true, true }, "pause dump collect seal commit"},
		{"found paused, stop", func(j *Job) { j.WasPaused = true }, "pause dump collect seal commit kill"},
		{"leave paused", func(j *Job) { j.LeavePaused = true }, "pause dump collect seal commit"},
		{"end in dump", func(j *Job) { j.EndInDump = true }, "dump pause collect seal commit resume criu-kill"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spool := t.TempDir()
			c := &fakeContainer{}
			job := newJob(c)
			tt.edit(&job)
			if err := Run(t.Context(), spool, c, job); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(c.did, " "); got != tt.want {
				t.Errorf("order %q, want %q", got, tt.want)
			}
			wantEmpty(t, spool)
		})
	}
}

// TestRunFailures fails each step in turn: before the commit the container runs again, and
// it is never killed.
func TestRunFailures(t *testing.T) {
	for _, tt := range []struct {
		step     string
		edit     func(*Job)
		state    State
		archived bool
		left     bool // the journal stays
	}{
		{"pause", nil, Running, false, false},
		{"dump", nil, Running, false, false},
		{"collect", nil, Running, false, false},
		{"seal", nil, Running, false, false},
		{"commit", nil, Running, false, false},
		{"kill", nil, Lost, true, true},
		{"dump", func(j *Job) { j.WasPaused = true }, StillPaused, false, false},
		{"resume", func(j *Job) { j.LeaveRunning = true }, Lost, false, true},
		{"seal", func(j *Job) { j.LeaveRunning = true }, Running, false, false},
		{"commit", func(j *Job) { j.LeavePaused = true }, Running, false, false},
		{"collect", func(j *Job) { j.EndInDump = true }, Running, false, false},
		{"commit", func(j *Job) { j.EndInDump = true }, Running, false, false},
		{"criu-kill", func(j *Job) { j.EndInDump = true }, Running, true, false},
		{"pause", func(j *Job) { j.EndInDump = true }, Running, false, false},
		{"resume", func(j *Job) { j.EndInDump = true }, Lost, true, true},
	} {
		t.Run(tt.step+" "+string(tt.state), func(t *testing.T) {
			spool := t.TempDir()
			c := &fakeContainer{fail: tt.step}
			job := newJob(c)
			if tt.edit != nil {
				tt.edit(&job)
			}
			err := Run(t.Context(), spool, c, job)
			var ce *Error
			if !errors.As(err, &ce) {
				t.Fatalf("error %v, want an *Error", err)
			}
			if ce.State != tt.state || ce.Archived() != tt.archived {
				t.Errorf("state %q, archived %v, want %q, %v", ce.State, ce.Archived(), tt.state, tt.archived)
			}
			if !strings.Contains(err.Error(), "cannot "+tt.step) {
				t.Errorf("error %q does not tell the reason", err)
			}
			if tt.step != "kill" && slices.Contains(c.did, "kill") {
				t.Errorf("the container was killed: %v", c.did)
			}
			if !tt.left {
				wantEmpty(t, spool)
			}
		})
	}
}

// A container that comes to its end while it stands still has ended when it goes on: nobody's failure.
func TestRunEnded(t *testing.T) {
	for fail, want := range map[string]State{"": "", "dump": Gone, "seal": Gone, "commit": Gone} {
		t.Run(fail, func(t *testing.T) {
			spool := t.TempDir()
			c := &fakeContainer{fail: fail, ends: true}
			job := newJob(c)
			job.LeaveRunning = true
			err := Run(t.Context(), spool, c, job)
			var failed *Error
			if errors.As(err, &failed) != (fail != "") || failed != nil && failed.State != want {
				t.Errorf("error %v, want the state %q", err, want)
			}
			if fail == "" && c.did[len(c.did)-1] != "commit" {
				t.Errorf("did %q, want a commit at last", c.did)
			}
			wantEmpty(t, spool)
		})
	}
}

func TestRunInterrupted(t *testing.T) {
	for _, step := range []string{"dump", "collect", "seal"} {
		t.Run(step, func(t *testing.T) {
			spool := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			c := &fakeContainer{}
			job := newJob(c)
			collect, seal, dump := job.Collect, job.Seal, job.Dump
			job.Dump = func(ctx context.Context, dir string, f func(context.Context) error) error {
				if step == "dump" {
					cancel()
				}
				return dump(ctx, dir, f)
			}
			job.Collect = func(ctx context.Context, dir string) error {
				if step == "collect" {
					cancel()
				}
				return collect(ctx, dir)
			}
			job.Seal = func(ctx context.Context, dir string) (archive.Source, error) {
				if step == "seal" {
					cancel()
				}
				return seal(ctx, dir)
			}
			err := Run(ctx, spool, c, job)
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("error %v, want the cancellation", err)
			}
			if got := c.did[len(c.did)-1]; got != "resume" {
				t.Errorf("last step %q of %v, want resume", got, c.did)
			}
			wantEmpty(t, spool)
		})
	}
}

func TestRunNotDurable(t *testing.T) {
	c := &fakeContainer{}
	job := newJob(c)
	job.Sink = &fakeSink{c: c, err: archive.ErrNotDurable}
	err := Run(t.Context(), t.TempDir(), c, job)
	var ce *Error
	if !errors.As(err, &ce) || !ce.Archived() || ce.State != Running {
		t.Fatalf("error %v, want an archive that is there and a container that runs", err)
	}
	if slices.Contains(c.did, "kill") {
		t.Error("the container was killed although the archive may be lost")
	}
}

// TestRecover leaves a journal of each phase as a killed process would.
func TestRecover(t *testing.T) {
	for _, tt := range []struct {
		name string
		rec  record
		want string
	}{
		{"prepared", record{Phase: Prepared}, ""},
		{"paused", record{Phase: Pausing, Stop: true}, "unlock resume"},
		{"dumped", record{Phase: Dumped, Stop: true}, "unlock resume"},
		{"found paused", record{Phase: Dumped, Stop: true, WasPaused: true}, "unlock"},
		{"committed, stop", record{Phase: Committed, Stop: true}, "unlock kill"},
		{"committed, resume", record{Phase: Committed}, "unlock resume"},
		{"dumped, to stay paused", record{Phase: Dumped, StayPaused: true}, "unlock resume"},
		{"committed, to stay paused", record{Phase: Committed, StayPaused: true}, "unlock"},
		{"end in dump", record{Phase: Dumped, Stop: true, EndInDump: true}, "unlock resume"},
		{"end in dump, nothing captured", record{Phase: Prepared, Stop: true, EndInDump: true}, "unlock resume"},
		{"end in dump, committed", record{Phase: Committed, Stop: true, EndInDump: true}, "unlock resume"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spool := t.TempDir()
			temp := filepath.Join(t.TempDir(), "half")
			if err := os.WriteFile(temp, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			tt.rec.Version, tt.rec.BootID = journalVersion, archive.BootID()
			tt.rec.Target, tt.rec.Temporary = Target{ID: "c1"}, []string{temp}
			leave(t, spool, tt.rec)
			c := &fakeContainer{}
			open := func(context.Context, Target) (Container, error) { return lockedContainer{c}, nil }
			done, err := Recover(t.Context(), spool, open)
			if err != nil || len(done) != 1 || done[0].Err != nil {
				t.Fatalf("recovered %v, %v", done, err)
			}
			if got := strings.Join(c.did, " "); got != tt.want {
				t.Errorf("did %q, want %q", got, tt.want)
			}
			if _, err := os.Stat(temp); !errors.Is(err, os.ErrNotExist) {
				t.Error("the half-written file is still there")
			}
			wantEmpty(t, spool)
			if done, err := Recover(t.Context(), spool, open); err != nil || len(done) != 0 {
				t.Errorf("second time: %v, %v", done, err)
			}
		})
	}
}

// leave makes a journal and lets go of its lock.
func leave(t *testing.T, spool string, rec record) {
	t.Helper()
	j, err := newJournal(t.Context(), spool, rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.release(); err != nil {
		t.Fatal(err)
	}
}

func TestRecoverLeavesTheLivingAlone(t *testing.T) {
	spool := t.TempDir()
	j, err := newJournal(t.Context(), spool, record{Version: journalVersion, Phase: Dumped, Target: Target{ID: "c1"}})
	if err != nil {
		t.Fatal(err)
	}
	done, err := Recover(t.Context(), spool, func(context.Context, Target) (Container, error) {
		t.Error("looked for the container of a living run")
		return nil, io.EOF
	})
	if err != nil || len(done) != 0 {
		t.Errorf("recovered %v, %v", done, err)
	}
	if err := j.remove(); err != nil {
		t.Fatal(err)
	}
}

func TestScratch(t *testing.T) {
	spool := filepath.Join(t.TempDir(), "spool")
	recovered := func() int {
		t.Helper()
		done, err := Recover(t.Context(), spool, nil)
		if err != nil || len(done) > 0 && done[0].Err != nil {
			t.Fatal(done, err)
		}
		return len(done)
	}
	dir, closing, err := Scratch(t.Context(), spool, "copy")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := recovered(); n != 0 {
		t.Errorf("recovered %d that are in use", n)
	}
	if err := closing(); err != nil {
		t.Fatal(err)
	}
	leave(t, spool, record{Version: journalVersion, Phase: Prepared, Target: Target{ID: "copy"}})
	if n := recovered(); n != 1 {
		t.Errorf("recovered %d, want that of the dead process", n)
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// Runs that begin and end while others look for dead ones: none of them is taken for one, and none is in the way.
func TestRecoverBesideOthers(t *testing.T) {
	spool := t.TempDir()
	var runs, looks sync.WaitGroup
	over := make(chan struct{})
	for range 4 {
		runs.Go(func() {
			for range 40 {
				_, closing, err := Scratch(t.Context(), spool, "copy")
				if err == nil {
					err = closing()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		looks.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				found, err := Recover(t.Context(), spool, nil)
				if err == nil {
					err = EndOrphans(t.Context(), spool, func(string) error { return nil })
				}
				if err != nil || len(found) > 0 {
					t.Errorf("found %v, error %v", found, err)
					return
				}
			}
		})
	}
	runs.Wait()
	close(over)
	looks.Wait()
}

func TestRecoverKeepsWhatItCannotSettle(t *testing.T) {
	spool := t.TempDir()
	leave(t, spool, record{Version: journalVersion, Phase: Dumped, BootID: archive.BootID(), Target: Target{ID: "c1"}})
	fail := func(context.Context, Target) (Container, error) { return nil, errors.New("no runtime") }
	done, err := Recover(t.Context(), spool, fail)
	if err != nil || len(done) != 1 || done[0].Err == nil {
		t.Fatalf("recovered %v, %v, want one failure", done, err)
	}
	c := &fakeContainer{}
	if _, err := Recover(t.Context(), spool, func(context.Context, Target) (Container, error) { return c, nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.did, " "); got != "resume" {
		t.Errorf("second time did %q, want resume", got)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	f, err := Lock(dir, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir, "a/b"); !errors.Is(err, ErrBusy) {
		t.Errorf("second lock: %v, want ErrBusy", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(dir, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 0 {
		t.Errorf("%d runs left in the spool", len(entries))
	}
}
