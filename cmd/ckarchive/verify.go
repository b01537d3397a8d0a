package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/archive"
)

// verifyCmd proves a checkpoint.
type verifyCmd struct {
	Source string `arg:"" name:"src" help:"The checkpoint."`
	Pull   string `help:"When a registry is asked: ${enum}." enum:"missing,always,never" default:"missing"`
	remoteFlags
}

// verifyResult is what --json prints.
type verifyResult struct {
	Source  string    `json:"source"`
	Proven  bool      `json:"proven"` // false: no digests to compare with
	Members int       `json:"members"`
	Bytes   int64     `json:"bytes"`
	Created time.Time `json:"created,omitzero"`
}

// Run implements the command.
func (c *verifyCmd) Run(ctx context.Context, a *app) (err error) {
	loc, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	src, err := a.openSource(ctx, loc, sourceOptions{Pull: c.Pull, Stream: true, Remote: c.remoteFlags})
	if err != nil {
		return cause(ctx, fmt.Errorf("verify %s: %w", c.Source, err))
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	p := a.newProgress()
	t := p.begin("verify", 0)
	rep, err := archive.Verify(ctx, src, archive.CopyOptions{OnBytes: t.add})
	p.close(err)
	if err != nil {
		return cause(ctx, fmt.Errorf("verify %s: %w", c.Source, err))
	}
	res := verifyResult{Source: c.Source, Proven: rep.Proven, Members: rep.Entries, Bytes: rep.Bytes}
	verdict := "well-formed, but it carries no digests to prove them"
	if rep.Proven {
		res.Members, res.Created = len(rep.Metadata.Members), rep.Metadata.Created
		verdict = "whole, and every digest is right"
	}
	text := fmt.Sprintf("%s: %d members, %s: %s", c.Source, res.Members, units.BytesSize(float64(rep.Bytes)), verdict)
	return a.printResult(oneLine(text), res)
}
