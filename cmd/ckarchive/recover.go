package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ckarchive/ckarchive/archive/capture"
)

// recoverCmd puts right what a killed process left.
type recoverCmd struct{}

// recoverResult is one of the list that --json prints.
type recoverResult struct {
	capture.Recovery
	Error string `json:"error,omitempty"` // why it could not be
}

// Run implements the command.
func (c *recoverCmd) Run(ctx context.Context, a *app) error {
	if err := needRoot("recover"); err != nil {
		return err
	}
	done, busy, err := a.recoverWork(ctx)
	if err != nil {
		return err
	}
	var failed error
	results := []recoverResult{}
	for _, r := range done {
		res := recoverResult{Recovery: r}
		if r.Err != nil {
			failed = errors.Join(failed, &environmentError{fmt.Errorf("recover container %q: %w", r.Target.ID, r.Err)})
			res.Error = r.Err.Error()
		}
		results = append(results, res)
	}
	if a.cli.JSON {
		return errors.Join(failed, a.printJSON(results))
	}
	for _, r := range done {
		if r.Err == nil {
			if err := a.printResult(fmt.Sprintf("%s: %s", r.Target.ID, r.Action), nil); err != nil {
				return err
			}
		}
	}
	for _, id := range busy {
		a.say("container %q: a restore is still at work; try again when it has ended", id)
	}
	if len(done) == 0 && len(busy) == 0 {
		a.say("nothing to recover")
	}
	return failed
}
