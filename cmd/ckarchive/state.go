package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// restoreState is CONTAINERS/ID/restore.json: what a restored container is and how far its
// restore came.
type restoreState struct {
	ID          string `json:"id"`
	Phase       string `json:"phase"`
	Runtime     string `json:"runtime"`
	RuntimePath string `json:"runtimePath"`
	RuntimeRoot string `json:"runtimeRoot"`
	Rootfs      string `json:"rootfs"`
	Bundle      string `json:"bundle"`
	MadeBundle  bool   `json:"madeBundle"`
	// Cgroups are the directories in which nothing but this container is.
	Cgroups []string `json:"cgroups,omitempty"`
}

const (
	stateRestoring = "restoring"
	stateRunning   = "running"
	stateFile      = "restore.json"
	// workLock is a lock in the home that a runtime or CRIU at work on a restore holds.
	workLock = "work.lock"
)

func (r *restore) writeState(ctx context.Context, phase string) error {
	b, err := json.MarshalIndent(restoreState{
		ID: r.id, Phase: phase, Runtime: r.runtime.Name, RuntimePath: r.runtime.Path, RuntimeRoot: r.runtime.Root,
		Rootfs: r.rootfs, Bundle: r.bundle, MadeBundle: r.madeBundle, Cgroups: r.cgroups,
	}, "", "  ")
	if err != nil {
		return err
	}
	return archive.WriteFileAtomic(context.WithoutCancel(ctx), filepath.Join(r.home, stateFile), append(b, '\n'))
}

// recoverAll puts right what killed processes left, and says so.
func (a *app) recoverAll(ctx context.Context) error {
	done, _, err := a.recoverWork(ctx)
	if err != nil {
		return err
	}
	for _, r := range done {
		if r.Err != nil {
			a.warn("recover container %q: %v", r.Target.ID, r.Err)
			continue
		}
		a.say("recovered: container %q: %s", r.Target.ID, r.Action)
	}
	return nil
}

// recoverWork settles what killed exports and restores left. busy are the restores at which a
// process is still at work.
func (a *app) recoverWork(ctx context.Context) (done []capture.Recovery, busy []string, err error) {
	archive.RemoveScratch("")
	if done, err = a.recoverCaptures(ctx); err != nil {
		return nil, nil, err
	}
	more, busy, err := a.recoverRestores(ctx)
	return append(done, more...), busy, err
}

func (a *app) recoverCaptures(ctx context.Context) ([]capture.Recovery, error) {
	if err := capture.EndOrphans(ctx, a.spoolDir(), criu.ReleasePipes); err != nil {
		a.warn("%v", err)
	}
	return capture.Recover(ctx, a.spoolDir(), func(ctx context.Context, t capture.Target) (capture.Container, error) {
		ctr, err := targetContainer(ctx, t)
		if errors.Is(err, runtime.ErrNotFound) || err == nil && ctr.Status == runtime.Stopped {
			return nil, nil //nolint:nilnil // a container that is gone
		}
		if err != nil {
			return nil, err
		}
		if ctr.PID != t.PID || runtime.StartTime(ctr.PID) != t.StartTime {
			return nil, nil //nolint:nilnil // another container of that ID
		}
		return interrupted{ctr}, nil
	})
}

// interrupted is a container whose capture was killed, maybe in the middle of CRIU's dump.
type interrupted struct{ *runtime.Container }

var _ capture.Unlocker = interrupted{}

// Unlock gives it back its connections.
func (c interrupted) Unlock(ctx context.Context) error {
	if sandboxed(c.Container) {
		return nil // CRIU was never near it
	}
	return criu.Unlock(ctx, c.PID)
}

// Resume implements [capture.Container].
func (c interrupted) Resume(ctx context.Context) error { return letGoOn(ctx, c.Container) }

// letGoOn resumes a container, and tells package capture an end of its own from a failure.
func letGoOn(ctx context.Context, c *runtime.Container) error {
	err := c.Resume(ctx)
	if errors.Is(err, runtime.ErrEnded) {
		return fmt.Errorf("%w: %w", capture.ErrEnded, err)
	}
	return err
}

// targetContainer finds the container of a journal, with the runtime that made it.
func targetContainer(ctx context.Context, t capture.Target) (*runtime.Container, error) {
	name := t.RuntimePath
	if name == "" {
		name = t.Runtime
	}
	rt, err := runtime.Lookup(name, t.RuntimeRoot)
	if err != nil {
		return nil, err
	}
	return rt.Container(ctx, t.ID)
}

// recoverRestores removes what restores left whose process is gone. busy are those at which a
// process is still at work.
func (a *app) recoverRestores(ctx context.Context) (done []capture.Recovery, busy []string, err error) {
	entries, err := os.ReadDir(a.containersDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look for unfinished restores: %w", err)
	}
	for _, e := range entries {
		home := a.containerHome(e.Name())
		var st restoreState
		b, err := os.ReadFile(filepath.Join(home, stateFile))
		if err == nil {
			err = json.Unmarshal(b, &st)
		}
		if err == nil && st.Phase != stateRestoring {
			continue
		}
		unlock, lerr := a.lock("restore-" + e.Name())
		if errors.Is(lerr, capture.ErrBusy) {
			if err == nil {
				busy = append(busy, e.Name())
			}
			continue
		}
		if lerr != nil {
			return nil, nil, lerr
		}
		res := capture.Recovery{
			Target: capture.Target{ID: e.Name(), Runtime: st.Runtime, RuntimePath: st.RuntimePath, RuntimeRoot: st.RuntimeRoot},
			Action: "removed an unfinished restore",
		}
		res.Err = a.removeRestore(ctx, home, st)
		unlock()
		done = append(done, res)
	}
	return done, busy, nil
}

// removeRestore removes a restore that did not end: first what is still at work for it, then what the runtime has of
// it, and what CRIU had made of its processes.
func (a *app) removeRestore(ctx context.Context, home string, st restoreState) error {
	if err := capture.EndHolders(ctx, filepath.Join(home, workLock), nil); err != nil {
		return err
	}
	if st.Runtime != "" && st.Runtime != runtime.Direct {
		rt, err := runtime.Lookup(st.RuntimePath, st.RuntimeRoot)
		if err != nil {
			return err
		}
		if err := rt.Discard(ctx, st.ID); err != nil {
			return err
		}
	}
	if err := runtime.EndCgroups(ctx, st.Cgroups); err != nil {
		return err
	}
	if st.Runtime == runtime.Direct {
		if err := runtime.DiscardRecord(st.RuntimeRoot, st.ID); err != nil {
			return err
		}
	}
	if st.MadeBundle {
		if err := archive.RemoveTree(st.Bundle); err != nil {
			return err
		}
	}
	return archive.RemoveTree(home)
}

// removeHomes removes what ckarchive made for restored containers that their runtime no
// longer knows, and counts them.
func (a *app) removeHomes(ctx context.Context, dryRun bool) (int, error) {
	entries, err := os.ReadDir(a.containersDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("look for leftovers of containers: %w", err)
	}
	n := 0
	for _, e := range entries {
		home := a.containerHome(e.Name())
		b, err := os.ReadFile(filepath.Join(home, stateFile))
		if err != nil {
			continue
		}
		var st restoreState
		if err := json.Unmarshal(b, &st); err != nil || st.Phase != stateRunning {
			continue
		}
		ctr, err := targetContainer(ctx, capture.Target{ID: st.ID, Runtime: st.Runtime, RuntimePath: st.RuntimePath, RuntimeRoot: st.RuntimeRoot})
		// Of the containers that ended, those without a runtime are ours to delete.
		ended := err == nil && st.Runtime == runtime.Direct && ctr.Status == runtime.Stopped
		if !ended && !errors.Is(err, runtime.ErrNotFound) {
			continue
		}
		n++
		if dryRun {
			continue
		}
		if ended {
			if err := ctr.Delete(ctx); err != nil {
				return n, err
			}
		}
		if err := archive.RemoveTree(home); err != nil {
			return n, err
		}
	}
	return n, nil
}
