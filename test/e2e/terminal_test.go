package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// terminal makes a console socket that takes one terminal, and the file with what it shows.
func terminal(t *testing.T, h *host) (socket, shown string) {
	t.Helper()
	// Not below the test's directory: the name of a socket may have 107 bytes.
	dir, err := os.MkdirTemp(env.ShortTemp, "e2e")
	must(t, err)
	socket, shown = filepath.Join(dir, "socket"), h.path("terminal")
	out, err := os.Create(shown)
	must(t, err)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- show(listener, out) }()
	t.Cleanup(func() {
		if err := errors.Join(listener.Close(), <-done, out.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return socket, shown
}

// show copies what a terminal shows that comes over the socket.
func show(listener *net.UnixListener, out io.Writer) error {
	conn, err := listener.AcceptUnix()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // read only
	name, rights := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:n])
	if err != nil {
		return err
	}
	if len(messages) == 0 {
		return errors.New("no terminal came over the console socket")
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	master := os.NewFile(uintptr(fds[0]), "terminal")
	defer master.Close() //nolint:errcheck // read only
	_, err = io.Copy(out, master)
	if errors.Is(err, syscall.EIO) {
		return nil // so a terminal says that nobody has it open any more
	}
	return err
}
