package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// DumpOptions say what is dumped and how. Spec, PID, Rootfs and ImagesDir are needed.
type DumpOptions struct {
	Flags
	Spec   *specs.Spec
	PID    int    // first process of the container, as this host counts
	Rootfs string // its root file system on this host
	// Descriptors are the standard descriptors as the runtime recorded them when it
	// started the container (external_descriptors). nil: found by looking.
	Descriptors []string
	ImagesDir   string // must be empty or not exist
	WorkDir     string // for the log and statistics; empty: ImagesDir
	// ToolsDir is a directory whose programs CRIU takes before the system's: its gzip packs the content
	// of a tmpfs while the container stands still. It is not used for a container with a user
	// namespace, whose root may not be allowed to see it. Empty: none.
	ToolsDir string
	// LeaveRunning lets the container go on after the dump, or stay paused if it was.
	// Otherwise CRIU kills it when PostDump has returned nil.
	LeaveRunning    bool
	TCPSkipInFlight bool          // leave out connections that are not established yet
	LinkRemap       bool          // allow deleted files with other names; links appear in Rootfs until the container goes on
	GhostLimit      uint32        // bytes of a deleted file that is dumped; 0: CRIU's limit of 1 MiB
	FreezeTimeout   time.Duration // for stopping the tasks, in whole seconds; 0: CRIU's 10 seconds
	ForceIrmap      bool          // find the names of files watched with inotify by a search, whatever the file system
	IrmapPaths      []string      // directories that are searched first, and implies ForceIrmap
	EmptyNetNS      bool          // leave the network namespace out but for its existence
	External        []string      // further external objects in CRIU's notation, as "unix[1234]"
	// ExternalSockets are names of unix sockets outside of the container, paths or abstract ("@name"):
	// the container's connections to them are left for the restore to make again.
	ExternalSockets []string
	// Parent is an image directory of an earlier [PreDump] or dump of the container: only memory that
	// changed since is written, and ImagesDir is of no use without it. It needs [Features].MemTrack.
	Parent string
	// AutoDedup frees in Parent what the new images hold too.
	AutoDedup bool
	// PageServer, unless empty, is the ADDRESS:PORT of a page server ("criu page-server"), which gets
	// the memory; ImagesDir then holds everything else.
	PageServer string
	// LazyPages, unless empty, is the ADDRESS:PORT on which the memory is served page by page when
	// PostDump has returned nil, to "criu lazy-pages" on the host of the restore. The dump is over when all
	// of it is there. LazyReady, unless nil, runs when somebody may connect.
	LazyPages string
	LazyReady func() error
	// TakePages, unless nil, reads the memory while it is dumped: the pages files are pipes to it
	// and are not in ImagesDir afterwards. The dump is over when all of it has been read.
	TakePages TakePages
	// PostDump runs when all images are there and proved, and the tasks still stand
	// still. It is told what is known of the dump, all but the statistics. An error of it lets the dump fail and
	// the container go on.
	PostDump func(ctx context.Context, d Dumped) error
}

// Dumped is what a dump left.
type Dumped struct {
	Externals   []archive.External // what a restore has to supply
	Descriptors []string           // content of descriptors.json
	Stats       *archive.Stats     // nil if CRIU wrote none
	Version     Version            // of CRIU
	Processes   int
	MemoryBytes int64  // sum of the pages files
	LogPath     string // of CRIU
}

// Dump writes the images of a running or paused container. An error means that
// the container is as it was, unless [*Error].Running says otherwise.
func Dump(ctx context.Context, b Binary, opts DumpOptions) (Dumped, error) {
	d := &dump{opts: opts}
	o, err := d.begin(ctx, b)
	if err != nil {
		return Dumped{}, fmt.Errorf("prepare dump of process %d: %w", opts.PID, err)
	}
	defer d.dirs.close()
	if err := d.openPipes(ctx); err != nil {
		return Dumped{}, fmt.Errorf("prepare dump of process %d: %w", opts.PID, err)
	}
	defer d.closePipes()
	s := session{
		bin: b.Path, logPath: d.result.LogPath, privateMounts: true,
		notify: d.notify,
	}
	if !opts.LeaveRunning {
		s.accepted = notePostDump // the tasks may be gone from then on
	}
	if !hasNamespace(opts.Spec, specs.UserNamespace) {
		s.toolsDir = opts.ToolsDir
	}
	if opts.LazyPages != "" {
		if err := d.serveLazily(&s); err != nil {
			return Dumped{}, fmt.Errorf("prepare dump of process %d: %w", opts.PID, err)
		}
		defer os.Remove(s.configFile) //nolint:errcheck // of use to CRIU alone, which has ended
	}
	if _, err := s.run(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: o}); err != nil {
		// CRIU only knows that a pipe was closed; whoever read it knows why.
		if _, terr := d.takenPages(); terr != nil && d.hook == nil {
			d.hook = terr
		}
		// CRIU may have been killed, or may have been unable to undo what it did.
		return Dumped{}, errors.Join(d.failure(err), Unlock(context.WithoutCancel(ctx), d.opts.PID))
	}
	d.result.Stats, err = ReadStats(d.opts.WorkDir)
	if err != nil && opts.LeaveRunning {
		// A full work directory leaves an empty file and no other trace.
		return Dumped{}, &Error{Op: "dump", LogPath: d.result.LogPath, Running: true, Err: fmt.Errorf("statistics are missing, the disk may be full: %w", err)}
	}
	return d.result, nil
}

// begin finds out what the request of a dump needs, and makes it. The caller closes d.dirs.
func (d *dump) begin(ctx context.Context, b Binary) (*rpc.CriuOpts, error) {
	if err := d.opts.validate(); err != nil {
		return nil, err
	}
	var err error
	if d.result.Version, err = b.Version(ctx); err != nil {
		return nil, err
	}
	if d.opts.Parent != "" {
		if err := b.tracksMemory(ctx); err != nil {
			return nil, err
		}
	}
	if err := d.prepare(); err != nil {
		return nil, err
	}
	f, err := gatherFacts(d.opts.PID)
	if err != nil {
		return nil, err
	}
	sockets, err := socketsTo(d.opts.PID, d.opts.ExternalSockets)
	if err != nil {
		return nil, err
	}
	if d.dirs, err = openDirs(d.opts.ImagesDir, d.opts.WorkDir); err != nil {
		return nil, err
	}
	o := d.dirs.options(DumpLog)
	if d.result.Externals, err = dumpRequest(o, d.opts, f, sockets); err == nil {
		err = markDirectories(d.opts.PID, d.result.Externals)
	}
	if err != nil {
		d.dirs.close()
		return nil, err
	}
	return o, nil
}

// dump is a dump at work.
type dump struct {
	opts   DumpOptions
	dirs   *dirs
	result Dumped
	pipes  *PagePipes
	hook   error // what PostDump or the checks before it said
}

func (d *dump) openPipes(ctx context.Context) error {
	if d.opts.TakePages == nil {
		return nil
	}
	tasks, err := taskTree(d.opts.PID)
	if err != nil {
		return err
	}
	d.pipes, err = newPagePipes(ctx, d.opts.ImagesDir, len(tasks), d.opts.TakePages)
	return err
}

// takenPages waits for the pipes and gives the sizes of the files that went through them.
func (d *dump) takenPages() (map[string]int64, error) {
	if d.pipes == nil {
		return nil, nil //nolint:nilnil // nothing was taken
	}
	p := d.pipes
	d.pipes = nil
	return p.finish()
}

func (d *dump) closePipes() {
	if d.pipes != nil {
		d.pipes.abort()
	}
}

// validate refuses options that cannot be meant, before anything is made.
func (o DumpOptions) validate() error {
	switch {
	case o.Spec == nil || o.PID <= 0 || o.Rootfs == "" || o.ImagesDir == "":
		return errors.New("a spec, a process, a root file system and an image directory are needed")
	case o.AutoDedup && o.Parent == "":
		return errors.New("auto dedup frees memory in a parent, and none was given")
	case o.LazyPages != "" && o.PageServer != "":
		return errors.New("memory is either served lazily or sent to a page server")
	case o.LazyPages != "" && o.LeaveRunning:
		return errors.New("memory that is served lazily goes away: the container cannot go on here")
	case o.TakePages != nil && (o.LazyPages != "" || o.PageServer != "" || o.AutoDedup):
		return errors.New("memory goes to one place")
	}
	return nil
}

func (d *dump) prepare() error {
	o := &d.opts
	var err error
	if o.ImagesDir, err = makeDir(o.ImagesDir); err != nil {
		return err
	}
	entries, err := os.ReadDir(o.ImagesDir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		// CRIU leaves files of an earlier dump among the new ones.
		return fmt.Errorf("image directory %q is not empty", o.ImagesDir)
	}
	if o.WorkDir == "" {
		o.WorkDir = o.ImagesDir
	}
	if o.WorkDir, err = makeDir(o.WorkDir); err != nil {
		return err
	}
	d.result.LogPath = filepath.Join(o.WorkDir, DumpLog)
	if o.Rootfs, err = filepath.EvalSymlinks(o.Rootfs); err != nil {
		return fmt.Errorf("find root file system: %w", err)
	}
	if o.Descriptors == nil {
		if o.Descriptors, err = findDescriptors(o.PID); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) notify(ctx context.Context, n notification) (*rpc.CriuOpts, error) {
	switch n.script {
	case noteQueryFiles:
		// The tasks stand still now: what is found stays true.
		ext, err := findExternals(d.opts.PID, d.opts.Descriptors)
		if err != nil {
			d.hook = err
			return nil, err
		}
		d.result.Externals = append(d.result.Externals, ext...)
		reply := &rpc.CriuOpts{ImagesDirFd: proto.Int32(-1)} // the field is required
		for _, e := range ext {
			reply.External = append(reply.External, e.Key)
		}
		return reply, nil
	case notePostDump:
		d.hook = d.postDump(ctx)
		return nil, d.hook
	case noteStatusReady:
		if d.opts.LazyReady == nil {
			return nil, nil //nolint:nilnil // nobody waits for it
		}
		d.hook = d.opts.LazyReady()
		return nil, d.hook
	default:
		return nil, nil //nolint:nilnil // nothing to add is an answer
	}
}

// postDump proves the images and calls the caller's PostDump.
func (d *dump) postDump(ctx context.Context) error {
	d.result.Descriptors = describe(d.opts.Descriptors, d.result.Externals)
	if err := writeDescriptors(d.opts.ImagesDir, d.result.Descriptors); err != nil {
		return err
	}
	taken, err := d.takenPages()
	if err != nil {
		return err
	}
	checked, err := Check(ctx, d.opts.ImagesDir, CheckOptions{
		Taken: taken, WithoutMemory: d.opts.PageServer != "", child: d.opts.Parent != "",
	})
	if err != nil {
		return fmt.Errorf("images of the dump are not whole: %w", err)
	}
	d.result.Processes, d.result.MemoryBytes = checked.Processes, checked.MemoryBytes
	if d.opts.PostDump == nil {
		return nil
	}
	return d.opts.PostDump(ctx, d.result)
}

// failure makes the error of a dump. CRIU lets the container go on in every one.
func (d *dump) failure(err error) error {
	if d.hook != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		// CRIU's log says no more than that it was told to give up.
		return &Error{Op: "dump", LogPath: d.result.LogPath, Running: alive(d.opts.PID), Err: d.hook}
	}
	e := newError("dump", d.result.LogPath, err)
	e.Running = alive(d.opts.PID)
	return e
}
