package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/xlab/treeprint"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
)

// inspectCmd shows what a checkpoint holds.
type inspectCmd struct {
	Source string `arg:"" name:"src" predictor:"checkpoint" help:"The checkpoint."`
	Tree   bool   `help:"Show processes, memory, open files, sockets and mounts."`
	Format string `help:"Form of the output: ${enum}." enum:"table,json,tree" default:"table"`
	Env    bool   `help:"Show the environment that the container was started with."`
	Files  bool   `help:"Show what changed in the root file system; the checkpoint is read to its end."`
	// ShowSecrets is of use with Env only.
	ShowSecrets bool   `help:"Do not mask what may be a secret in it."`
	Pull        string `help:"When a registry is asked: ${enum}." enum:"missing,always,never" default:"missing"`
	remoteFlags
}

// Help is the long help text.
func (inspectCmd) Help() string {
	return `Only metadata and small images are read, never the memory; of a registry usually less than 1 MB is fetched. With --files what changed in the root file system is read too, which in an archive file and an image comes behind the memory. Values of the environment that may be secrets are masked.`
}

// summary is what inspect shows. With --json it is the document.
type summary struct {
	Source    string            `json:"source"`
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Engine    string            `json:"engine,omitempty"`
	Runtime   string            `json:"runtime"`
	Command   []string          `json:"command,omitempty"`
	Env       []string          `json:"environment,omitempty"` // NAME=VALUE, when it was asked for
	Created   time.Time         `json:"created,omitzero"`      // when it was checkpointed
	Proven    bool              `json:"digests"`               // the archive carries digests of its members
	Bytes     int64             `json:"bytes"`                 // of all members that are known
	Members   int               `json:"members"`
	Metadata  *archive.Metadata `json:"metadata,omitempty"`
	Processes *criu.Inspection  `json:"images,omitempty"`
	Files     []changedFile     `json:"files,omitempty"` // of the root file system, when they were asked for

	environment []string // as the archive has it
}

// Run implements the command.
func (c *inspectCmd) Run(ctx context.Context, a *app) (err error) {
	loc, err := parseLocation(c.Source)
	if err != nil {
		return err
	}
	src, err := a.openSource(ctx, loc, sourceOptions{Pull: c.Pull, Stream: true, Head: true, Remote: c.remoteFlags})
	if err != nil {
		return cause(ctx, fmt.Errorf("inspect %s: %w", c.Source, err))
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	tree := c.Tree || c.Format == "tree"
	s, err := c.read(ctx, src, tree)
	if err != nil {
		return cause(ctx, fmt.Errorf("inspect %s: %w", c.Source, err))
	}
	switch {
	case a.cli.JSON || c.Format == "json":
		return a.printJSON(s)
	case tree:
		_, err := fmt.Fprint(a.stdout, s.tree())
		return unread(err)
	}
	return a.printTable(s.rows())
}

// read takes the metadata and, for a tree, CRIU's small images off the stream.
func (c *inspectCmd) read(ctx context.Context, src archive.Source, tree bool) (*summary, error) {
	s := &summary{Source: c.Source}
	head, src, err := archive.Peek(ctx, src)
	if err != nil {
		return nil, err
	}
	meta, err := archive.ParseMetadata(head[archive.MetadataFile])
	listed := err == nil && len(meta.Members) > 0 && !c.Files
	changes := &filesSource{Source: src}
	if c.Files {
		src = changes
	}
	files, err := archive.Collect(ctx, src, archive.CollectOptions{
		Want: func(e archive.Entry) bool {
			switch e.Name {
			case archive.ConfigDump, archive.SpecDump, archive.MetadataFile:
				return true
			case archive.DeletedFiles:
				return c.Files
			}
			return tree && isSmallImage(e)
		},
		// Behind the first pages there is nothing for us in an archive whose ckarchive.json lists all.
		Stop: func(e archive.Entry) bool {
			return listed && (archive.IsPages(e.Name) || !tree && strings.HasPrefix(e.Name, archive.CheckpointDir+"/"))
		},
		OnEntry: func(e archive.Entry) {
			if e.Kind == archive.KindFile {
				s.Members++
				s.Bytes += max(e.Size, 0)
			}
		},
		MaxBytes: maxInspectBytes,
	})
	if err != nil {
		return nil, err
	}
	if err := s.fill(files); err != nil {
		return nil, err
	}
	if c.Files {
		if s.Files, err = changes.finish(files[archive.DeletedFiles]); err != nil {
			return nil, err
		}
	}
	if c.Env {
		s.Env = shownEnvironment(s.environment, c.ShowSecrets)
	}
	switch {
	case !tree:
		return s, nil
	case s.Metadata != nil && s.Metadata.Format == archive.FormatGVisor:
		return nil, treeOfSandbox()
	}
	s.Processes, err = inspectImages(ctx, files)
	return s, err
}

// maxInspectBytes bounds the images that are held in memory.
const maxInspectBytes = 128 << 20

func isSmallImage(e archive.Entry) bool {
	return strings.HasPrefix(e.Name, archive.CheckpointDir+"/") && !archive.IsPages(e.Name) &&
		strings.HasSuffix(e.Name, ".img") && !strings.HasSuffix(e.Name, ".tar.gz.img") && !strings.HasPrefix(e.Name, archive.Image("ghost-file"))
}

// fill reads the metadata.
func (s *summary) fill(files map[string][]byte) error {
	var config struct {
		ID      string    `json:"id"`
		Name    string    `json:"name"`
		Runtime string    `json:"runtime"`
		Created time.Time `json:"checkpointedTime"`
	}
	if err := archive.DecodeJSON(archive.ConfigDump, files[archive.ConfigDump], &config); err != nil {
		return err
	}
	var spec specs.Spec
	if err := archive.DecodeJSON(archive.SpecDump, files[archive.SpecDump], &spec); err != nil {
		return err
	}
	s.ID, s.Name, s.Runtime, s.Created = config.ID, config.Name, config.Runtime, config.Created
	s.Engine = spec.Annotations["io.container.manager"]
	if spec.Process != nil {
		s.Command, s.environment = spec.Process.Args, spec.Process.Env
	}
	b, ok := files[archive.MetadataFile]
	if !ok {
		return nil
	}
	m, err := archive.ParseMetadata(b)
	if err != nil {
		return err
	}
	s.Metadata, s.Proven = m, len(m.Members) > 0
	s.ID, s.Runtime, s.Engine, s.Created = m.Container.ID, m.Container.Runtime.Name, m.Container.Engine, m.Created
	if !s.Proven {
		return nil
	}
	s.Members, s.Bytes = len(m.Members), 0
	for _, member := range m.Members {
		s.Bytes += member.Size
	}
	return nil
}

// rows are the table.
func (s *summary) rows() [][2]string {
	rows := [][2]string{
		{"name", s.Name},
		{"id", s.ID},
		{"engine", s.Engine},
		{"runtime", s.Runtime},
		{"command", strings.Join(s.Command, " ")},
		{"checkpointed", showTime(s.Created)},
		{"size", fmt.Sprintf("%s in %d members", units.BytesSize(float64(s.Bytes)), s.Members)},
	}
	if m := s.Metadata; m != nil {
		rows = append(rows, metadataRows(m)...)
	}
	if !s.Proven {
		rows = append(rows, [2]string{"digests", "none: made by another tool"})
	}
	for _, v := range s.Env {
		rows = append(rows, [2]string{"environment", v})
	}
	for _, f := range s.Files {
		rows = append(rows, [2]string{"changed file", f.String()})
	}
	kept := rows[:0]
	for _, r := range rows {
		if r[1] != "" {
			kept = append(kept, r)
		}
	}
	return kept
}

func showTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// showCount is empty for what is not known.
func showCount(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// showHost names what is known of the host.
func showHost(h archive.Host) string {
	known := []string{}
	for _, word := range [][2]string{{"", h.Architecture}, {"Linux ", h.Kernel}, {"cgroups ", h.CgroupVersion}} {
		if word[1] != "" {
			known = append(known, word[0]+word[1])
		}
	}
	return strings.Join(known, ", ")
}

func metadataRows(m *archive.Metadata) [][2]string {
	options := []string{}
	for flag, value := range m.Options {
		if value == "true" {
			options = append(options, "--"+flag)
		}
	}
	slices.Sort(options)
	rows := [][2]string{
		{"memory", units.BytesSize(float64(m.Container.MemoryBytes))},
		{"processes", showCount(m.Container.Processes)},
		{"generation", showCount(m.Container.Generation)},
		{"host", showHost(m.Host)},
		{"cpu", m.Host.CPU},
		{"criu", m.CRIU},
		{"options", strings.Join(options, " ")},
		{"made by", m.Tool},
	}
	if s := m.Sandbox; s != nil {
		rows = append(rows, [2]string{"sandbox", fmt.Sprintf("gVisor: network %s, overlay %s, platform %s", s.Network, s.Overlay, s.Platform)})
	}
	if b := m.Base; b != nil {
		rows = append(rows, [2]string{"base", strings.TrimSpace(b.Image + " " + b.Path)})
	}
	if r := m.Rootfs; r != nil {
		rows = append(rows, [2]string{"root file system", fmt.Sprintf("%s: %d entries, %d deleted", r.Method, r.Files, r.Deleted)})
	}
	if st := m.Stats; st != nil {
		rows = append(rows, [2]string{"frozen", showFrozen(m.Format, st)})
	}
	return rows
}

// showFrozen tells how long a container stood still. Of the dumps of other engines only CRIU's part is known, of a
// sandbox's only the whole.
func showFrozen(format string, st *archive.Stats) string {
	const perMilli = 1000
	known := []string{}
	if format != archive.FormatGVisor {
		known = append(known, fmt.Sprintf("%d ms by CRIU", st.FrozenTime/perMilli))
	}
	if st.PausedTime > 0 {
		known = append(known, fmt.Sprintf("%d ms in all", st.PausedTime/perMilli))
	}
	return strings.Join(known, ", ")
}

// inspectImages lets crit decode the images.
func inspectImages(ctx context.Context, files map[string][]byte) (in *criu.Inspection, err error) {
	err = withImages(files, func(dir string) error {
		in, err = criu.Inspect(ctx, dir)
		return err
	})
	return in, err
}

// withImages gives f a directory of the images in files, which is removed afterwards.
func withImages(files map[string][]byte, f func(dir string) error) (err error) {
	dir, remove, err := archive.Scratch("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	for name, content := range files {
		image, ok := strings.CutPrefix(name, archive.CheckpointDir+"/")
		if !ok || strings.Contains(image, "/") {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, image), content, 0o600); err != nil {
			return err
		}
	}
	return f(dir)
}

// tree draws processes with what they have open, and the mounts.
func (s *summary) tree() string {
	top := treeprint.NewWithRoot(oneLine(fmt.Sprintf("%s (%s, %s)", s.Name, s.Runtime, showTime(s.Created))))
	if len(s.Env) > 0 {
		env := top.AddBranch("environment")
		for _, v := range s.Env {
			env.AddNode(oneLine(v))
		}
	}
	if p := s.Processes; p != nil {
		addProcess(top.AddBranch(fmt.Sprintf("processes: %d", p.Processes)), p.Root)
		mounts := top.AddBranch(fmt.Sprintf("mounts: %d", len(p.Mounts)))
		for _, m := range p.Mounts {
			text := m.Mountpoint + " " + m.Type
			if m.Key != "" {
				text += " (external)"
			}
			mounts.AddNode(oneLine(text))
		}
	}
	if s.Files != nil {
		addFiles(top, s.Files)
	}
	return top.String()
}

func addProcess(to treeprint.Tree, p *criu.Process) {
	if p == nil {
		return
	}
	label := fmt.Sprintf("[%d] %s", p.PID, p.Comm)
	if p.State != "alive" {
		label += " (" + p.State + ")"
	}
	branch := to.AddBranch(oneLine(label))
	for _, m := range p.Memory {
		if m.Dumped > 0 {
			branch.AddNode(oneLine(fmt.Sprintf("memory %s %s of %s", m.Name, units.BytesSize(float64(m.Dumped)), units.BytesSize(float64(m.Bytes)))))
		}
	}
	for _, f := range p.Files {
		branch.AddNode(oneLine(fmt.Sprintf("fd %d %s %s", f.FD, f.Type, f.Path)))
	}
	for _, s := range p.Sockets {
		text := fmt.Sprintf("fd %d %s %s %s", s.FD, s.Protocol, s.State, s.Source)
		if s.Destination != "" {
			text += " -> " + s.Destination
		}
		branch.AddNode(oneLine(text))
	}
	for _, child := range p.Children {
		addProcess(branch, child)
	}
}
