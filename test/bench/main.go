// Command bench compares ckarchive with Podman and with runc's own checkpoint packed by tar and pushed
// by skopeo, side by side on the same loads: how long a container stands still, how long it takes to a file or a
// registry, how much arrives there the first time and after a part of its memory has changed, and how long it is from
// the restore command to the first answer of the container. It needs what `test/setup bench` installs, and root.
//
//	go run ./test/bench [-scene file,registry,redis,node,jvm,sizes] [-size MIB] [-runs N] [-only export,restore] [-with ckarchive,podman,runc]
//
// It prints tables and whether the goals are met; a missed goal is no failure.
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
	scenes []string
	steps  []string
	tools  []string
	binary string
	tree   string
	dir    string
	// measured are the results so far, by scene.
	measured map[string]results
}

// The names of the tools, of what they do, and of the scenes in which they do it.
const (
	oursName      = "ckarchive"
	podmanName    = "podman"
	plainName     = "runc"
	exportStep    = "export"
	restoreStep   = "restore"
	fileScene     = "file"
	registryScene = "registry"
	redisScene    = "redis"
	nodeScene     = "node"
	jvmScene      = "jvm"
	sizesScene    = "sizes"
)

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	allScenes := []string{fileScene, registryScene, redisScene, nodeScene, jvmScene, sizesScene}
	scenes := flags.String("scene", strings.Join(allScenes, ","), "comma-separated `scenes`: a block of memory through a file, through a registry, and through one at a quarter of the size and at four times the size; Redis, Node.js and a Java virtual machine through a registry")
	flags.IntVar(&o.mib, "size", 1024, "memory of the container in `MIB`")
	flags.IntVar(&o.runs, "runs", 2, "how often each tool is measured in the scenes file and registry; the others take one run each")
	only := flags.String("only", "", "comma-separated `steps`: export, restore (which exports first)")
	with := flags.String("with", oursName+","+podmanName+","+plainName, "comma-separated `tools`, in the order of the columns")
	flags.StringVar(&o.binary, "ckarchive", "", "the `binary` to measure; by default it is built")
	flags.StringVar(&o.tree, "base", "", "`directory` to copy into the root file system of the containers")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "`directory` for the work, on the kind of disk that is to be measured")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.measured = map[string]results{}
	o.scenes, o.tools = strings.Split(*scenes, ","), strings.Split(*with, ",")
	o.steps = []string{exportStep, restoreStep}
	if *only != "" {
		o.steps = strings.Split(*only, ",")
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.mib <= 0 || o.runs <= 0:
		return o, errors.New("-size and -runs are at least 1")
	}
	return o, errors.Join(
		known("-scene", o.scenes, allScenes...),
		known("-only", o.steps, exportStep, restoreStep),
		known("-with", o.tools, oursName, podmanName, plainName))
}

func known(flag string, given []string, names ...string) error {
	for _, g := range given {
		if !slices.Contains(names, g) {
			return fmt.Errorf("%s %q: only %s are known", flag, g, strings.Join(names, ", "))
		}
	}
	return nil
}

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
	if o.dir, err = os.MkdirTemp(o.dir, "ckbench-"); err != nil {
		return err
	}
	cleanUp, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer func() { err = errors.Join(err, run(cleanUp, "rm", "-rf", "--one-file-system", o.dir)) }()
	if o.binary == "" {
		o.binary = filepath.Join(o.dir, "ckarchive")
		if err := build(ctx, o.binary, "github.com/ckarchive/ckarchive/cmd/ckarchive"); err != nil {
			return err
		}
	} else if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	for _, name := range o.scenes {
		if err := o.play(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
