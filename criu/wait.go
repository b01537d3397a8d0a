package criu

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Wait waits for the end of a container that this process restored with
// [Restore], and gives its exit status in the manner of a shell: the exit code,
// or 128 and the signal that ended it. To end the wait, end the container.
func Wait(pid int) (int, error) {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for process %d: %w", pid, err)
		case ws.Exited():
			return ws.ExitStatus(), nil
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		}
	}
}
