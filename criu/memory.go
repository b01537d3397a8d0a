package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// ErrNoMemTrack says that this kernel does not tell which memory changed, so that nothing but
// whole dumps is possible.
var ErrNoMemTrack = errors.New("this kernel does not track changes of memory (soft-dirty bits)")

// tracksMemory asks CRIU, which has tried it, whether changes of memory are tracked.
func (b Binary) tracksMemory(ctx context.Context) error {
	f, err := b.Features(ctx)
	if err != nil {
		return err
	}
	if !f.MemTrack {
		return ErrNoMemTrack
	}
	return nil
}

// PreDump writes the memory of a running container into opts.ImagesDir and lets it go on, so that a
// dump with that directory as its Parent has less to write while the container stands still. An
// error means that the container runs as before; an [ErrNoMemTrack], that it was not touched.
//
// Of the options those that are about memory count: Parent, AutoDedup, PageServer.
func PreDump(ctx context.Context, b Binary, opts DumpOptions) (Dumped, error) {
	d := &dump{opts: opts}
	o, err := d.beginEarly(ctx, b)
	if err != nil {
		return Dumped{}, fmt.Errorf("prepare pre-dump of process %d: %w", opts.PID, err)
	}
	defer d.dirs.close()
	s := session{bin: b.Path, logPath: d.result.LogPath, privateMounts: true}
	if _, err := s.run(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_SINGLE_PRE_DUMP.Enum(), Opts: o}); err != nil {
		e := newError("pre-dump", d.result.LogPath, err)
		e.Running = alive(opts.PID)
		return Dumped{}, e
	}
	d.result.Stats, err = ReadStats(d.opts.WorkDir)
	return d.result, err
}

// beginEarly is begin for a pre-dump.
func (d *dump) beginEarly(ctx context.Context, b Binary) (*rpc.CriuOpts, error) {
	if d.opts.LazyPages != "" || d.opts.TakePages != nil || d.opts.PostDump != nil {
		return nil, errors.New("a pre-dump writes memory to files or to a page server")
	}
	if err := b.tracksMemory(ctx); err != nil {
		return nil, err
	}
	o, err := d.begin(ctx, b)
	if err == nil {
		o.TrackMem = proto.Bool(true)
	}
	return o, err
}

// memoryRequest fills in where the memory of a dump goes.
func memoryRequest(o *rpc.CriuOpts, opts DumpOptions) error {
	if opts.Parent != "" {
		link, err := relativeTo(opts.ImagesDir, opts.Parent)
		if err != nil {
			return err
		}
		o.ParentImg = proto.String(link)
		o.TrackMem = proto.Bool(true)
	}
	if opts.AutoDedup {
		o.AutoDedup = proto.Bool(true)
	}
	address := opts.PageServer
	if opts.LazyPages != "" {
		o.LazyPages = proto.Bool(true)
		address = opts.LazyPages
	}
	if address == "" {
		return nil
	}
	host, port, err := SplitAddress(address)
	if err != nil {
		return err
	}
	o.Ps = &rpc.CriuPageServerInfo{Address: proto.String(host), Port: proto.Int32(int32(port))}
	return nil
}

// SplitAddress reads the address of a page server: ADDRESS:PORT, with an IP address, since CRIU
// looks up no names.
func SplitAddress(s string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("page server %q: want ADDRESS:PORT", s)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("page server %q: port %q is not a number from 1 to 65535", s, text)
	}
	if net.ParseIP(host) == nil {
		return "", 0, fmt.Errorf("page server %q: %q is not an IP address", s, host)
	}
	return host, uint16(n), nil
}

// relativeTo gives the way from one directory to another: images are moved together.
func relativeTo(from, to string) (string, error) {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return "", fmt.Errorf("find image directory: %w", err)
	}
	if to, err = filepath.Abs(to); err == nil {
		to, err = filepath.EvalSymlinks(to)
	}
	if err != nil {
		return "", fmt.Errorf("find parent images: %w", err)
	}
	return filepath.Rel(from, to)
}

// lazyPipeBytes is the pipe through which CRIU serves memory. Where it cannot have it, it fails at the first
// page, when the container stands still already.
const lazyPipeBytes = 4 << 20

// ErrLazyPipe says that CRIU could not serve memory lazily on this host.
var ErrLazyPipe = errors.New("CRIU needs a pipe of 4 MiB to serve memory: fs.pipe-max-size is smaller and CAP_SYS_RESOURCE is missing")

// CanServeLazily tells whether CRIU could serve memory lazily on this host: an [ErrLazyPipe] if not.
func CanServeLazily() (err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close(), w.Close()) }()
	if _, err := unix.FcntlInt(r.Fd(), unix.F_SETPIPE_SZ, lazyPipeBytes); err != nil {
		return fmt.Errorf("%w: %w", ErrLazyPipe, err)
	}
	return nil
}

// serveLazily prepares a session in which CRIU serves memory when its images are written. The
// context can end it all that time: nobody knows whether anyone will ask for the memory.
func (d *dump) serveLazily(s *session) error {
	host, _, err := SplitAddress(d.opts.LazyPages)
	if err != nil {
		return err
	}
	if err := CanServeLazily(); err != nil {
		return err
	}
	s.accepted = ""
	// CRIU takes the port of a lazy server from the request, and ignores its address there.
	s.configFile = filepath.Join(d.opts.WorkDir, "lazy-pages.conf")
	return os.WriteFile(s.configFile, []byte("address "+host+"\n"), 0o600)
}
