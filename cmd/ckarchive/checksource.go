package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/policy"
)

// verdict is what a reason means for the restore.
type verdict string

const (
	verdictOK      verdict = "ok"
	verdictWarning verdict = "warning"
	verdictBlocker verdict = "blocker"
)

// reason is one thing that a checkpoint needs of this host. Its code is stable; docs/check.md
// lists them.
type reason struct {
	Code    string  `json:"code"`
	Verdict verdict `json:"verdict"`
	Text    string  `json:"text"`
	Remedy  string  `json:"remedy,omitempty"`
}

// sourceReport is what --json prints of a checkpoint.
type sourceReport struct {
	Source     string   `json:"source"`
	ID         string   `json:"id"` // that it would have here
	Runtime    string   `json:"runtime,omitempty"`
	Restorable bool     `json:"restorable"`
	Reasons    []reason `json:"reasons"`
}

// source tells whether a checkpoint can be restored here. It reads the metadata and two or three
// small images.
func (c *checkCmd) source(ctx context.Context, a *app, loc location) error {
	cmd := &restoreCmd{Source: loc.text, targetFlags: c.targetFlags, restoreFlags: c.restoreFlags}
	if err := cmd.check(); err != nil {
		return err
	}
	s := &sourceCheck{restore: restore{cmd: cmd, app: a}}
	if err := s.run(ctx, loc); err != nil {
		return cause(ctx, fmt.Errorf("check %s: %w", loc.text, err))
	}
	first := slices.IndexFunc(s.reasons, func(r reason) bool { return r.Verdict == verdictBlocker })
	err := a.printReasons(sourceReport{Source: loc.text, ID: s.id, Runtime: s.runtime.Name, Restorable: first < 0, Reasons: s.reasons})
	if err != nil || first < 0 {
		return err
	}
	blocker := s.reasons[first]
	return withHint(&environmentError{fmt.Errorf("%s cannot be restored here like this: %s", loc.text, blocker.Text)}, blocker.Remedy)
}

func (a *app) printReasons(rep sourceReport) error {
	if a.cli.JSON {
		return a.printJSON(rep)
	}
	return a.columns(func(w io.Writer) {
		for _, r := range rep.Reasons {
			text := r.Text
			if r.Remedy != "" {
				text += "; " + r.Remedy
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.Verdict, r.Code, oneLine(text))
		}
	})
}

// sourceCheck asks everything that a restore asks before it makes anything, and some more.
type sourceCheck struct {
	restore
	reasons []reason
}

func (s *sourceCheck) add(r reason) { s.reasons = append(s.reasons, r) }

func (s *sourceCheck) run(ctx context.Context, loc location) (err error) {
	defer func() { err = errors.Join(err, s.closeBase()) }()
	files, err := s.collect(ctx, loc)
	if err != nil {
		return err
	}
	if err := s.read(files); err != nil {
		return err
	}
	if err := checkDigests(s.meta, files); err != nil {
		return err
	}
	if !isRoot() {
		s.add(reason{Code: "user", Verdict: verdictWarning, Text: fmt.Sprintf("uid %d", os.Getuid()), Remedy: "restore it as root"})
	}
	for _, q := range s.questions() {
		found, err := q.ask(ctx)
		switch {
		case err != nil:
			if ctx.Err() != nil {
				return err
			}
			s.refused(q.area, err)
		case found != "":
			s.add(reason{Code: q.area, Verdict: verdictOK, Text: found})
		}
	}
	s.host()
	if s.meta.Format != "" && s.meta.Format != archive.FormatCRIU {
		return nil
	}
	return s.images(ctx, files)
}

// collect reads what is needed from the beginning of the checkpoint.
func (s *sourceCheck) collect(ctx context.Context, loc location) (map[string][]byte, error) {
	a := s.app
	c := collection{
		Source: loc.text, Pull: s.cmd.Pull, Remote: s.cmd.remoteFlags,
		Root: a.cli.Root, TrustFile: a.cli.TrustFile, DecryptIdentity: a.cli.DecryptIdentity, Quiet: a.cli.Quiet,
	}
	if a.confine == nil {
		return a.collect(ctx, c)
	}
	return a.collectApart(ctx, c)
}

func collectWanted(ctx context.Context, src archive.Source, needed, useful []string, listed bool) (map[string][]byte, error) {
	return archive.Collect(ctx, src, archive.CollectOptions{
		Want: func(e archive.Entry) bool {
			// What is there counts, even if it is too large to be looked at.
			needed = slices.DeleteFunc(needed, func(name string) bool { return name == e.Name })
			return e.Size <= maxFitBytes && slices.Contains(useful, e.Name)
		},
		Stop: func(e archive.Entry) bool {
			return len(needed) == 0 || archive.IsPages(e.Name) && listed
		},
		MaxBytes: maxInspectBytes,
	})
}

// maxFitBytes is the size of a member that is looked at.
const maxFitBytes = archive.MaxJSONBytes

// wanted are the members that are worth reading. When all that are needed have been seen nothing
// more is read. listed tells that the metadata names all members, and so their order is ours.
func wanted(head map[string][]byte) (needed, useful []string, listed bool) {
	useful = []string{
		archive.ConfigDump, archive.SpecDump, archive.MetadataFile,
		archive.Image(archive.Inventory), archive.Image(archive.CPUInfo),
	}
	var spec specs.Spec
	if err := archive.DecodeJSON(archive.SpecDump, head[archive.SpecDump], &spec); err == nil && !hasNetwork(&spec) {
		useful = append(useful, archive.Image(criu.FilesImage)) // for the ports that it listens on
	}
	meta, err := archive.ParseMetadata(head[archive.MetadataFile])
	if err != nil || len(meta.Members) == 0 {
		return slices.Clone(useful[:4]), append(useful, archive.Image("core-1.img")), false
	}
	for _, name := range useful {
		there := slices.ContainsFunc(meta.Members, func(m archive.Member) bool { return m.Name == name })
		if there || name == archive.MetadataFile {
			needed = append(needed, name)
		}
	}
	return needed, useful, true
}

// checkDigests proves those members that were read.
func checkDigests(meta *archive.Metadata, files map[string][]byte) error {
	for _, m := range meta.Members {
		content, ok := files[m.Name]
		if !ok {
			continue
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != m.SHA256 {
			return &archive.EntryError{Op: "check", Name: m.Name, Err: fmt.Errorf("%w: it is not what %s says", archive.ErrRejected, archive.MetadataFile)}
		}
	}
	return nil
}

// refused notes why a question was answered with no; a policy may have several reasons.
func (s *sourceCheck) refused(area string, err error) {
	var refusal *policy.RefusedError
	if !errors.As(err, &refusal) {
		_, hint := statusOf(err)
		s.add(reason{Code: area, Verdict: verdictBlocker, Text: err.Error(), Remedy: hint})
		return
	}
	for _, r := range refusal.Reasons {
		code, remedy := "policy", ""
		if r.Grant != "" {
			remedy = "grant it with " + r.Grant
		}
		if strings.HasPrefix(r.Grant, "--map-mount") {
			code = "mount-unmapped"
		}
		s.add(reason{Code: code, Verdict: verdictBlocker, Text: r.What + ": " + r.Why, Remedy: remedy})
	}
}

// images writes those images that were read into a directory, and holds them against this host.
func (s *sourceCheck) images(ctx context.Context, files map[string][]byte) (err error) {
	if s.criu, err = s.app.findCRIU(ctx); err != nil {
		s.refused("criu", err)
		return nil
	}
	return withImages(files, func(dir string) error {
		found, err := s.fit(ctx, dir, "")
		if errors.Is(err, archive.ErrRejected) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			s.refused("criu", err)
			return nil
		}
		for _, f := range found {
			s.add(reasonOf(f))
		}
		return s.network(ctx, dir)
	})
}

// reasonOf makes a reason of what package criu found.
func reasonOf(f criu.Finding) reason {
	v := map[criu.Severity]verdict{criu.Blocker: verdictBlocker, criu.Warning: verdictWarning, criu.Info: verdictOK}[f.Severity]
	return reason{Code: f.Code, Verdict: v, Text: f.Told(), Remedy: asFlag(f.Remedy, f.Option)}
}
