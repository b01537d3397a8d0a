package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// recorder takes the value of a quantity.
type recorder func(quantity string, value float64)

// byFile measures one export to a file and, if wanted, its restore.
func byFile(ctx context.Context, s *scene, t tool, add recorder, restore bool) (err error) {
	file := filepath.Join(s.dir, "archive.tar.zst")
	defer func() { err = errors.Join(err, os.RemoveAll(file)) }()
	c, remove, err := begin(ctx, s, t)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return err
	}
	if err := s.warmUp(); err != nil {
		return err
	}
	x, err := c.export(ctx, file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	add(exportWall, x.wall.Seconds())
	add(exportCPU, x.cpu.Seconds())
	add(archiveBytes, mebibytes(info.Size()))
	add(frozenTime, x.frozen.Seconds())
	if x.paused > 0 {
		add(pausedTime, x.paused.Seconds())
	}
	add(exportPeak, mebibytes(x.peak))
	add(exportPeakAll, mebibytes(x.peakAll))
	if !restore {
		return nil
	}
	if err := s.warmUp(); err != nil {
		return err
	}
	u, err := c.restore(ctx, file)
	if err != nil {
		return err
	}
	tick, err := s.load.answer(ctx, u.began)
	if err != nil {
		return err
	}
	add(restoreTick, tick.Sub(u.began).Seconds())
	add(restoreWall, u.wall.Seconds())
	add(restoreCPU, u.cpu.Seconds())
	add(restorePeak, mebibytes(u.peak))
	add(restorePeakAll, mebibytes(u.peakAll))
	return s.load.compare(ctx)
}

// begin starts the load and fills it. What remove removes is there after an error, too.
func begin(ctx context.Context, s *scene, t tool) (container, func() error, error) {
	remove := func() error { return nil }
	if err := s.clear(); err != nil {
		return nil, remove, err
	}
	c, err := t.start(ctx)
	remove = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		defer cancel()
		return c.remove(ctx)
	}
	if err != nil {
		return c, remove, err
	}
	return c, remove, s.load.fill(ctx)
}

// fileExporter is a container whose tool has another way to an archive file than to a registry.
type fileExporter interface {
	// exportFile writes a file. The container goes on.
	exportFile(ctx context.Context, file string) (exported, error)
}

// byRegistry measures the way through a registry: a first checkpoint, one after each change of so many per
// cent, and two restores of the last one on another host, if wanted.
func byRegistry(ctx context.Context, s *scene, t tool, add recorder, changes []change, restore bool) (err error) {
	dir, err := os.MkdirTemp(s.dir, "registry-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := startRegistry(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	c, remove, err := begin(ctx, s, t)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return err
	}
	if f, ok := c.(fileExporter); ok {
		if err := exportFile(ctx, s, f, add); err != nil {
			return err
		}
	}
	name := server.host + "/bench:v0"
	p, err := publish(ctx, s, c, server, name, "first", add)
	if err != nil {
		return err
	}
	if _, ok := c.(fileExporter); !ok {
		add(firstExport, p.export.wall.Seconds())
	}
	add(frozenTime, p.export.frozen.Seconds())
	if load, ok := s.load.(mixed); ok { // of the others nobody knows the size so well
		add(frozenPerGiB, p.export.frozen.Seconds()*1024/float64(load.mib))
	}
	if p.export.paused > 0 {
		add(pausedTime, p.export.paused.Seconds())
	}
	add(exportPeak, mebibytes(p.export.peak))
	add(pushPeak, mebibytes(p.push.peak))
	for n, ch := range changes {
		if err := s.load.change(ctx, ch.percent); err != nil {
			return err
		}
		if n == len(changes)-1 {
			if err := s.load.remember(ctx); err != nil {
				return err
			}
		}
		name = fmt.Sprintf("%s/bench:v%d", server.host, n+1)
		if _, err := publish(ctx, s, c, server, name, ch.when, add); err != nil {
			return err
		}
	}
	if !restore {
		return nil
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	if err := revive(ctx, s, name, c.fetch, add, fetchTick, fetchCPU, fetchPeak); err != nil {
		return err
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	return revive(ctx, s, name, c.again, add, againTick, againCPU, againPeak)
}

func exportFile(ctx context.Context, s *scene, c fileExporter, add recorder) error {
	if err := s.warmUp(); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "archive.tar.zst")
	x, err := c.exportFile(ctx, file)
	if err != nil {
		return err
	}
	add(firstExport, x.wall.Seconds())
	return os.Remove(file)
}

// publish measures one checkpoint on its way into the registry.
func publish(ctx context.Context, s *scene, c container, to *registryServer, name, when string, add recorder) (p published, err error) {
	if err := s.warmUp(); err != nil {
		return p, err
	}
	before, err := to.stored()
	if err != nil {
		return p, err
	}
	load, ticks := s.load.(mixed)
	if ticks {
		if err := load.forgetTicks(); err != nil {
			return p, err
		}
	}
	if p, err = c.publish(ctx, name); err != nil {
		return p, err
	}
	stored, err := to.stored()
	if err != nil {
		return p, err
	}
	add(publishWall(when), (p.export.wall + p.push.wall).Seconds())
	add(publishCPU(when), (p.export.cpu + p.push.cpu).Seconds())
	add(pushWall(when), p.push.wall.Seconds())
	add(pushBytes(when), mebibytes(stored-before))
	if !ticks {
		return p, nil
	}
	seen, err := load.ticks()
	if err != nil {
		return p, err
	}
	gap, err := longestGap(seen)
	add(gapSeen(when), gap.Seconds())
	return p, err
}

// revive measures a restore to its first sign of life.
func revive(ctx context.Context, s *scene, name string, restore func(context.Context, string) (usage, error), add recorder, wall, cpu, peak string) error {
	if load, ok := s.load.(mixed); ok {
		if err := load.forgetTicks(); err != nil {
			return err
		}
	}
	if err := s.warmUp(); err != nil {
		return err
	}
	u, err := restore(ctx, name)
	if err != nil {
		return err
	}
	at, err := s.load.answer(ctx, u.began)
	if err != nil {
		return err
	}
	add(wall, at.Sub(u.began).Seconds())
	add(cpu, u.cpu.Seconds())
	add(peak, mebibytes(u.peak))
	return s.load.compare(ctx)
}

// cleanUpTime bounds the cleaning up after an interrupt.
const cleanUpTime = time.Minute

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// rotated are the tools with another one first each time.
func rotated(tools []string, n int) []string {
	n %= len(tools)
	return append(slices.Clone(tools[n:]), tools[:n]...)
}
