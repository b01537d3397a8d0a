package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ckarchive/ckarchive/archive"
)

// Recovery is what [Recover] did about one dead run.
type Recovery struct {
	Target Target `json:"target"`
	Phase  Phase  `json:"phase"`  // how far the run had come
	Action string `json:"action"` // what was done, for a person
	Err    error  `json:"-"`      // why it could not be; the journal is kept
}

// Unlocker is a [Container] of which a killed dump may have left something locked, as its network.
type Unlocker interface {
	// Unlock undoes that; nothing locked is no error.
	Unlock(ctx context.Context) error
}

// Recover finishes the runs below spool whose process is gone: before the commit the container
// resumes and what was half written is removed; after it the container is ended as was
// wanted. open finds the container of a journal; a nil Container says that it is
// gone. Doing it twice does nothing the second time.
func Recover(ctx context.Context, spool string, open func(context.Context, Target) (Container, error)) ([]Recovery, error) {
	entries, err := os.ReadDir(spool)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for unfinished work: %w", err)
	}
	var all []Recovery
	for _, e := range entries {
		j, err := openJournal(filepath.Join(spool, e.Name()))
		if errors.Is(err, ErrBusy) || errors.Is(err, fs.ErrNotExist) {
			continue // it is at work, or has ended since
		}
		if err != nil {
			all = append(all, Recovery{Action: "left alone", Err: err})
			continue
		}
		all = append(all, j.recover(ctx, open))
	}
	return all, nil
}

func (j *journal) recover(ctx context.Context, open func(context.Context, Target) (Container, error)) Recovery {
	res := Recovery{Target: j.rec.Target, Phase: j.rec.Phase}
	res.Action, res.Err = j.settle(ctx, open)
	for _, temp := range j.rec.Temporary {
		if err := archive.RemoveTree(temp); err != nil {
			res.Err = errors.Join(res.Err, err)
		}
	}
	if res.Err != nil {
		res.Err = errors.Join(res.Err, j.release())
		return res
	}
	res.Err = j.remove()
	return res
}

// settle puts the container in the state that the run wanted for it.
func (j *journal) settle(ctx context.Context, open func(context.Context, Target) (Container, error)) (string, error) {
	if j.rec.Phase == Prepared && !j.rec.EndInDump || j.rec.BootID != archive.BootID() {
		// It was never touched; or it went with the machine.
		return "removed the spool", nil
	}
	c, err := open(ctx, j.rec.Target)
	switch {
	case err != nil:
		return "left alone", fmt.Errorf("find container %q: %w", j.rec.Target.ID, err)
	case c == nil:
		return "removed the spool: the container is gone", nil
	}
	if locked, ok := c.(Unlocker); ok {
		if err := locked.Unlock(ctx); err != nil {
			return "left alone", err
		}
	}
	switch {
	case j.rec.Phase == Committed && j.rec.Stop && !j.rec.EndInDump: // whose connections would be ended with it
		if err := c.Kill(ctx); err != nil {
			return "left alone", err
		}
		return "ended the container: its archive is complete", nil
	case j.rec.Phase == Committed && j.rec.StayPaused:
		return "removed the spool: the container stays paused, as was wanted", nil
	case j.rec.WasPaused:
		return "removed the spool: the container stays paused, as it was found", nil
	}
	switch err := c.Resume(ctx); {
	case errors.Is(err, ErrEnded):
		return "resumed the container, which has ended since", nil
	case err != nil:
		return "left alone", err
	}
	return "resumed the container", nil
}
