package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// restoreCmd makes a running container of an archive.
type restoreCmd struct {
	Source string `arg:"" name:"src" predictor:"checkpoint" help:"The checkpoint."`

	targetFlags
	intoFlags
	Name    string        `help:"Name of the restored container, by which export finds it like an engine's." placeholder:"NAME"`
	Detach  bool          `short:"d" help:"Return when the container runs, instead of waiting for its end."`
	PIDFile string        `name:"pid-file" help:"Write the pid of the first process there." type:"path" placeholder:"FILE"`
	Log     string        `help:"Where the output of a detached container goes; by default a file beside its bundle." type:"path" placeholder:"FILE"`
	Timeout time.Duration `help:"Give up the restore after this time." default:"10m"`
	Count   int           `help:"Restore this many containers, with the IDs ID-1, ID-2 and so on and the checkpoint unpacked once. One that fails is told of, and the others live on." default:"0" placeholder:"N"`
	DryRun  bool          `help:"Print what would be done and do nothing."`
	restoreFlags
	Cache string `help:"Which unpacked checkpoints are kept for the next restore: those of stores and registries that are not encrypted (auto), also files and encrypted ones, in plain form (always), or none (never)." enum:"auto,always,never" default:"auto" env:"CKARCHIVE_CACHE"`
	cacheSizeFlag
	statsFlag
	RequireSignature []string `help:"Public key of which one has to have signed the checkpoint; may be repeated. By default the trust file says it." sep:"none" env:"CKARCHIVE_REQUIRE_SIGNATURE" placeholder:"FILE"`
}

// Help is the long help text.
func (restoreCmd) Help() string {
	return `The archive is verified, unpacked and checked before CRIU sees it. Bind mounts of the dumped container need --map-mount: host paths are never taken from an archive. What engines bind in of their own accord, such as /etc/hosts and /dev/shm, and named volumes of Podman are made anew, with the content that the archive has. Without --detach ckarchive stays in the foreground and exits with the container's status. The ID of the container goes to standard output.`
}

// Run implements the command.
func (c *restoreCmd) Run(ctx context.Context, a *app) (err error) {
	if err := needRoot("restore"); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	if c.Into != "" {
		return c.intoPodman(ctx, a)
	}
	if c.Count != 0 {
		return c.several(ctx, a)
	}
	r := &restore{cmd: c, app: a}
	defer func() { err = errors.Join(err, r.closeBase()) }()
	if err := r.prepare(ctx); err != nil {
		return errors.Join(cause(ctx, err), r.closeSource())
	}
	if c.DryRun {
		return errors.Join(r.printPlan(), r.closeSource())
	}
	if err := r.run(ctx); err != nil {
		return cause(ctx, err)
	}
	return r.stay(ctx)
}

// check refuses flags that cannot be meant, before the archive is opened.
func (c *restoreCmd) check() error {
	if c.Name != "" {
		if err := runtime.CheckID(c.Name); err != nil {
			return usagef("--name %q: letters, digits and _ . + - only, beginning with a letter or digit", c.Name)
		}
	}
	if _, err := c.bytes(); err != nil {
		return err
	}
	if c.Count != 0 {
		if err := firstBroken(c.countRules()); err != nil {
			return err
		}
	}
	return errors.Join(c.targetFlags.check(), c.restoreFlags.check())
}

// sourceOptions say how the checkpoint is opened, and who has to have signed it.
func (c *restoreCmd) sourceOptions(a *app, src location) (sourceOptions, error) {
	keys, err := a.signersOf(src, c.RequireSignature)
	return sourceOptions{Pull: c.Pull, Remote: c.remoteFlags, Signers: keys}, err
}

// configDump is what is used of config.dump, the container as an engine knows it.
type configDump struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// NamedVolumes are Podman's.
	NamedVolumes []namedVolume `json:"namedVolumes"`
}

// restore is one run of restoreCmd.
type restore struct {
	cmd  *restoreCmd
	app  *app
	loc  location
	src  archive.Source
	head map[string][]byte

	meta    *archive.Metadata
	config  configDump
	spec    *specs.Spec // the archive's
	own     bool        // this host made the archive
	granted []string    // what goes beyond the defaults
	leftOut []string    // of the archive's spec
	filter  bool        // the system call filter of the spec goes on every task
	id      string
	runtime runtime.Runtime
	options settled
	criu    criu.Binary
	saved   runtime.SandboxImages // of a sandbox, in place of CRIU's
	unlock  []func()
	cached  *cached // nil until it is settled
	// wasCached tells that the cache had it.
	wasCached bool
	base      *baseImage // nil unless --base names an image, and after its use
	// template is an unpacked archive that this one shares with others; empty: none.
	template string
	shared   bool   // the memory of the unpacked archive is others' too, and must not be freed
	home     string // CONTAINERS/ID: bundle, work directory, unpacked archive
	bundle   string
	rootfs   string
	// madeBundle tells that bundle is ours to remove when the restore fails.
	madeBundle bool
	cgroups    []string // see restoreState
	pid        int
	stats      *criu.RestoreStats // nil if there are none
	logger     *logger
	pipes      []*os.File     // to the output of a container in the foreground
	output     sync.WaitGroup // until all of it is written
	ctr        *runtime.Container
}

// prepare opens the archive and judges its head, without making anything.
func (r *restore) prepare(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	if !r.hasHead() {
		return nil // an archive of another order: judged when it is unpacked
	}
	return r.judge(ctx, r.head)
}

// hasHead tells whether the archive's metadata is at its beginning.
func (r *restore) hasHead() bool {
	return r.head[archive.ConfigDump] != nil && r.head[archive.SpecDump] != nil
}

// open opens the archive and reads its head.
func (r *restore) open(ctx context.Context) error {
	loc, err := parseLocation(r.cmd.Source)
	if err != nil {
		return err
	}
	opts, err := r.cmd.sourceOptions(r.app, loc)
	if err != nil {
		return err
	}
	src, err := r.app.openSource(ctx, loc, opts)
	if err != nil {
		return err
	}
	r.loc, r.src = loc, src
	if r.head, r.src, err = archive.Peek(ctx, src); err != nil {
		return errors.Join(fmt.Errorf("read %s: %w", loc.text, err), src.Close())
	}
	return nil
}

func (r *restore) closeSource() error {
	if r.src == nil {
		return nil
	}
	return r.src.Close()
}

// stay waits for a container in the foreground, or lets a detached one go.
func (r *restore) stay(ctx context.Context) error {
	defer r.release()
	if r.cmd.PIDFile != "" {
		if err := os.WriteFile(r.cmd.PIDFile, fmt.Appendf(nil, "%d\n", r.pid), 0o600); err != nil {
			r.app.warn("%v", err)
		}
	}
	if err := r.cmd.print(r.app, r.statRows()); err != nil {
		return err
	}
	line := r.id
	if !r.cmd.Detach {
		line = "" // it was printed before the container could write
	}
	if err := r.app.printResult(line, r.result()); err != nil {
		return err
	}
	if r.cmd.Detach {
		return nil
	}
	r.dropPipes()
	status, err := waitForeground(ctx, r.pid)
	if err != nil {
		return err
	}
	r.output.Wait()
	cleanup := context.WithoutCancel(ctx)
	if err := errors.Join(r.ctr.Refresh(cleanup), r.ctr.Delete(cleanup), archive.RemoveTree(r.home)); err != nil {
		r.app.warn("clean up after container %q: %v", r.id, err)
	}
	if status != 0 {
		return containerStatus(status)
	}
	return nil
}

func (r *restore) result() restoreResult {
	return restoreResult{
		ID: r.id, PID: r.pid, Runtime: r.runtime.Name, Bundle: r.bundle, Rootfs: r.rootfs, Granted: r.granted, LeftOut: r.leftOut,
		Cached: r.wasCached, Stats: r.stats, Timings: r.cmd.timings(r.app),
	}
}

// restoreResult is what --json prints; a list of them with --count.
type restoreResult struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	Runtime string `json:"runtime"`
	Bundle  string `json:"bundle"`
	Rootfs  string `json:"rootfs"`
	// Granted is what goes beyond the defaults, LeftOut what of the archive's configuration was not used.
	Granted []string `json:"granted,omitempty"`
	LeftOut []string `json:"leftOut,omitempty"`
	// Cached tells that an earlier restore had unpacked the checkpoint.
	Cached bool `json:"cached,omitempty"`
	// Stats are CRIU's, and Timings ckarchive's, with --stats.
	Stats   *criu.RestoreStats `json:"stats,omitempty"`
	Timings []step             `json:"timings,omitempty"`
}

func (r *restore) release() {
	for _, unlock := range r.unlock {
		unlock()
	}
}

// printPlan is --dry-run.
func (r *restore) printPlan() error {
	root := r.cmd.Rootfs
	switch {
	case root != "":
		root += " (changed in place)"
	case r.cmd.Base != "":
		root = "a copy of " + r.cmd.Base
	default:
		root = "from the archive"
	}
	return r.app.printTable([][2]string{
		{"checkpoint", r.cmd.Source},
		{"container", r.id},
		{"engine", r.cmd.Engine},
		{"runtime", r.runtime.Name},
		{"criu", r.criu.Path},
		{"root file system", root},
		{"bundle", r.bundle},
		{"options", r.options.describe()},
		{"granted", strings.Join(r.granted, ", ")},
		{"left out", strings.Join(r.leftOut, ", ")},
	})
}

// unnamedHome is where an archive is unpacked that is of no single container, or not yet known of which.
func (a *app) unnamedHome() string {
	return filepath.Join(a.containersDir(), "unpack-"+strconv.Itoa(os.Getpid()))
}

// containerHome is where everything of a restored container is that ckarchive made.
func (a *app) containerHome(id string) string { return filepath.Join(a.containersDir(), id) }
