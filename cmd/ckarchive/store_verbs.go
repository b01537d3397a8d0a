package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/oci/runtime"
	"github.com/ckarchive/ckarchive/registry"
)

// listCmd lists the local store, or the containers of this host.
type listCmd struct {
	Containers bool `help:"List the containers that could be exported instead."`
	runtimeFlags
}

// listed is one line of list.
type listed struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	Created   string `json:"created,omitempty"` // RFC 3339
	Container string `json:"container,omitempty"`
	Bytes     int64  `json:"bytes"`
	Error     string `json:"error,omitempty"`
}

// Run implements the command.
func (c *listCmd) Run(ctx context.Context, a *app) error {
	if c.Containers {
		return c.containers(ctx, a)
	}
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	named, err := store.List(ctx)
	if err != nil {
		return err
	}
	list := []listed{}
	for _, n := range named {
		l := listed{
			Name: n.Name, Digest: n.Descriptor.Digest.String(), Bytes: n.Bytes,
			Created:   n.Annotations[ocispec.AnnotationCreated],
			Container: n.Annotations["org.criu.checkpoint.container.name"],
		}
		if n.Err != nil {
			l.Error = n.Err.Error()
		}
		list = append(list, l)
	}
	if a.cli.JSON {
		return a.printJSON(list)
	}
	return a.columns(func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tDIGEST\tCONTAINER\tCREATED\tSIZE")
		for _, l := range list {
			fmt.Fprintf(w, "%s\t%.19s\t%s\t%s\t%s\n", oneLine(l.Name), l.Digest, oneLine(l.Container), ago(l.Created), units.BytesSize(float64(l.Bytes)))
		}
	})
}

// ago makes a time readable.
func ago(created string) string {
	t, err := time.Parse(time.RFC3339, created)
	if err != nil {
		return ""
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// listedContainer is one line of list --containers.
type listedContainer struct {
	ID      string `json:"id"`
	Runtime string `json:"runtime"`
	Root    string `json:"root"`
	Status  string `json:"status"`
	PID     int    `json:"pid"`
	Bundle  string `json:"bundle"`
}

func (c *listCmd) containers(ctx context.Context, a *app) error {
	runtimes, err := c.find(a).Runtimes()
	if err != nil {
		return err
	}
	list := []listedContainer{}
	for _, r := range runtimes {
		ctrs, err := r.List(ctx)
		if err != nil {
			a.warn("%v", err)
		}
		for _, ctr := range ctrs {
			list = append(list, listedContainer{ctr.ID, r.Name, r.Root, ctr.Status, ctr.PID, ctr.Bundle})
		}
	}
	if a.cli.JSON {
		return a.printJSON(list)
	}
	return a.columns(func(w io.Writer) {
		fmt.Fprintln(w, "ID\tRUNTIME\tSTATUS\tPID\tBUNDLE")
		for _, l := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", oneLine(l.ID), l.Runtime, l.Status, l.PID, oneLine(l.Bundle))
		}
	})
}

// tagCmd gives a checkpoint another name.
type tagCmd struct {
	Source string `arg:"" name:"src" help:"A name or digest of the local store."`
	Name   string `arg:"" help:"The new name."`
}

// Run implements the command.
func (c *tagCmd) Run(ctx context.Context, a *app) error {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	name, err := storedName(c.Source)
	if err != nil {
		return err
	}
	desc, err := store.Resolve(ctx, name)
	if err != nil {
		return err
	}
	ref, err := parseName(c.Name)
	if err != nil {
		return err
	}
	if ref.Digest != "" {
		return usagef("%s: a new name has no digest", c.Name)
	}
	if err := store.Tag(ctx, desc, ref.String()); err != nil {
		return err
	}
	return a.printResult(desc.Digest.String(), transferResult{Digest: desc.Digest.String(), Reference: ref.String()})
}

// storedName is what the store calls a name or digest of the command line.
func storedName(s string) (string, error) {
	if digest.Digest(s).Validate() == nil {
		return s, nil
	}
	ref, err := parseName(s)
	if err != nil {
		return "", err
	}
	return location{ref: ref}.storeName(), nil
}

// rmCmd removes names.
type rmCmd struct {
	Names []string `arg:"" name:"name" help:"Names or digests of the local store."`
}

// Run implements the command.
func (c *rmCmd) Run(ctx context.Context, a *app) error {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	for _, s := range c.Names {
		name, err := storedName(s)
		if err == nil {
			err = store.Untag(ctx, name)
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", s, err)
		}
		if err := a.printResult(name, transferResult{Reference: name}); err != nil {
			return err
		}
	}
	return nil
}

// gcCmd frees what no name refers to, and the bundles of containers that are gone.
type gcCmd struct {
	DryRun bool          `help:"Only tell what would be freed."`
	MinAge time.Duration `help:"Spare files that were changed less than this ago." default:"0s"`
}

// gcResult is what --json prints.
type gcResult struct {
	Blobs      int   `json:"blobs"`
	Temporary  int   `json:"temporaryFiles"`
	Bytes      int64 `json:"bytes"`
	Containers int   `json:"containers"` // of which the leftovers were removed
}

// Run implements the command.
func (c *gcCmd) Run(ctx context.Context, a *app) error {
	store, err := a.openStore(ctx, true)
	if err != nil {
		return err
	}
	freed, err := store.GC(ctx, registry.GCOptions{DryRun: c.DryRun, MinAge: c.MinAge})
	if err != nil {
		return err
	}
	homes, err := a.removeHomes(ctx, c.DryRun)
	if err != nil {
		return err
	}
	verb := "freed"
	if c.DryRun {
		verb = "would free"
	}
	return a.printResult(
		fmt.Sprintf("%s %s in %d blobs and %d unfinished files; %d containers cleaned up", verb, units.BytesSize(float64(freed.Bytes)), freed.Blobs, freed.TempFiles, homes),
		gcResult{freed.Blobs, freed.TempFiles, freed.Bytes, homes})
}

// recoverCmd puts right what a killed process left.
type recoverCmd struct{}

// Run implements the command.
func (c *recoverCmd) Run(ctx context.Context, a *app) error {
	if err := needRoot("recover"); err != nil {
		return err
	}
	done, err := a.recoverCaptures(ctx)
	if err != nil {
		return err
	}
	more, err := a.recoverRestores(ctx)
	if err != nil {
		return err
	}
	done = append(done, more...)
	var failed error
	for _, r := range done {
		if r.Err != nil {
			failed = errors.Join(failed, fmt.Errorf("recover container %q: %w", r.Target.ID, r.Err))
		}
	}
	if a.cli.JSON {
		return errors.Join(failed, a.printJSON(done))
	}
	for _, r := range done {
		if r.Err == nil {
			if err := a.printResult(fmt.Sprintf("%s: %s", r.Target.ID, r.Action), nil); err != nil {
				return err
			}
		}
	}
	if len(done) == 0 {
		a.say("nothing to recover")
	}
	if failed != nil {
		return &environmentError{failed}
	}
	return nil
}

// versionCmd prints versions.
type versionCmd struct{}

// Run implements the command.
func (c *versionCmd) Run(ctx context.Context, a *app) error {
	rows := [][2]string{{"ckarchive", versionString()}}
	if b, err := a.locateCRIU(); err == nil {
		if v, err := b.Version(ctx); err == nil {
			rows = append(rows, [2]string{"criu", v.String() + " (" + b.Path + ")"})
		}
	}
	for _, name := range runtime.Names() {
		r, err := runtime.Lookup(name, "")
		if err != nil || name == runtime.Direct {
			continue
		}
		if v, err := r.Version(ctx); err == nil {
			rows = append(rows, [2]string{name, v + " (" + r.Path + ")"})
		}
	}
	return a.printTable(rows)
}
