// Command ckarchive freezes a running container, carries its memory, processes and
// files in one archive through files and OCI registries, and brings it back to
// life elsewhere.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// version is set by the linker.
var version = "dev"

func main() {
	switch {
	case os.Args[0] == loggerName && len(os.Args) == 1:
		os.Exit(runLogger())
	case filepath.Base(os.Args[0]) == gzipName:
		os.Exit(runGzip(os.Args[1:]))
	case os.Args[0] == loopbackName:
		os.Exit(runLoopback())
	case os.Args[0] == collectorName && len(os.Args) == 2:
		os.Exit(runCollector(os.Args[1]))
	case os.Args[0] == guardName && len(os.Args) == 4:
		os.Exit(runGuard(os.Args[1], os.Args[2], os.Args[3]))
	}
	if status, asked := describedPlugin(os.Args, os.Stdout); asked {
		os.Exit(status)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// run is main without the process: it parses args, runs the command and gives the exit
// status.
func run(args []string, stdin *os.File, stdout, stderr io.Writer, getenv func(string) string) int {
	protect()
	ctx, stop := signalContext(context.Background())
	defer stop()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv, confine: confine}
	return a.main(ctx, args)
}

// protect keeps what this process has in memory and what it writes to its user.
func protect() {
	// Everything that is written holds a container's secrets.
	syscall.Umask(0o077)
	// So does the memory of ckarchive: no core dump, whatever the limits and the kernel's core pattern say. A
	// program that is started has its own setting.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // cannot fail
}

// signalContext gives a context that ends at the first SIGINT or SIGTERM, with an
// [interruptedError] as its cause. Further ones are ignored: what puts a container right
// again must not be cut short.
func signalContext(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	// An output that nobody reads any more ends its writing and not, by a signal, the process in
	// the middle of its work. (Ignoring SIGPIPE would be inherited by the runtimes.)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for s := range signals {
			if sig, ok := s.(syscall.Signal); ok {
				cancel(&interruptedError{signal: sig})
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(nil)
	}
}
