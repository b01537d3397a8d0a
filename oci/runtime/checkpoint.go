package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
)

// CheckpointOptions are what a runtime's checkpoint command is asked for. The container
// always keeps its processes: ending it is the caller's, after the archive is durable.
type CheckpointOptions struct {
	ImagesDir, WorkDir string // absolute; both exist
	LogPath            string // the runtime's own log
	CRIUPath           string // directory of the criu to use, put first in PATH; or empty
	CRIUConfig         string // a configuration file for CRIU, below what the runtime says; or empty
	// Options are options of a dump by ckarchive's names, "true" for those without a value.
	// [Container.CheckOptions] tells which the runtime has.
	Options map[string]string
}

// checkpointOption is an option of a dump that some runtimes' checkpoint commands have.
type checkpointOption struct {
	name     string // ckarchive's
	flag     string // the runtimes'
	value    bool   // whether a value follows; the others are on or off
	runtimes []string
}

// checkpointOptions are the rows of all runtimes: what is not here, no runtime has. A runtime may be
// too old for an option of its kind: its help text tells.
func checkpointOptions() []checkpointOption {
	all, runcs, runcYouki := []string{"runc", "crun", "youki"}, []string{"runc", "crun"}, []string{"runc", "youki"}
	return []checkpointOption{
		{"tcp-established", "--tcp-established", false, all},
		{"tcp-skip-in-flight", "--tcp-skip-in-flight", false, runcYouki},
		{"ext-unix-sk", "--ext-unix-sk", false, all},
		{"shell-job", "--shell-job", false, all},
		{"file-locks", "--file-locks", false, all},
		{"link-remap", "--link-remap", false, runcYouki},
		{"manage-cgroups-mode", "--manage-cgroups-mode", true, all},
		{"empty-ns", "--empty-ns", true, []string{"runc"}},
		{"network-lock", "--network-lock", true, []string{"crun"}},
		{"pre-dump", "--pre-dump", false, runcs},
		{"parent", "--parent-path", true, runcs},
		{"auto-dedup", "--auto-dedup", false, []string{"runc"}},
		{"page-server", "--page-server", true, []string{"runc"}},
	}
}

// ErrNoOption says that a runtime's checkpoint command lacks an option.
var ErrNoOption = errors.New("the runtime's checkpoint command has no such option")

// CheckOptions tells whether the container's runtime can be asked for these options of a dump, by the names
// of [CheckpointOptions].Options. An [ErrNoOption] names all that it cannot.
func (c *Container) CheckOptions(ctx context.Context, options map[string]string) error {
	if len(options) == 0 {
		return nil
	}
	r := c.Runtime
	help, err := r.run(ctx, r.verb(), "--help")
	if err != nil {
		return err
	}
	if missing := missingOptions(r.Name, string(help), options); len(missing) > 0 {
		return fmt.Errorf("%w: %s lacks --%s", ErrNoOption, r.Name, strings.Join(missing, ", --"))
	}
	return nil
}

// missingOptions gives the options that a runtime with this help text lacks, sorted.
func missingOptions(runtime, help string, options map[string]string) (missing []string) {
	words := strings.FieldsFunc(help, func(r rune) bool { return strings.ContainsRune(" \t\n,=[]", r) })
	rows := checkpointOptions()
	for _, name := range slices.Sorted(maps.Keys(options)) {
		i := slices.IndexFunc(rows, func(o checkpointOption) bool { return o.name == name })
		if i < 0 || !slices.Contains(rows[i].runtimes, runtime) || !slices.Contains(words, rows[i].flag) {
			missing = append(missing, name)
		}
	}
	return missing
}

// verb is the runtime's checkpoint command.
func (r Runtime) verb() string { return cmp.Or(r.kind.checkpoint, "checkpoint") }

// args are those of the checkpoint command, but for the container's ID.
func (o CheckpointOptions) args(verb string) []string {
	args := []string{
		"--log", o.LogPath, verb, "--leave-running",
		"--image-path", o.ImagesDir, "--work-path", o.WorkDir,
	}
	for _, row := range checkpointOptions() {
		value, ok := o.Options[row.name]
		if !ok {
			continue
		}
		args = append(args, row.flag)
		if row.value {
			args = append(args, value) // a word of its own: crun reads nothing else
		}
	}
	return args
}

// Checkpoint makes the runtime dump the container into ImagesDir.
func (c *Container) Checkpoint(ctx context.Context, o CheckpointOptions) error {
	r := c.Runtime
	if r.Name == Direct {
		return fmt.Errorf("dump container %q: it has no runtime: use --engine direct", c.ID)
	}
	cmd := r.command(ctx, append(o.args(r.verb()), c.ID)...)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	usePath(cmd, o.CRIUPath)
	if o.CRIUConfig != "" {
		cmd.Env = append(cmd.Env, "CRIU_CONFIG_FILE="+o.CRIUConfig)
	}
	if err := subreap(); err != nil {
		return err
	}
	if err := runAll(cmd); err != nil {
		said, _ := os.ReadFile(o.LogPath) // the error stands without it
		return r.failure(ctx, "checkpoint", err, said)
	}
	return nil
}
