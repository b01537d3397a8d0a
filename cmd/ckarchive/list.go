package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/oci/runtime"
	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
	Bytes     int64  `json:"bytes"` // of all blobs, shared ones included
	// SharedBytes are of blobs that others in the list need as well: rm and gc do not free them.
	SharedBytes int64 `json:"sharedBytes,omitempty"`
	// Of the native form.
	OwnBytes int64  `json:"ownBytes,omitempty"` // of memory that came with this checkpoint
	Parent   string `json:"parent,omitempty"`   // digest
	Error    string `json:"error,omitempty"`
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
		if n.ArtifactType == signature.ArtifactType {
			continue
		}
		l := listed{
			Name: n.Name, Digest: n.Descriptor.Digest.String(), Bytes: n.Bytes, SharedBytes: n.Shared,
			Created:   n.Annotations[ocispec.AnnotationCreated],
			Container: n.Annotations["org.criu.checkpoint.container.name"],
			Parent:    n.Annotations[artifact.AnnotationParent],
		}
		if own, err := strconv.ParseInt(n.Annotations[artifact.AnnotationNewBytes], 10, 64); err == nil {
			l.OwnBytes = own
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
		fmt.Fprintln(w, "NAME\tDIGEST\tCONTAINER\tCREATED\tSIZE\tSHARED\tOWN\tPARENT")
		for _, l := range list {
			own := l.OwnBytes
			if l.Parent == "" {
				own = l.Bytes
			}
			fmt.Fprintf(w, "%s\t%.19s\t%s\t%s\t%s\t%s\t%s\t%s\n", oneLine(l.Name), l.Digest, oneLine(l.Container), ago(l.Created),
				units.BytesSize(float64(l.Bytes)), units.BytesSize(float64(l.SharedBytes)), units.BytesSize(float64(own)), parentName(list, l.Parent))
		}
	})
}

// parentName is the name by which a parent is listed, or else its digest.
func parentName(list []listed, digest string) string {
	for _, l := range list {
		if digest != "" && l.Digest == digest {
			return oneLine(l.Name)
		}
	}
	return fmt.Sprintf("%.19s", oneLine(digest))
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
	Name    string `json:"name,omitempty"`
	Pod     string `json:"pod,omitempty"` // NAMESPACE/NAME
	Engine  string `json:"engine,omitempty"`
	Image   string `json:"image,omitempty"`
	Runtime string `json:"runtime"`
	Root    string `json:"root"`
	Status  string `json:"status"`
	PID     int    `json:"pid"`
	Bundle  string `json:"bundle"`
}

func (c *listCmd) containers(ctx context.Context, a *app) error {
	// What cannot be read is told; the others are listed all the same.
	ctrs, err := runtime.All(ctx, c.find(a))
	if err != nil {
		a.warn("%v", err)
	}
	list := []listedContainer{}
	for _, ctr := range ctrs {
		l := listedContainer{
			ID: ctr.ID, Name: ctr.Name, Pod: ctr.Pod, Engine: ctr.Engine, Runtime: ctr.Runtime.Name,
			Root: ctr.Runtime.Root, Status: ctr.Status, PID: ctr.PID, Bundle: ctr.Bundle,
		}
		if ctr.Image != nil {
			l.Image = ctr.Image.Image
		}
		list = append(list, l)
	}
	if a.cli.JSON {
		return a.printJSON(list)
	}
	return a.columns(func(w io.Writer) {
		fmt.Fprintln(w, "ID\tNAME\tENGINE\tRUNTIME\tSTATUS\tPID\tIMAGE")
		for _, l := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", oneLine(shortID(l.ID)), oneLine(l.Name), l.Engine, l.Runtime, l.Status, l.PID, oneLine(l.Image))
		}
	})
}

// shortID is what engines show of the IDs that they make, which are digests in form. An ID that somebody chose is
// shown whole.
func shortID(id string) string {
	const shown = 12
	if digest.SHA256.Validate(id) == nil {
		return id[:shown]
	}
	return id
}
