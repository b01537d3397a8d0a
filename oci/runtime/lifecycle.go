package runtime

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Refresh asks the runtime again for the container's status and pid.
func (c *Container) Refresh(ctx context.Context) error {
	now, err := c.Runtime.Container(ctx, c.ID)
	if err != nil {
		return err
	}
	c.Status, c.PID = now.Status, now.PID
	return nil
}

// Pause freezes all processes. A container that is paused already stays so.
func (c *Container) Pause(ctx context.Context) error {
	if c.Status == Paused {
		return nil
	}
	var err error
	if !c.Runtime.pauses() {
		err = c.freeze(ctx, true)
	} else {
		_, err = c.Runtime.run(ctx, "pause", c.ID)
	}
	if err != nil {
		return fmt.Errorf("pause container %q: %w", c.ID, err)
	}
	c.Status = Paused
	return nil
}

// Resume lets the processes run again and checks that they do. A container that
// runs already is no error: a killed CRIU may have thawed it. One that goes on and comes to its end is an [ErrEnded].
func (c *Container) Resume(ctx context.Context) error {
	var err error
	if !c.Runtime.pauses() {
		err = c.freeze(ctx, false)
	} else {
		_, err = c.Runtime.run(ctx, "resume", c.ID)
	}
	if rerr := c.Refresh(ctx); rerr != nil {
		return fmt.Errorf("resume container %q: %w", c.ID, errors.Join(err, rerr))
	}
	if err == nil && c.Status == Stopped {
		return fmt.Errorf("resume container %q: %w", c.ID, ErrEnded)
	}
	if c.Status != Running {
		return fmt.Errorf("resume container %q: it is %s: %w", c.ID, c.Status, errors.Join(err, ErrNotRunning))
	}
	return nil
}

// Kill ends all processes, paused or not, and waits until the first one is gone.
// The kill signal is pending before a frozen container is thawed: none of its processes
// runs another instruction.
func (c *Container) Kill(ctx context.Context) error {
	if !alive(c.PID) {
		c.Status = Stopped
		return nil
	}
	pidfd, err := unix.PidfdOpen(c.PID, 0)
	if err != nil {
		return fmt.Errorf("kill container %q: %w", c.ID, err)
	}
	defer unix.Close(pidfd) //nolint:errcheck // read only
	held, heldErr := findFreezer(c.PID)
	killed := false
	if heldErr == nil && c.Status == Paused && !c.Runtime.kind.sandbox {
		// The end of the first process ends the others too, but not before they may have run for a while.
		killed, err = held.killHeld(c.PID)
	}
	switch {
	case err != nil || killed:
	case c.Runtime.Name == Direct || c.Runtime.kind.sandbox:
		// runsc signals no paused container. With its sandbox all of it is gone.
		err = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	default:
		_, err = c.Runtime.run(ctx, "kill", c.ID, "KILL")
	}
	if err != nil {
		return fmt.Errorf("kill container %q: %w", c.ID, err)
	}
	if c.Status == Paused && !c.Runtime.kind.sandbox {
		// A runtime may have thawed it to deliver the signal, and it may be gone, as in cgroups v2 at once: the
		// wait below tells what counts.
		if c.thaw(ctx) != nil && heldErr == nil {
			_ = held.release()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := waitGone(ctx, pidfd); err != nil {
		return fmt.Errorf("kill container %q: wait for its end: %w", c.ID, err)
	}
	if heldErr == nil {
		// No runtime resumes what has ended, and a cgroup that stays would hold whatever a restore
		// moves into it. It may be gone.
		_ = held.release()
	}
	c.Status = Stopped
	return nil
}

func (c *Container) thaw(ctx context.Context) error {
	if !c.Runtime.pauses() {
		return c.freeze(ctx, false)
	}
	_, err := c.Runtime.run(ctx, "resume", c.ID)
	return err
}

// Delete removes the stopped container from its runtime, with what the runtime made
// for it.
func (c *Container) Delete(ctx context.Context) error {
	if c.Runtime.Name == Direct {
		return c.deleteRecord()
	}
	args := []string{"delete", c.ID}
	if c.Runtime.kind.sandbox && c.Status == Stopped {
		args = []string{"delete", "--force", c.ID} // runsc may take it for paused
	}
	if _, err := c.Runtime.run(ctx, args...); err != nil {
		return fmt.Errorf("delete container %q: %w", c.ID, err)
	}
	return nil
}
