package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// exportCmd freezes, dumps, archives, and then stops or resumes.
type exportCmd struct {
	Container string `arg:"" predictor:"container" help:"ID, three or more characters that only its ID begins with, or the name that its engine gives it."`
	Dest      string `arg:"" help:"Where the archive goes."`

	runtimeFlags
	formFlags
	Engine       string `help:"Who talks to CRIU: ckarchive itself (direct) or the container's runtime. A container of runsc is always dumped by it." enum:"direct,runtime" default:"direct" env:"CKARCHIVE_ENGINE"`
	LeaveRunning bool   `short:"R" help:"Let the container go on after the dump."`
	LeavePaused  bool   `help:"Leave the container paused when the archive is complete."`
	Compress     string `help:"zstd, gzip or none; by default what the name of a file says, else zstd." placeholder:"NAME" env:"CKARCHIVE_COMPRESS"`
	Base         string `help:"Pristine root file system (a directory), or the name of the base image; only what differs is archived. Without it, an overlay's upper layer or the whole tree is." placeholder:"DIR|IMAGE"`
	encryptFlags
	Force     bool          `short:"f" help:"Replace an existing file; try the dump although something stands in its way."`
	Delete    bool          `help:"Delete the stopped container from its runtime when the archive is complete."`
	Timeout   time.Duration `help:"Give up the dump after this time; the container goes on." default:"10m"`
	Name      string        `help:"Name of the container in the archive, instead of its ID." placeholder:"NAME"`
	Normalize bool          `help:"Leave out the mounts that the container's engine made of its own accord and others lack, as /run/.containerenv, so that CRI-O and containerd restore the archive." default:"true" negatable:""`
	Volumes   bool          `help:"Archive the named volumes of a container of Podman or Docker as well."`
	DryRun    bool          `help:"Print what would be done and do nothing."`
	statsFlag
	dumpFlags
}

// runtimeFlags choose a runtime.
type runtimeFlags struct {
	Runtime     string `predictor:"runtime" help:"Name or path of the OCI runtime: runc, crun, youki, runsc, direct." env:"CKARCHIVE_RUNTIME" placeholder:"NAME|PATH"`
	RuntimeRoot string `help:"State directory of the runtime." env:"CKARCHIVE_RUNTIME_ROOT" type:"path" placeholder:"DIR"`
}

// criuFlags are the options that a dump and its restore have in common.
type criuFlags struct {
	TCPEstablished bool `help:"Keep established TCP connections."`
	TCPClose       bool `help:"Let TCP connections be closed after the restore."`
	FileLocks      bool `help:"Keep file locks."`
	ExtUnixSk      bool `help:"Allow unix sockets whose other end is outside the container."`
	ShellJob       bool `help:"Allow a terminal or session from outside the container."`
}

// Help is the long help text.
func (exportCmd) Help() string {
	return `The container is paused, dumped and archived; it is stopped only when the archive is complete and synced to disk, and otherwise goes on. A DEST with a registry's name goes to the local store; ckarchive push sends it on.`
}

// Run implements the command.
func (c *exportCmd) Run(ctx context.Context, a *app) (err error) {
	if err := needRoot("export"); err != nil {
		return err
	}
	if !c.DryRun {
		// First of all: a container that a killed export left paused is not to be taken for one
		// that its owner paused.
		if _, err := a.openStore(ctx, true); err != nil {
			return err
		}
		if err := a.recoverAll(ctx); err != nil {
			return err
		}
	}
	x, err := c.prepare(ctx, a)
	if err != nil {
		return err
	}
	if c.DryRun {
		return x.printPlan(a)
	}
	unlock, err := a.lock(x.ctr.Runtime.Name + "-" + x.ctr.ID)
	if err != nil {
		return fmt.Errorf("export container %q: %w", x.ctr.ID, err)
	}
	defer unlock()
	if err := x.checkSpace(a); err != nil {
		return err
	}
	out, err := a.createSink(ctx, x.dest, sinkOptions{
		Compression: x.compression, Replace: c.Force, Encrypt: x.recipients,
		formFlags: c.formFlags, Parent: cmp.Or(x.parent, c.Parent), Of: x.meta,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	p := a.newProgress()
	if c.PreDump {
		err = x.preDump(ctx, a, out, p)
	} else {
		err = x.withoutMemory(x.run(ctx, a, out, p))
	}
	p.close(err)
	if err != nil {
		return cause(ctx, fmt.Errorf("export container %q: %w", x.ctr.ID, err))
	}
	if err := a.noteMade(&x.meta); err != nil {
		a.warn("%v: a restore will treat it as anybody's", err)
	}
	return x.report(ctx, a, out)
}

// export is one run of exportCmd with everything found that it needs.
type export struct {
	cmd         *exportCmd
	dest        location
	parent      string // --parent of a DEST in a store; that of a directory of images stays with the flags
	compression archive.Compression
	recipients  *crypt.Recipients // nil: it is not encrypted
	ctr         *runtime.Container
	criu        criu.Binary
	ghostLimit  uint32
	base        *archive.Base
	baseDir     string
	meta        archive.Metadata
	collected   bool // the root file system was archived during the dump
	out         *sink
	spool       *archive.Spool // memory that was packed, or nil
	hold        *archive.Hold  // memory that is to be archived, or nil
	watch       stopwatch
}

// goesOn tells whether the container is there afterwards.
func (c *exportCmd) goesOn() bool { return c.LeaveRunning || c.LeavePaused || c.PreDump }

// endsInDump tells whether CRIU itself has to end the processes: it holds their connections still,
// or has their memory.
func (x *export) endsInDump() bool {
	return x.cmd.TCPEstablished && !x.cmd.goesOn() || x.cmd.LazyPages
}

// prepare finds out everything that can fail before the container is touched.
func (c *exportCmd) prepare(ctx context.Context, a *app) (*export, error) {
	x := &export{cmd: c}
	var err error
	if x.dest, err = parseLocation(c.Dest); err != nil {
		return nil, err
	}
	if x.compression, err = x.dest.compression(c.Compress); err != nil {
		return nil, err
	}
	if err := x.splitParent(); err != nil {
		return nil, err
	}
	if err := c.checkFlags(x.dest); err != nil {
		return nil, err
	}
	if x.recipients, err = c.recipients(a); err != nil {
		return nil, err
	}
	if err := a.checkPlain(x.dest, x.recipients != nil); err != nil {
		return nil, err
	}
	if x.ghostLimit, err = ghostLimit(c.GhostLimit); err != nil {
		return nil, err
	}
	if err := x.findBase(); err != nil {
		return nil, err
	}
	if x.ctr, err = runtime.Find(ctx, c.Container, c.find(a)); err != nil {
		return nil, err
	}
	if err := x.ctr.Dumpable(); err != nil {
		return nil, err
	}
	if sandboxed(x.ctr) {
		return x, x.prepareSandbox(ctx)
	}
	if err := x.checkEngine(ctx); err != nil {
		return nil, err
	}
	if x.criu, err = a.findCRIU(ctx); err != nil {
		return nil, err
	}
	if err := x.checkMemory(ctx); err != nil {
		return nil, err
	}
	if err := x.preflight(ctx, a); err != nil {
		return nil, err
	}
	return x, x.describe(ctx)
}

// splitParent tells a checkpoint in a store from CRIU's images, which are another kind of parent.
func (x *export) splitParent() (err error) {
	switch {
	case x.cmd.Parent == "":
	case x.dest.kind == locationName || x.dest.kind == locationLayout:
		x.parent, x.cmd.Parent = x.cmd.Parent, ""
	default:
		x.cmd.Parent, err = filepath.Abs(x.cmd.Parent)
	}
	return err
}

func (f runtimeFlags) find(a *app) runtime.FindOptions {
	return runtime.FindOptions{Runtime: f.Runtime, Root: f.RuntimeRoot, State: a.directDir()}
}

// run is the capture itself.
func (x *export) run(ctx context.Context, a *app, out *sink, p *progress) error {
	job := capture.Job{
		Target: capture.Target{
			ID: x.ctr.ID, Runtime: x.ctr.Runtime.Name, RuntimePath: x.ctr.Runtime.Path,
			RuntimeRoot: x.ctr.Runtime.Root, PID: x.ctr.PID, StartTime: runtime.StartTime(x.ctr.PID),
		},
		LeaveRunning: x.cmd.LeaveRunning,
		LeavePaused:  x.cmd.LeavePaused,
		WasPaused:    x.ctr.Status == runtime.Paused,
		EndInDump:    x.endsInDump(),
		Temporary:    out.temporary(),
		Dump: func(ctx context.Context, dir string, frozen func(context.Context) error) error {
			p.begin("dump", 0)
			return x.dump(ctx, a, dir, frozen)
		},
		Collect: func(ctx context.Context, dir string) error {
			p.begin("root file system", 0)
			return x.collect(ctx, dir)
		},
		Sink:  out,
		Guard: a.startGuard,
	}
	var writing *task
	job.Seal = func(ctx context.Context, dir string) (archive.Source, error) {
		kept, err := x.kept(ctx, dir, p)
		if err != nil {
			return nil, err
		}
		x.watch.note(&x.meta)
		p.begin("hash", 0)
		spec, err := x.normalize(a, dir)
		if err != nil {
			return nil, err
		}
		src, err := archive.Seal(ctx, dir, kept, &x.meta, spec)
		if err != nil {
			return nil, err
		}
		total := int64(0)
		for _, m := range x.meta.Members {
			total += m.Size
		}
		writing = p.begin("archive", total)
		return src, nil
	}
	job.Copy.OnBytes = func(n int64) { writing.add(n) }
	x.out = out
	x.meta.Created = time.Now().UTC().Truncate(time.Second)
	if err := x.holdMemory(a); err != nil {
		return err
	}
	err := capture.Run(ctx, a.spoolDir(), timed{x.ctr, &x.watch}, job)
	return errors.Join(err, x.dropHold())
}

// report prints the digest or path of the finished archive.
func (x *export) report(ctx context.Context, a *app, out *sink) error {
	ended := x.cmd.goesOn() && x.ctr.Status == runtime.Stopped
	if ended {
		a.warn("container %q ended as soon as it went on; the archive is from before that", x.ctr.ID)
	}
	if !x.cmd.goesOn() && !x.cmd.Delete {
		if next := x.ctr.AfterStop(); next != "" {
			a.say("hint: %s", next)
		}
	}
	if x.cmd.Delete {
		if x.ctr.Engine != "" {
			a.warn("container %q belongs to %s, which keeps a state of its own: %s", x.ctr.ID, x.ctr.Engine, x.ctr.AfterStop())
		}
		if err := x.ctr.Delete(ctx); err != nil {
			a.warn("%v", err)
		}
	}
	if err := x.cmd.print(a, dumpRows(x.meta.Stats)); err != nil {
		return err
	}
	return a.printResult(out.result(), exportResult{
		transferResult: x.where(a, out), Container: x.ctr.ID, Created: x.meta.Created,
		MemoryBytes: x.meta.Container.MemoryBytes, Processes: x.meta.Container.Processes, Stats: x.meta.Stats,
		Running: (x.cmd.LeaveRunning || x.cmd.PreDump) && !ended,
	})
}

// exportResult is what --json prints.
type exportResult struct {
	transferResult
	Container   string         `json:"container"`   // its ID
	Created     time.Time      `json:"created"`     // when it was frozen
	MemoryBytes int64          `json:"memoryBytes"` // that were dumped
	Processes   int            `json:"processes"`
	Stats       *archive.Stats `json:"stats,omitempty"`
	Running     bool           `json:"running"` // the container goes on
}

// where says where the archive is.
func (x *export) where(a *app, out *sink) transferResult {
	res := transferResult{Path: out.path, Timings: x.cmd.timings(a)}
	if out.image != nil {
		res.Digest, res.Reference = out.result(), x.dest.text
	}
	if out.image != nil && x.dest.kind == locationName {
		res.Reference = x.dest.ref.String()
	}
	return res
}
