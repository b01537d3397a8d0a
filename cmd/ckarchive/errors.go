package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/archive/foreign"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/policy"
	"github.com/ckarchive/ckarchive/oci/runtime"
	"github.com/ckarchive/ckarchive/oci/signature"
	"github.com/ckarchive/ckarchive/registry"
)

// The exit statuses; exitHelp says them to users.
const (
	exitDiffer      = 1 // of diff --exit-code alone
	exitUsage       = 2
	exitRejected    = 3
	exitNotFound    = 4
	exitEnvironment = 5
	exitDumpRunning = 6
	exitDumpLost    = 7
	exitRestore     = 8
	exitRegistry    = 9
	exitFinalStep   = 10
	exitSignal      = 128
)

// usageError is a command line that cannot be meant.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// hintedError carries what to do next.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

func withHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hintedError{err: err, hint: hint}
}

// environmentError is a host that cannot do what was asked.
type environmentError struct{ err error }

func (e *environmentError) Error() string { return e.err.Error() }
func (e *environmentError) Unwrap() error { return e.err }

// restoreError is a restore that failed after it had begun, cleaned up.
type restoreError struct{ err error }

func (e *restoreError) Error() string { return e.err.Error() }
func (e *restoreError) Unwrap() error { return e.err }

// containerStatus is the exit status of a container that was restored in the
// foreground: not an error of ckarchive's.
type containerStatus int

func (s containerStatus) Error() string { return fmt.Sprintf("the container exited with %d", int(s)) }

// interruptedError is the cause of a context that a signal ended.
type interruptedError struct{ signal syscall.Signal }

func (e *interruptedError) Error() string { return "interrupted by " + unix.SignalName(e.signal) }

// classes are the exit statuses by what errors.Is finds, in order of precedence.
func classes() []class {
	return []class{
		{signature.ErrUnsigned, exitRejected, "do not use it unless you know whose it is; ckarchive sign makes signatures, and docs/signatures.md says what demands them"},
		{foreign.ErrBare, exitUsage, "name the container's bundle, or its config.json: ckarchive import has --bundle DIR and --spec FILE"},
		{foreign.ErrPartial, exitRejected, "give both to ckarchive import or convert: the one of --with-previous, and that of --pre-checkpoint with --import-previous FILE; or make a whole one, without these options"},
		{archive.ErrNotArchive, exitRejected, "ckarchive reads its own archives and those of Podman, CRI-O and containerd"},
		{archive.ErrRejected, exitRejected, "do not use it: fetch it again, or make another one"},
		{registry.ErrContent, exitRejected, "the registry gave other content than its manifest promises; do not use it"},
		{archive.ErrEncrypted, exitEnvironment, "--decrypt-identity FILE names the key; a passphrase is asked for on the terminal, or read from the file that CKARCHIVE_PASSPHRASE_FILE names"},
		{runtime.ErrNotFound, exitNotFound, "ckarchive list --containers shows what is there; --runtime-root names another state directory"},
		{archive.ErrNotFound, exitNotFound, ""},
		{registry.ErrNotFound, exitNotFound, "ckarchive list shows the local store"},
		{archive.ErrSpecialFile, exitEnvironment, "name a regular file, or one that is not there yet"},
		{archive.ErrExists, exitEnvironment, "choose another name, or replace it with --force"},
		{runtime.ErrExists, exitEnvironment, "choose another ID with --id, or delete that container first"},
		{runtime.ErrShared, exitEnvironment, "gVisor saves and stops a sandbox as a whole: run the container in a sandbox of its own"},
		{runtime.ErrNotRunning, exitEnvironment, "only a running or paused container has memory to dump"},
		{runtime.ErrNoRuntime, exitEnvironment, "install it, or choose another one with --runtime"},
		{runtime.ErrNoRestore, exitEnvironment, "restore with --runtime runc, or with --engine direct"},
		{capture.ErrBusy, exitEnvironment, "wait for the other ckarchive to end"},
		{archive.ErrNoSpace, exitEnvironment, "free some space, or choose another place: another DEST, or --root for the local store and the spool"},
		{syscall.ENOSPC, exitEnvironment, "free some space, or choose another place"},
		{syscall.EDQUOT, exitEnvironment, "free some space, or choose another place"},
		{syscall.EROFS, exitEnvironment, "mount the file system for writing, or choose another place"},
		{syscall.EIO, exitEnvironment, "the disk may be bad: the kernel's log says more"},
		{syscall.EFBIG, exitEnvironment, "raise the limit for files, ulimit -f"},
		{syscall.EMFILE, exitEnvironment, "raise the limit for open files, ulimit -n"},
		{fs.ErrPermission, exitEnvironment, "run it as root"},
		{registry.ErrReference, exitUsage, "write HOST/REPOSITORY:TAG"},
		{registry.ErrBusy, exitEnvironment, "wait for the other ckarchive to end"},
		{registry.ErrAuthFile, exitEnvironment, "mend the file, or name another one with --authfile"},
		{registry.ErrDenied, exitRegistry, "ckarchive login HOST stores credentials"},
		{registry.ErrExists, exitEnvironment, "choose another tag, or leave out --if-absent"},
		{registry.ErrUnreachable, exitRegistry, "check the host name, the port and the network; --plain-http talks to a registry without TLS"},
	}
}

type class struct {
	is     error
	status int
	hint   string
}

// statusOf gives the exit status of err and what to do next.
func statusOf(err error) (status int, hint string) {
	status, hint = statusByType(err)
	if status == 0 {
		status = exitEnvironment // what the system refuses: a file that is gone, a full disk
		for _, c := range classes() {
			if errors.Is(err, c.is) {
				status, hint = c.status, c.hint
				break
			}
		}
	}
	var hinted *hintedError
	if errors.As(err, &hinted) {
		hint = hinted.hint
	}
	var ce *criu.Error
	if errors.As(err, &ce) && ce.Remedy != "" {
		hint = asFlag(ce.Remedy, ce.Option)
	}
	return status, hint
}

// namedOption is how package criu names an option of a dump or restore in a remedy.
var namedOption = regexp.MustCompile(`the ([a-z-]+) option`)

// asFlag names CRIU's options as the command line does.
func asFlag(remedy, option string) string {
	if option == "" {
		return remedy
	}
	return namedOption.ReplaceAllString(remedy, "--$1")
}

// statusByType knows the errors that say by their type how far a command came.
func statusByType(err error) (status int, hint string) {
	var (
		usage       *usageError
		captured    *capture.Error
		restored    *restoreError
		environment *environmentError
		refused     *policy.RefusedError
		interrupted *interruptedError
		registered  *registry.Error
		answered    *registry.StatusError
		container   containerStatus
		ambiguous   *runtime.AmbiguousError
		collected   *collectedError
		unread      *unreadError
	)
	switch {
	case errors.As(err, &unread):
		return exitSignal + int(syscall.SIGPIPE), ""
	case errors.As(err, &container):
		return int(container), ""
	case errors.Is(err, errDiffer):
		return exitDiffer, ""
	case errors.As(err, &usage):
		return exitUsage, usage.hint
	case errors.As(err, &collected):
		return collected.status, collected.hint
	case errors.As(err, &ambiguous):
		return exitUsage, ""
	case errors.As(err, &captured) && captured.Archived():
		return exitFinalStep, "ckarchive recover puts the container in its wanted state"
	case errors.As(err, &captured) && captured.State == capture.Lost:
		return exitDumpLost, "ckarchive recover resumes the container"
	case captured != nil && captured.State == capture.Gone:
		return exitDumpLost, ""
	case errors.As(err, &interrupted):
		return exitSignal + int(interrupted.signal), ""
	case captured != nil && captured.State != capture.Untouched:
		_, hint = statusOf(captured.Err)
		return exitDumpRunning, hint
	case errors.As(err, &refused):
		return exitEnvironment, "grant what you trust on the command line"
	case errors.As(err, &restored) && !errors.Is(err, archive.ErrRejected):
		_, hint = statusOf(restored.err)
		return exitRestore, hint
	case errors.As(err, &environment):
		return exitEnvironment, ""
	case errors.As(err, &answered) && errors.Is(err, registry.ErrNotFound):
		return exitNotFound, "the registry has no such repository, tag or digest"
	case errors.Is(err, registry.ErrRegistry), errors.As(err, &registered) && !known(err):
		return exitRegistry, registryHint(err)
	}
	return 0, ""
}

// known tells whether the table of classes has the error.
func known(err error) bool {
	return slices.ContainsFunc(classes(), func(c class) bool { return errors.Is(err, c.is) })
}

func registryHint(err error) string {
	for _, c := range classes() {
		if c.status == exitRegistry && errors.Is(err, c.is) {
			return c.hint
		}
	}
	return ""
}

// errorReport is what --json prints of an error, in one line, the last one on standard error.
type errorReport struct {
	Error  string `json:"error"`
	Status int    `json:"status"`         // the exit status
	Hint   string `json:"hint,omitempty"` // what to do next
}

// fail reports err and gives the exit status. The layout is for people: no
// capitals, no full stop, one line each.
func (a *app) fail(err error) int {
	status, hint := statusOf(err)
	var (
		container containerStatus
		unread    *unreadError
	)
	if errors.As(err, &container) || errors.As(err, &unread) || status == exitDiffer {
		return status
	}
	if a.cli != nil && a.cli.JSON {
		_ = json.NewEncoder(a.stderr).Encode(errorReport{oneLine(err.Error()), status, hint}) // nowhere left to report to
		return status
	}
	fmt.Fprintf(a.stderr, "ckarchive: error: %s\n", oneLine(err.Error()))
	if hint != "" {
		fmt.Fprintf(a.stderr, "ckarchive: hint: %s\n", oneLine(hint))
	}
	return status
}

// warn tells what went on less well than it should.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "ckarchive: warning: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// say tells what goes on, unless --quiet.
func (a *app) say(format string, args ...any) {
	if !a.cli.Quiet {
		fmt.Fprintf(a.stderr, "ckarchive: %s\n", oneLine(fmt.Sprintf(format, args...)))
	}
}

// oneLine keeps errors on one line and control characters off the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0:
			return '?'
		}
		return r
	}, strings.TrimRight(strings.ReplaceAll(s, "\n", "; "), "; "))
}

// needRoot refuses what only root can do before anything is touched.
func needRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return withHint(&environmentError{fmt.Errorf("%s needs root: CRIU reads and writes other processes' memory", what)}, "run it with sudo")
}

// stoppedError is what a signal ended. The errors that followed from it, on many levels, tell nobody anything.
type stoppedError struct {
	by  *interruptedError
	err error
}

func (e *stoppedError) Error() string {
	var captured *capture.Error
	if errors.As(e.err, &captured) {
		return e.by.Error() + "; " + string(captured.State)
	}
	return e.by.Error()
}

func (e *stoppedError) Unwrap() []error { return []error{e.by, e.err} }

// cause prefers the reason that ended a context over the error that followed from it.
func cause(ctx context.Context, err error) error {
	var (
		interrupted *interruptedError
		captured    *capture.Error
	)
	if !errors.As(context.Cause(ctx), &interrupted) {
		return err
	}
	told := errors.Is(err, interrupted)
	stopped := told || errors.Is(err, context.Canceled)
	switch isCapture := errors.As(err, &captured); {
	case isCapture && (captured.State == capture.Lost || captured.Archived()):
		// More than the work went wrong: all of it is told.
	case stopped && (isCapture || !told):
		return &stoppedError{by: interrupted, err: err}
	}
	if told {
		return err
	}
	return errors.Join(err, interrupted)
}
