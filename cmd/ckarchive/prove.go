package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
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
	text := fmt.Sprintf("%s: %d members, %s: whole, and every digest is right", c.Source, rep.Entries, units.BytesSize(float64(rep.Bytes)))
	if rep.Proven {
		res.Created = rep.Metadata.Created
	} else {
		text = fmt.Sprintf("%s: %d members, %s: well-formed, but it carries no digests to prove them", c.Source, rep.Entries, units.BytesSize(float64(rep.Bytes)))
	}
	return a.printResult(oneLine(text), res)
}

// toImage writes a checkpoint into store as an image without a name.
func (a *app) toImage(ctx context.Context, store *registry.Store, src location, c archive.Compression) (_ ocispec.Descriptor, err error) {
	in, err := a.openSource(ctx, src, sourceOptions{})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	w, err := artifact.NewWriter(ctx, store, artifact.WriterOptions{Compression: c})
	if err != nil {
		return ocispec.Descriptor{}, errors.Join(err, in.Close())
	}
	if err := a.copyVerified(ctx, &sink{Sink: w}, in, "read"); err != nil {
		return ocispec.Descriptor{}, err
	}
	return w.Descriptor(), nil
}

// peekNamed is archive.Peek for a source with a name, which it closes on an error.
func peekNamed(ctx context.Context, src archive.Source, name string) (map[string][]byte, archive.Source, error) {
	head, rest, err := archive.Peek(ctx, src)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read %s: %w", name, err), src.Close())
	}
	return head, rest, nil
}

// nameFromHead makes a name for the local store of the container's.
func nameFromHead(head map[string][]byte) string {
	var config struct {
		Name string `json:"name"`
		ID   string `json:"id"`
	}
	if err := archive.DecodeJSON(archive.ConfigDump, head[archive.ConfigDump], &config); err != nil {
		return ""
	}
	name := config.Name
	if name == "" {
		name = config.ID
	}
	return strings.ToLower(name)
}
