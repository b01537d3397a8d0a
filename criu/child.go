package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// child is a running CRIU.
type child struct {
	cmd  *exec.Cmd
	conn *net.UnixConn

	grace    time.Duration // for each step of being stopped
	finished chan struct{} // the conversation is over
	once     sync.Once

	mu     sync.Mutex
	final  bool  // CRIU's work was accepted: the context no longer stops it
	reason error // why CRIU was stopped
}

// start starts CRIU from a thread that has its own umask and mount namespace,
// which CRIU inherits. The thread ends with its goroutine.
func (s *session) start(ctx context.Context) (*child, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close() //nolint:errcheck // CRIU has its own copy
	// Not CommandContext's own means: CRIU is stopped in steps, see watch.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.bin, "swrk", "3") //nolint:gosec // the CRIU that the caller chose
	cmd.Dir = "/"
	path := searchPath
	if s.toolsDir != "" {
		path = s.toolsDir + ":" + path
	}
	cmd.Env = []string{"PATH=" + path, "HOME=/root", "LC_ALL=C"}
	if s.configFile != "" {
		cmd.Env = append(cmd.Env, "CRIU_CONFIG_FILE="+s.configFile)
	}
	// Assigned one by one: a nil *os.File in an interface is not nil.
	if s.stdin != nil {
		cmd.Stdin = s.stdin
	}
	if s.stdout != nil {
		cmd.Stdout = s.stdout
	}
	if s.stderr != nil {
		cmd.Stderr = s.stderr
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, s.extra...)
	// No Pdeathsig: the end of a thread of ours must not kill CRIU half way.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !s.keepSession}

	var thread errgroup.Group
	thread.Go(func() error {
		runtime.LockOSThread() // for good: a thread with other namespaces must not run anything else
		return s.startOnThread(cmd)
	})
	if err := thread.Wait(); err != nil {
		conn.Close() //nolint:errcheck // unused
		return nil, fmt.Errorf("start %s: %w", s.bin, err)
	}
	return &child{cmd: cmd, conn: conn, finished: make(chan struct{})}, nil
}

func (s *session) startOnThread(cmd *exec.Cmd) error {
	flags := unix.CLONE_FS | s.namespaces
	if s.privateMounts {
		flags |= unix.CLONE_NEWNS
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	unix.Umask(0o077)
	if s.privateMounts {
		// A slave, not private: volumes keep getting the host's later mounts.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("keep mounts from the host: %w", err)
		}
	}
	if s.prepare != nil {
		if err := s.prepare(); err != nil {
			return err
		}
	}
	return cmd.Start()
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// finish says that there is nothing more to talk about.
func (c *child) finish() {
	c.once.Do(func() {
		c.conn.Close() //nolint:errcheck // everything was answered
		close(c.finished)
	})
}

// accept makes CRIU's end its own matter: the context no longer stops it.
func (c *child) accept() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.final = true
}

// watch waits for CRIU's end, and stops it when the context is done or when its
// log grows without limit.
func (c *child) watch(ctx context.Context, logPath string) error {
	ended := make(chan struct{})
	var waiter errgroup.Group
	waiter.Go(func() error {
		defer close(ended)
		return c.cmd.Wait()
	})
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	cancelled, talking := ctx.Done(), c.finished
	var deadline <-chan time.Time
	for {
		select {
		case <-ended:
			// The status says nothing that the response does not say, and that can still be read.
			c.abandon()
			return nil
		case <-cancelled:
			cancelled = nil
			if !c.stopping(ctx.Err()) {
				deadline = time.After(finishGrace)
				continue
			}
			c.stop(ended)
			return nil
		case <-talking:
			// CRIU ends by itself when its connection is closed.
			talking = nil
			deadline = time.After(finishGrace)
		case <-deadline:
			c.stop(ended)
			return nil
		case <-tick.C:
			if fi, err := os.Stat(logPath); logPath != "" && err == nil && fi.Size() > MaxLogBytes {
				c.force(errLogTooLarge)
				c.stop(ended)
				return nil
			}
		}
	}
}

// stopping notes the reason for a stop, unless CRIU's work was accepted.
func (c *child) stopping(reason error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.final {
		return false
	}
	c.reason = reason
	return true
}

func (c *child) force(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = reason
}

// stop ends CRIU as gently as it lets us: a closed connection makes it roll
// back (unfreeze, unlock the network) at its next notification; then SIGTERM;
// then SIGKILL for all of its process group.
func (c *child) stop(ended <-chan struct{}) {
	c.shutdown()
	steps := []func(){
		func() {},
		func() { c.signal(unix.SIGTERM) },
		func() { c.signal(unix.SIGKILL) },
	}
	for _, step := range steps {
		step()
		select {
		case <-ended:
			return
		case <-time.After(c.grace):
		}
	}
	<-ended
}

// shutdown ends the connection for both sides.
func (c *child) shutdown() {
	if raw, err := c.conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) }) //nolint:errcheck // closed already
	}
}

// abandon ends what a CRIU that died early left: its helpers and half restored
// tasks hold its end of the connection, so that our side would wait for ever.
func (c *child) abandon() {
	c.shutdown()
	if !c.cmd.ProcessState.Success() {
		c.signal(unix.SIGKILL)
	}
}

// signal sends sig to CRIU and to what it runs (tar, iptables), which share its group.
func (c *child) signal(sig syscall.Signal) {
	if c.cmd.SysProcAttr.Setsid {
		unix.Kill(-c.pid(), sig) //nolint:errcheck // it may have ended
		return
	}
	c.cmd.Process.Signal(sig) //nolint:errcheck // it may have ended
}

// stopReason gives why CRIU was stopped by us, if it was.
func (c *child) stopReason(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != nil {
		return c.reason
	}
	if !c.final {
		return ctx.Err()
	}
	return nil
}

// explain gives the reason for a broken conversation.
func (c *child) explain(ctx context.Context, err error) error {
	if reason := c.stopReason(ctx); reason != nil {
		return errors.Join(reason, err)
	}
	if err == nil {
		return errGone
	}
	return fmt.Errorf("%w: %w", errGone, err)
}
