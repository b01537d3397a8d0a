package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"github.com/ckarchive/ckarchive/archive"
)

// check of a checkpoint has questions to this host that only root may ask. So it does not confine itself: a process of
// its own does, reads the checkpoint, and hands over the few members that are looked at.

// collectorName is argv[0] of that process. Its only argument is a [collection] in JSON.
const collectorName = "ckarchive-collect"

// collectorOutput is the descriptor that it writes to.
const collectorOutput = 3

// collection says what is read, and what of the command line it takes.
type collection struct {
	Source, Pull, Root, TrustFile string
	DecryptIdentity               []string
	Quiet                         bool
	Remote                        remoteFlags
}

// collected is what the process tells: files, or why there are none.
type collected struct {
	Files  map[string][]byte `json:"files,omitempty"`
	Error  string            `json:"error,omitempty"`
	Status int               `json:"status,omitempty"`
	Hint   string            `json:"hint,omitempty"`
}

// maxCollected is the length in bytes of a collected in JSON: base64 takes a third more.
const maxCollected = 2 * maxInspectBytes

// collectedError is an error that another process of ours had.
type collectedError struct {
	text   string
	status int
	hint   string
}

func (e *collectedError) Error() string { return e.text }

// collectApart reads the beginning of a checkpoint in a confined process.
func (a *app) collectApart(ctx context.Context, c collection) (_ map[string][]byte, err error) {
	what, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer from.Close() //nolint:errcheck // read only
	// It ends with this thread, should this process be killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	proc, err := os.StartProcess("/proc/self/exe", []string{collectorName, string(what)}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{a.stdin, os.Stderr, os.Stderr, to},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err := errors.Join(err, to.Close()); err != nil {
		return nil, fmt.Errorf("start the process that reads it: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = proc.Kill() })
	defer stop()
	var out collected
	derr := json.NewDecoder(io.LimitReader(from, maxCollected)).Decode(&out)
	state, err := proc.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	case out.Error != "":
		return nil, &collectedError{out.Error, out.Status, out.Hint}
	case derr != nil || !state.Success():
		return nil, &environmentError{fmt.Errorf("the process that reads it ended: %s", state)}
	}
	return out.Files, nil
}

// runCollector is main of the process.
func runCollector(argument string) int {
	protect()
	ctx, stop := signalContext(context.Background())
	defer stop()
	var c collection
	out := collected{}
	err := json.Unmarshal([]byte(argument), &c)
	if err == nil {
		a := &app{stdin: os.Stdin, stdout: io.Discard, stderr: os.Stderr, getenv: os.Getenv, cli: &cli{
			Root: c.Root, TrustFile: c.TrustFile, DecryptIdentity: c.DecryptIdentity, Quiet: c.Quiet,
		}}
		err = confine(a.bound(ctx, &reach{sources: []string{c.Source}, remote: c.Remote}))
		if err == nil {
			out.Files, err = a.collect(ctx, c)
		}
	}
	if err != nil {
		out.Error = err.Error()
		out.Status, out.Hint = statusOf(err)
	}
	if json.NewEncoder(os.NewFile(collectorOutput, "output")).Encode(out) != nil {
		return exitEnvironment
	}
	return 0
}

// collect reads what is needed from the beginning of the checkpoint.
func (a *app) collect(ctx context.Context, c collection) (_ map[string][]byte, err error) {
	loc, err := parseLocation(c.Source)
	if err != nil {
		return nil, err
	}
	src, err := a.openSource(ctx, loc, sourceOptions{Pull: c.Pull, Stream: true, Head: true, Remote: c.Remote})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	head, rest, err := archive.Peek(ctx, src)
	if err != nil {
		return nil, err
	}
	needed, useful, listed := wanted(head)
	return collectWanted(ctx, rest, needed, useful, listed)
}
