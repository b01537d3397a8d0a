package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

var errNoConsole = errors.New("the container has a terminal: give the socket that takes it (console-socket)")

// SendConsole hands the master side of a terminal to whoever listens on a
// socket, in the way of OCI runtimes.
func SendConsole(ctx context.Context, socket string, master *os.File) (err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("send terminal: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("send terminal: got a %T", conn)
	}
	if _, _, err := u.WriteMsgUnix([]byte("/dev/ptmx"), unix.UnixRights(int(master.Fd())), nil); err != nil {
		return fmt.Errorf("send terminal to %q: %w", socket, err)
	}
	return nil
}
