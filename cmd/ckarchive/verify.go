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
	Source string   `arg:"" name:"src" predictor:"checkpoint" help:"The checkpoint."`
	Pull   string   `help:"When a registry is asked: ${enum}." enum:"missing,always,never" default:"missing"`
	Key    []string `help:"Public key of which one has to have signed it; may be repeated. By default the trust file says it." sep:"none" placeholder:"FILE"`
	remoteFlags
}

// verifyResult is what --json prints.
type verifyResult struct {
	Source  string    `json:"source"`
	Proven  bool      `json:"proven"` // false: no digests to compare with
	Signed  bool      `json:"signed"` // by one of the keys that were named
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
	keys, err := a.signersOf(loc, c.Key)
	if err != nil {
		return err
	}
	src, err := a.openSource(ctx, loc, sourceOptions{Pull: c.Pull, Stream: true, Signers: keys, Remote: c.remoteFlags})
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
	res := verifyResult{Source: c.Source, Proven: rep.Proven, Signed: len(keys) > 0, Members: rep.Entries, Bytes: rep.Bytes}
	verdict := "well-formed, but it carries no digests to prove them"
	if rep.Proven {
		res.Members, res.Created = len(rep.Metadata.Members), rep.Metadata.Created
		verdict = "whole, and every digest is right"
	}
	if res.Signed {
		verdict += ", and the signature is right"
	}
	text := fmt.Sprintf("%s: %d members, %s: %s", c.Source, res.Members, units.BytesSize(float64(rep.Bytes)), verdict)
	return a.printResult(oneLine(text), res)
}
