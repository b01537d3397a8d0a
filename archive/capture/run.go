package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// Container is what the protocol does to a container.
type Container interface {
	// Pause freezes it; one that is paused already is no error.
	Pause(ctx context.Context) error
	// Resume thaws it and fails unless it runs afterwards; with an [ErrEnded] if it went on and has ended since.
	Resume(ctx context.Context) error
	// Kill ends it, frozen or not, and returns when it is gone.
	Kill(ctx context.Context) error
}

// Phase is how far a capture came.
type Phase string

// The phases, in order.
const (
	Prepared  Phase = "prepared"
	Pausing   Phase = "paused" // from before the pause command
	Dumped    Phase = "dumped"
	Committed Phase = "committed"
	Ended     Phase = "ended"
)

// Job is one capture.
type Job struct {
	// Target identifies the container in the journal.
	Target Target
	// LeaveRunning resumes the container as soon as images and files are captured;
	// otherwise it is killed after the commit.
	LeaveRunning bool
	// LeavePaused lets the container stand still when the archive is complete, and go on if
	// anything failed before.
	LeavePaused bool
	// WasPaused keeps a container paused that was found so, unless it is killed.
	WasPaused bool
	// EndInDump lets the dump itself kill the processes, after the commit.
	EndInDump bool
	// Temporary are files that the sink writes before its commit, for [Recover].
	Temporary []string

	// Dump writes the images below dir. With a non-nil frozen it calls it when they are complete,
	// while the processes are frozen, fails if it fails, and kills the processes if it does not; with nil
	// it leaves the processes as they were.
	Dump func(ctx context.Context, dir string, frozen func(context.Context) error) error
	// Collect adds what else belongs to the frozen moment to dir.
	Collect func(ctx context.Context, dir string) error
	// Seal adds what needs no frozen container, metadata above all, and opens dir as a source.
	Seal func(ctx context.Context, dir string) (archive.Source, error)
	// Sink takes the archive. Run commits it and does not close it.
	Sink archive.Sink
	Copy archive.CopyOptions

	// Guard, if set, starts a process that calls [AfterDeath] with the directory and then
	// [Recover], so that a killed capture does not leave the container paused.
	Guard func(dir string) error

	// OnPhase, if set, is told when a phase is reached.
	OnPhase func(Phase)
}

// resumeTimeout bounds what must happen even after an interrupt.
const resumeTimeout = time.Minute

// Run captures the container c. spool is the directory of all journals; the one of this
// run is gone when it returns, except when the container could not be put in its wanted
// state. An error is an [*Error], unless all is well but that the directory could not be removed.
func Run(ctx context.Context, spool string, c Container, job Job) error {
	j, err := begin(ctx, spool, job)
	if err != nil {
		return &Error{Phase: Prepared, State: Untouched, Err: err}
	}
	if job.Guard != nil {
		err = job.Guard(j.dir) // before the lock is shared: the guard waits for it
	}
	if err == nil {
		err = j.share()
	}
	if err != nil {
		return &Error{Phase: Prepared, State: Untouched, Err: errors.Join(err, j.remove())}
	}
	r := &run{c: c, job: job, journal: j, dir: filepath.Join(j.dir, archiveDir)}
	if job.EndInDump {
		err = r.inDump(ctx)
	} else {
		err = r.paused(ctx)
	}
	if r.keep {
		return errors.Join(err, j.release())
	}
	return errors.Join(err, j.remove())
}

// archiveDir holds the members of the archive inside a run's directory.
const archiveDir = "archive"

// ImagesDir is where the images of the run of the directory dir are.
func ImagesDir(dir string) string { return filepath.Join(dir, archiveDir, archive.CheckpointDir) }

type run struct {
	c       Container
	job     Job
	journal *journal
	dir     string
	resumed bool
	ended   bool // by itself, when it had been resumed
	keep    bool // the journal is still needed
}

func (r *run) reach(ctx context.Context, p Phase) error {
	if err := r.journal.advance(ctx, p); err != nil {
		return err
	}
	r.tell(p)
	return nil
}

func (r *run) tell(p Phase) {
	if r.job.OnPhase != nil {
		r.job.OnPhase(p)
	}
}

// paused is the normal order.
func (r *run) paused(ctx context.Context) error {
	if err := r.reach(ctx, Pausing); err != nil {
		return &Error{Phase: Prepared, State: Untouched, Err: err}
	}
	err := r.toCommit(ctx)
	if err != nil && !errors.Is(err, archive.ErrNotDurable) {
		return r.rollBack(ctx, err)
	}
	return r.end(ctx, err)
}

func (r *run) toCommit(ctx context.Context) error {
	if err := r.c.Pause(ctx); err != nil {
		return err
	}
	if err := r.job.Dump(ctx, r.dir, nil); err != nil {
		return err
	}
	if err := r.job.Collect(ctx, r.dir); err != nil {
		return err
	}
	if err := r.reach(ctx, Dumped); err != nil {
		return err
	}
	if r.job.LeaveRunning {
		if err := r.resume(ctx); err != nil {
			return err
		}
	}
	return r.write(ctx)
}

// write moves the captured directory into the sink and commits it.
func (r *run) write(ctx context.Context) (err error) {
	src, err := r.job.Seal(ctx, r.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if _, err := archive.Copy(ctx, r.job.Sink, src, r.job.Copy); err != nil {
		return err
	}
	return r.job.Sink.Commit(ctx)
}

func (r *run) resume(ctx context.Context) error {
	if r.job.WasPaused || r.resumed {
		return nil
	}
	err := r.c.Resume(ctx)
	r.ended = errors.Is(err, ErrEnded)
	if err != nil && !r.ended {
		return err
	}
	r.resumed = true
	return nil
}

// rollBack makes the container run again after cause, whatever has been interrupted.
func (r *run) rollBack(ctx context.Context, cause error) error {
	phase := r.journal.rec.Phase
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	if err := r.resume(ctx); err != nil {
		r.keep = true
		return &Error{Phase: phase, State: Lost, Err: errors.Join(cause, err)}
	}
	return &Error{Phase: phase, State: r.goesOn(), Err: cause}
}

// goesOn is what became of a container that was resumed.
func (r *run) goesOn() State {
	switch {
	case r.job.WasPaused:
		return StillPaused
	case r.ended:
		return Gone
	}
	return Running
}

// end does the last step. warning is an [archive.ErrNotDurable] or nil: then the
// container is never killed.
func (r *run) end(ctx context.Context, warning error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	err := r.reach(ctx, Committed)
	switch {
	case err != nil:
	case warning != nil || r.job.LeaveRunning:
		err = r.resume(ctx)
	case r.job.LeavePaused:
	default:
		err = r.c.Kill(ctx)
	}
	if err != nil {
		r.keep = true
		return &Error{Phase: Committed, State: Lost, Err: errors.Join(warning, err)}
	}
	if warning != nil {
		return &Error{Phase: Committed, State: r.goesOn(), Err: warning}
	}
	r.tell(Ended)
	return nil
}

// inDump lets CRIU hold the processes until the archive is durable. Beside it the container is paused:
// should CRIU die meanwhile, the processes do not go on with connections that are locked still.
func (r *run) inDump(ctx context.Context) error {
	committed := false
	err := r.job.Dump(ctx, r.dir, func(ctx context.Context) error {
		if err := r.reach(ctx, Dumped); err != nil {
			return err
		}
		if err := r.c.Pause(ctx); err != nil {
			return err
		}
		if err := r.job.Collect(ctx, r.dir); err != nil {
			return err
		}
		if err := r.write(ctx); err != nil {
			return err
		}
		committed = true
		if err := r.reach(context.WithoutCancel(ctx), Committed); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return r.resume(ctx) // what is frozen cannot be ended
	})
	if err == nil {
		r.tell(Ended)
		return nil
	}
	if !committed {
		return r.rollBack(ctx, err)
	}
	r.resumed = false // CRIU may have given up before or after it
	var failed *Error
	if err := r.rollBack(ctx, err); errors.As(err, &failed) {
		failed.Phase = Committed
		return failed
	}
	return err
}

// begin makes the run's directory and its journal.
func begin(ctx context.Context, spool string, job Job) (*journal, error) {
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool directory: %w", err)
	}
	return newJournal(ctx, spool, record{
		Version:    journalVersion,
		Phase:      Prepared,
		Target:     job.Target,
		Stop:       !job.LeaveRunning && !job.LeavePaused,
		StayPaused: job.LeavePaused,
		WasPaused:  job.WasPaused,
		EndInDump:  job.EndInDump,
		Temporary:  job.Temporary,
		BootID:     archive.BootID(),
	})
}
