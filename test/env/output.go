package env

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// drain returns the writing end of a pipe whose content goes to a file. It is
// over at the end of the test, when everything that writes to the pipe is gone.
func drain(tb testing.TB, output *os.File) *os.File {
	tb.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		tb.Fatalf("make output pipe: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(output, reader)
		done <- err
	}()
	tb.Cleanup(func() {
		if err := errors.Join(<-done, reader.Close(), output.Close()); err != nil {
			tb.Errorf("read a container's output: %v", err)
		}
	})
	return writer
}

func hasTerminal(tb testing.TB, bundle string) bool {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		tb.Fatalf("read runtime spec: %v", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(content, &spec); err != nil {
		tb.Fatalf("decode runtime spec of %s: %v", bundle, err)
	}
	return spec.Process != nil && spec.Process.Terminal
}

// console makes a console socket, over which a runtime hands out the master
// of the container's terminal, and copies what it shows into output.
func console(tb testing.TB, output io.Writer) string {
	tb.Helper()
	// Not below tb.TempDir: the name of a socket may have 107 bytes.
	dir, err := os.MkdirTemp(ShortTemp, "console")
	if err != nil {
		tb.Fatalf("make console socket: %v", err)
	}
	path := filepath.Join(dir, "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		tb.Fatalf("make console socket: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- show(listener, output) }()
	tb.Cleanup(func() {
		err := errors.Join(listener.Close(), <-done, os.RemoveAll(dir))
		if err != nil {
			tb.Errorf("read a container's terminal: %v", err)
		}
	})
	return path
}

func show(listener *net.UnixListener, output io.Writer) error {
	conn, err := listener.AcceptUnix()
	if errors.Is(err, net.ErrClosed) {
		return nil // the container did not come so far
	}
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // read only
	name, rights := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) == 0 {
		return fmt.Errorf("receive terminal: no descriptor: %w", err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	master := os.NewFile(uintptr(fds[0]), "terminal")
	defer master.Close() //nolint:errcheck // read only
	_, err = io.Copy(output, master)
	if errors.Is(err, syscall.EIO) {
		return nil // so a terminal says that nobody has it open any more
	}
	return err
}
