// CRIU cannot dump listening MPTCP sockets, which Go would otherwise make.
//
//go:debug multipathtcp=0
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	exitUsage    = 2
	exitMismatch = 3
	exitUSR1     = 7
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		number, err := strconv.ParseUint(os.Args[2], 10, 32)
		if err == nil {
			err = runChild(number, os.Stdin, os.Stdout)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "workload: child: %v\n", err)
			os.Exit(exitMismatch)
		}
		return
	}
	os.Exit(run(os.Args[1:]))
}

type options struct {
	memory   int
	seed     uint64
	tick     time.Duration
	children int
	tmpfs    string
	volume   string
	deleted  bool
	tcp      bool
	status   string
}

func run(args []string) int {
	var opts options
	flags := flag.NewFlagSet("workload", flag.ContinueOnError)
	flags.IntVar(&opts.memory, "memory", 1, "`MiB` of memory with a pattern")
	flags.Uint64Var(&opts.seed, "seed", 1, "what the pattern is made from")
	flags.DurationVar(&opts.tick, "tick", 50*time.Millisecond, "time between two ticks")
	flags.IntVar(&opts.children, "children", 0, "number of child processes")
	flags.StringVar(&opts.tmpfs, "tmpfs", "", "keep a file in this `directory`, a tmpfs")
	flags.StringVar(&opts.volume, "volume", "", "append to a file in this `directory`, a volume")
	flags.BoolVar(&opts.deleted, "deleted", false, "keep a deleted file open")
	flags.BoolVar(&opts.tcp, "tcp", false, "keep a TCP connection over the loopback device")
	flags.StringVar(&opts.status, "status", "/tmp/status", "status `file`")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	w, err := newWorkload(opts)
	if err != nil {
		fmt.Fprintf(os.Stderr, "workload: %v\n", err)
		return exitUsage
	}
	return w.run()
}

// namedProbe is a probe and the place of its verdict in the status.
type namedProbe struct {
	name string
	probe
	ok *bool
}

type workload struct {
	opts   options
	probes []namedProbe
	status status
}

// status is the line in the status file, and the answer to a verify-request.
// What was not asked for is right.
type status struct {
	Tick       uint64   `json:"tick"`
	PID        int      `json:"pid"`
	Request    string   `json:"request,omitempty"` // of a verify-result
	MemoryOK   bool     `json:"memory_ok"`
	ChildrenOK bool     `json:"children_ok"`
	TmpfsOK    bool     `json:"tmpfs_ok"`
	DeletedOK  bool     `json:"deleted_ok"`
	VolumeOK   bool     `json:"volume_ok"`
	TCPOK      bool     `json:"tcp_ok"`
	Errors     []string `json:"errors"`
}

func newWorkload(opts options) (*workload, error) {
	w := &workload{opts: opts, status: status{
		PID: os.Getpid(), MemoryOK: true, ChildrenOK: true, TmpfsOK: true,
		DeletedOK: true, VolumeOK: true, TCPOK: true, Errors: []string{},
	}}
	var failed error
	add := func(wanted bool, name string, ok *bool, build func() (probe, error)) {
		if !wanted || failed != nil {
			return
		}
		made, err := build()
		if err != nil {
			failed = err
			return
		}
		w.probes = append(w.probes, namedProbe{name, made, ok})
	}
	add(true, "memory", &w.status.MemoryOK, func() (probe, error) {
		p, err := newPattern(opts.seed, opts.memory<<20)
		return &memoryProbe{p}, err
	})
	add(opts.children > 0, "children", &w.status.ChildrenOK, func() (probe, error) { return newChildrenProbe(opts.children) })
	add(opts.tmpfs != "", "tmpfs", &w.status.TmpfsOK, func() (probe, error) { return newTmpfsProbe(opts.tmpfs) })
	add(opts.deleted, "deleted", &w.status.DeletedOK, func() (probe, error) { return newDeletedProbe(filepath.Dir(opts.status)) })
	add(opts.volume != "", "volume", &w.status.VolumeOK, func() (probe, error) { return newVolumeProbe(opts.volume) })
	add(opts.tcp, "tcp", &w.status.TCPOK, func() (probe, error) { return newTCPProbe() })
	return w, failed
}

func (w *workload) run() int {
	// Whoever read stdout may go away: that is not an end of the workload.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	ticker := time.NewTicker(w.opts.tick)
	defer ticker.Stop()
	for {
		select {
		case got := <-signals:
			if got == syscall.SIGUSR1 {
				return exitUSR1
			}
			return 0
		case <-ticker.C:
			if err := w.tick(os.Stdout); err != nil {
				fmt.Fprintf(os.Stderr, "workload: %v\n", err)
				return exitMismatch
			}
		}
	}
}

// tick does one round. The error is what makes the workload end.
func (w *workload) tick(stdout io.Writer) error {
	dir := filepath.Dir(w.opts.status)
	request, err := os.ReadFile(filepath.Join(dir, "verify-request"))
	asked := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read verify request: %w", err)
	}
	w.status.Tick++
	var wrong []error
	for _, p := range w.probes {
		if err := p.step(w.status.Tick, asked); err != nil {
			*p.ok = false
			err = fmt.Errorf("%s: %w", p.name, err)
			wrong = append(wrong, err)
			w.status.Errors = append(w.status.Errors, err.Error())
		}
	}
	if err := replace(w.opts.status, w.status); err != nil {
		return errors.Join(append(wrong, err)...)
	}
	if asked {
		result := w.status
		result.Request = string(request)
		if err := replace(filepath.Join(dir, "verify-result"), result); err != nil {
			return errors.Join(append(wrong, err)...)
		}
		if err := os.Remove(filepath.Join(dir, "verify-request")); err != nil {
			return errors.Join(append(wrong, err)...)
		}
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	fmt.Fprintf(stdout, "tick %d\n", w.status.Tick)
	return nil
}

// replace writes the file so that a reader sees the old line or the new one.
func replace(path string, s status) error {
	line, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	if err := os.WriteFile(path+".new", append(line, '\n'), 0o644); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace status: %w", err)
	}
	return nil
}
