// Command bench compares ckarchive with Podman and with runc's own checkpoint
// packed by tar, side by side on the same load: how long an export takes, how large its
// archive is, and how long it is from the restore command to the first instruction
// of the container. It needs root, CRIU, runc, podman and zstd.
//
//	go run ./test/bench [-size MIB] [-runs N] [-only export,restore] [-with ckarchive,podman,runc]
//
// It prints a table and whether the goals are met; a missed goal is no failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	mib    int
	runs   int
	steps  []string
	tools  []string
	binary string
	tree   string
	dir    string
}

// The names of the tools and of what they do.
const (
	oursName    = "ckarchive"
	podmanName  = "podman"
	plainName   = "runc"
	exportStep  = "export"
	restoreStep = "restore"
)

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.mib, "size", 1024, "memory of the container in `MIB`")
	flags.IntVar(&o.runs, "runs", 3, "how often each tool is measured")
	only := flags.String("only", "", "comma-separated `steps`: export, restore (which exports first)")
	with := flags.String("with", oursName+","+podmanName+","+plainName, "comma-separated `tools`, in the order of the columns")
	flags.StringVar(&o.binary, "ckarchive", "", "the `binary` to measure; by default it is built")
	flags.StringVar(&o.tree, "base", "", "`directory` to copy into the root file system of the containers")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the work, on the kind of disk that is to be measured")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.steps, o.tools = []string{exportStep, restoreStep}, strings.Split(*with, ",")
	if *only != "" {
		o.steps = strings.Split(*only, ",")
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.mib <= 0 || o.runs <= 0:
		return o, errors.New("-size and -runs are at least 1")
	}
	return o, errors.Join(known("-only", o.steps, exportStep, restoreStep), known("-with", o.tools, oursName, podmanName, plainName))
}

func known(flag string, given []string, names ...string) error {
	for _, g := range given {
		if !slices.Contains(names, g) {
			return fmt.Errorf("%s %q: only %s are known", flag, g, strings.Join(names, ", "))
		}
	}
	return nil
}

// cleanUpTime bounds the cleaning up after an interrupt.
const cleanUpTime = time.Minute

func bench(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("only root can freeze containers: run it as root")
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "ckarchive-bench-")
	if err != nil {
		return err
	}
	cleanUp, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer func() { err = errors.Join(err, run(cleanUp, "rm", "-rf", "--one-file-system", dir)) }()
	s, err := newScene(ctx, dir, o.binary, o.tree, o.mib)
	if err != nil {
		return err
	}
	tools := map[string]tool{oursName: ours{s}, plainName: plain{s}}
	if slices.Contains(o.tools, podmanName) {
		p := newPodman(s)
		defer func() { err = errors.Join(err, p.close(cleanUp)) }()
		if err := p.importBase(ctx); err != nil {
			return err
		}
		tools[podmanName] = p
	}
	r := results{}
	for n := range o.runs {
		// Every tool comes first now and then.
		for i := range o.tools {
			name := o.tools[(n+i)%len(o.tools)]
			fmt.Fprintf(os.Stderr, "run %d of %d: %s\n", n+1, o.runs, name)
			if err := once(ctx, s, tools[name], func(q string, v float64) { r.add(name, q, v) }, slices.Contains(o.steps, restoreStep)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	fmt.Printf("%d MiB of memory: 1/4 zeros, 1/3 text, the rest random; %d runs each, in turn\n", o.mib, o.runs)
	return r.print(os.Stdout, o.tools, oursName, podmanName)
}

// once measures one export and, if wanted, its restore.
func once(ctx context.Context, s *scene, t tool, add func(quantity string, value float64), restore bool) (err error) {
	file := filepath.Join(s.dir, "archive.tar.zst")
	defer func() { err = errors.Join(err, os.RemoveAll(file)) }()
	if err := s.clear(); err != nil {
		return err
	}
	c, err := t.start(ctx)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		defer cancel()
		err = errors.Join(err, c.remove(ctx))
	}()
	if err != nil {
		return err
	}
	if _, err := s.firstTick(ctx, time.Time{}); err != nil {
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
	tick, err := s.firstTick(ctx, u.began)
	if err != nil {
		return err
	}
	add(restoreTick, tick.Sub(u.began).Seconds())
	add(restoreWall, u.wall.Seconds())
	add(restoreCPU, u.cpu.Seconds())
	add(restorePeak, mebibytes(u.peak))
	add(restorePeakAll, mebibytes(u.peakAll))
	return s.checkMemory(ctx)
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
