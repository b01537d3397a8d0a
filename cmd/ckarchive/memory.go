package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/pages"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// Between the dump and the archive memory is in one of three places. A container that is stopped into
// a file is packed while CRIU writes, as nobody waits for it to go on. For all others it is held in
// memory that was taken before the freeze, and packed or stored when the container runs again.
// Where neither can be, it is in CRIU's files.

// packsMemory tells whether memory is packed while CRIU writes it, so that it reaches the disk only
// in the form of the archive.
func (x *export) packsMemory() bool {
	return !x.cmd.goesOn() && x.packedFile()
}

// packedFile tells whether the archive is a file that can take what was packed before.
func (x *export) packedFile() bool {
	return x.dest.kind == locationFile && x.compression == archive.Zstd
}

// holdMemory takes memory for that of the container. It is no error if there is none to take.
func (x *export) holdMemory(a *app) error {
	c := x.cmd
	if x.packsMemory() || x.dest.kind == locationImages || sandboxed(x.ctr) || c.PageServer != "" {
		return nil
	}
	limit, err := holdLimit(c.HoldMemory)
	if err != nil {
		return err
	}
	need, err := x.ctr.MemoryUsage()
	if err != nil {
		need = 0 // without a memory cgroup nobody knows, and files take it all
	}
	// The last pages come while memory is taken; and each pages file ends within a piece.
	need += need/64 + holdSlack
	x.hold, err = archive.NewHold(min(need, limit))
	if err != nil {
		a.say("memory goes to %q until it is archived: %v", a.spoolDir(), err)
		x.hold, err = archive.NewHold(0)
	}
	return err
}

// holdSlack is more than the last pieces of a few processes' pages files need, in bytes.
const holdSlack = 32 << 20

// holdLimit is how much memory may be taken: what the flag says, or half of what is available.
func holdLimit(flag string) (int64, error) {
	if flag != "" {
		n, err := units.RAMInBytes(flag)
		if err != nil {
			return 0, usagef("--hold-memory %s: %w", flag, err)
		}
		return n, nil
	}
	available, err := runtime.AvailableMemory()
	return available / 2, err
}

// keeper takes members while CRIU writes them.
type keeper interface {
	Put(ctx context.Context, name string, r io.Reader) error
}

// takePages is what takes the memory that a dump gives, or nil where it stays in files. dir is the directory
// of the capture.
func (x *export) takePages(dir string) (_ criu.TakePages, err error) {
	var to keeper
	switch {
	case x.packsMemory():
		if x.spool, err = x.out.file.Spool(filepath.Join(dir, "packed")); err != nil {
			return nil, err
		}
		to = x.spool
	case x.hold != nil:
		x.hold.Dir = filepath.Join(dir, "held")
		to = x.hold
	default:
		return nil, nil //nolint:nilnil // it stays in files
	}
	return func(ctx context.Context, name string, r io.Reader) error {
		return to.Put(ctx, archive.Image(name), r)
	}, nil
}

// kept is where the memory is when the archive of dir is written, or nil if it is among the other members.
func (x *export) kept(ctx context.Context, dir string, p *progress) (archive.Kept, error) {
	switch {
	case x.spool != nil:
		return x.spool, nil
	case x.hold == nil:
		return nil, nil //nolint:nilnil // it is nowhere else
	case !x.packedFile():
		if to, ok := x.out.image.(memoryTaker); ok {
			return x.store(ctx, to, dir, p)
		}
		return x.hold, nil
	}
	packing := p.begin("pack", x.hold.Size())
	defer x.watch.packing(time.Now())
	var err error
	if x.spool, err = x.out.file.Spool(filepath.Join(filepath.Dir(dir), "packed")); err != nil {
		return nil, err
	}
	for _, name := range x.hold.Names() {
		if err := x.pack(ctx, name, packing); err != nil {
			return nil, err
		}
	}
	return x.spool, x.dropHold()
}

// pack moves one member from the memory into the spool.
func (x *export) pack(ctx context.Context, name string, packing *task) (err error) {
	b, err := x.hold.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := x.spool.Put(ctx, name, io.NewSectionReader(b, 0, b.Size())); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	packing.add(b.Size())
	return nil
}

// memoryTaker is a store that takes memory before the metadata, which need its digests.
type memoryTaker interface {
	TakeMap(name string, r io.Reader) error
	Take(ctx context.Context, name string, r io.Reader) (archive.Member, error)
}

var _ memoryTaker = (*artifact.NativeWriter)(nil)

// store moves the memory to its store, page maps of dir first.
func (x *export) store(ctx context.Context, to memoryTaker, dir string, p *progress) (archive.Kept, error) {
	images, err := os.ReadDir(filepath.Join(dir, archive.CheckpointDir))
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		name := archive.Image(image.Name())
		if !pages.IsPagemap(name) {
			continue
		}
		if err := takeMap(to, dir, name); err != nil {
			return nil, err
		}
	}
	storing := p.begin("store", x.hold.Size())
	defer x.watch.packing(time.Now())
	taken := archive.Taken{}
	for _, name := range x.hold.Names() {
		b, err := x.hold.Open(name)
		if err != nil {
			return nil, err
		}
		m, err := to.Take(ctx, name, io.NewSectionReader(b, 0, b.Size()))
		if err := errors.Join(err, b.Close()); err != nil {
			return nil, fmt.Errorf("store %s: %w", name, err)
		}
		taken = append(taken, m)
		storing.add(m.Size)
	}
	return taken, x.dropHold()
}

func takeMap(to memoryTaker, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	return to.TakeMap(name, f)
}

// dropHold gives the memory back.
func (x *export) dropHold() error {
	if x.hold == nil {
		return nil
	}
	hold := x.hold
	x.hold = nil
	return hold.Close()
}
