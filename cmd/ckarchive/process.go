package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive/capture"
	"github.com/ckarchive/ckarchive/criu"
)

// isRoot tells whether this process may do what CRIU does.
func isRoot() bool { return os.Geteuid() == 0 }

// endGrace is how long a container may take to end after an interrupt.
const endGrace = 10 * time.Second

// waitForeground waits for the container's end and gives its exit status. An interrupt is
// passed on; a container that does not end in time is killed.
func waitForeground(ctx context.Context, pid int) (int, error) {
	type end struct {
		status int
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		status, err := criu.Wait(pid)
		ended <- end{status, err}
	}()
	interrupted := ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case e := <-ended:
			return e.status, e.err
		case <-interrupted:
			interrupted = nil
			kill = time.After(endGrace)
			sig := syscall.SIGTERM
			var by *interruptedError
			if errors.As(context.Cause(ctx), &by) {
				sig = by.signal
			}
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return 0, err
			}
		case <-kill:
			if err := endProcess(pid); err != nil {
				return 0, err
			}
		}
	}
}

// endProcess kills the process pid, which may be gone already.
func endProcess(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// descriptorsOf reads what fd 0 to 2 of a process are, in the form of descriptors.json.
func descriptorsOf(pid int) []string {
	list := []string{}
	for fd := range 3 {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
		if err != nil {
			target = "/dev/null"
		}
		list = append(list, target)
	}
	return list
}

// logger is a process of our own that copies a detached container's output into a
// file. A container that wrote to the file itself could not be dumped again.
type logger struct {
	pipe *os.File // the container's end
	proc *os.Process
}

// argv[0] of our own processes.
const (
	loggerName = "ckarchive-log"
	guardName  = "ckarchive-guard"
)

// startLogger starts the process on a pipe; it ends when all holders of the pipe have.
func startLogger(path string) (*logger, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer from.Close() //nolint:errcheck // the logger has its own
	l, err := startLoggerOn(from, to, path)
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	return l, nil
}

// startLoggerOn starts the process that copies from into the file path. to is the container's
// end.
func startLoggerOn(from, to *os.File, path string) (_ *logger, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the container's log: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	proc, err := startSelf([]string{loggerName}, from, file)
	if err != nil {
		return nil, fmt.Errorf("start the container's log: %w", err)
	}
	return &logger{pipe: to, proc: proc}, nil
}

// startSelf starts this program in a session of its own; in and out may be nil.
func startSelf(args []string, in, out *os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close() //nolint:errcheck // never written
	files := []*os.File{in, out, null}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	return os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// startGuard starts the process that puts a capture right whose ckarchive is killed: without it
// the container would stay paused until the next command.
func (a *app) startGuard(dir string) error {
	proc, err := startSelf([]string{guardName, a.cli.Root, a.cli.RunDir, dir}, nil, nil)
	if err != nil {
		return fmt.Errorf("start the guard: %w", err)
	}
	return proc.Release()
}

// runGuard is that process.
func runGuard(root, runDir, dir string) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	a := &app{stdin: os.Stdin, stdout: io.Discard, stderr: io.Discard, getenv: os.Getenv, cli: &cli{Root: root, RunDir: runDir, Quiet: true}}
	go a.endOrphans()
	if err := capture.AfterDeath(dir); err != nil {
		return exitEnvironment
	}
	for range guardTries {
		if _, err := os.Stat(dir); err != nil {
			return 0 // it ended in order, or was recovered
		}
		if err := a.recoverAll(context.Background()); err != nil {
			return exitEnvironment
		}
		time.Sleep(guardPause) // another process may still be ending what was left at work
	}
	return exitEnvironment
}

const (
	// guardPause is how often the guard looks whether its capture has died, and tries to recover it.
	guardPause = 200 * time.Millisecond
	guardTries = 100
)

// endOrphans lets no program wait for a capture that has died. It is tried again as long as this process lives.
func (a *app) endOrphans() {
	for {
		time.Sleep(guardPause)
		_ = capture.EndOrphans(context.Background(), a.spoolDir(), criu.ReleasePipes)
	}
}

// runLogger is that process. It ends with the container and not before.
func runLogger() int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		return 1
	}
	return 0
}

// stop ends the logger of a container that did not come to life.
func (l *logger) stop() {
	if l == nil {
		return
	}
	// Closing the only end lets the process see the end of its input.
	_ = l.pipe.Close()
	_, _ = l.proc.Wait()
}
