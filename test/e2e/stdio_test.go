package e2e

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/test/env"
)

// runWithOutput starts a container under runc whose standard output and error are out; what it
// writes comes to be in log.
func (h *host) runWithOutput(name string, opts env.BundleOptions, out *os.File, log string) *container {
	h.t.Helper()
	bundle := env.Bundle(h.t, h.path(name), opts)
	c := &container{t: h.t, h: h, id: h.id(name), bundle: bundle, rootfs: h.copyBase(filepath.Join(bundle, "rootfs")), log: log}
	h.t.Cleanup(c.remove)
	cmd := exec.Command("runc", "--root", h.runtime, "run", "--detach", "--bundle", bundle, c.id)
	cmd.Stdout, cmd.Stderr = out, out
	must(h.t, cmd.Run())
	must(h.t, out.Close())
	c.awaitTicks(3)
	return c
}

// collect copies what comes out of from into a file, for the time of the test.
func collect(t *testing.T, from io.ReadCloser, path string) {
	t.Helper()
	log, err := os.Create(path)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(log, from) // a terminal ends with an error
	}()
	t.Cleanup(func() {
		_ = from.Close()
		<-done
		must(t, log.Close())
	})
}

// openTerminal makes a terminal of the host: what is written to it is shown in log.
func openTerminal(t *testing.T, log string) *os.File {
	t.Helper()
	// Not blocking, so that the end of the test can end the reading.
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	must(t, err)
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	must(t, unix.SetNonblock(int(master.Fd()), true)) // Fd made it block
	terminal, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	collect(t, master, log)
	return terminal
}

// Standard output on an object of the host: the ways of `runc run >file`, of a FIFO that somebody
// reads, of a shell's terminal and of a socket.
func TestOutputOnHost(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, h *host, log string) *os.File{
		"file": func(t *testing.T, _ *host, log string) *os.File {
			out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			must(t, err)
			return out
		},
		"file with a position": func(t *testing.T, _ *host, log string) *os.File {
			out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY, 0o600)
			must(t, err)
			return out
		},
		"fifo": func(t *testing.T, h *host, log string) *os.File {
			path := h.path("fifo")
			must(t, unix.Mkfifo(path, 0o600))
			from, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			out, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			collect(t, from, log)
			return out
		},
		"terminal": func(t *testing.T, _ *host, log string) *os.File { return openTerminal(t, log) },
		"socket": func(t *testing.T, _ *host, log string) *os.File {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			ours := os.NewFile(uintptr(fds[0]), "output")
			conn, err := net.FileConn(ours)
			must(t, err)
			must(t, ours.Close())
			collect(t, conn, log)
			return os.NewFile(uintptr(fds[1]), "output")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			opts := counts()
			opts.HostNetwork = name == "socket" // CRIU sees a socket's other end in its network namespace only
			log := h.path("out.log")
			c := h.runWithOutput("c", opts, open(t, h, log), log)
			path := c.export("c.tar", "--base", h.built.base)
			for _, engine := range bothEngines() {
				t.Run(engine, func(t *testing.T) {
					on := *h
					on.t = t
					on.restore(engine, path, "--engine", engine, "--base", h.built.base).wellFrom(c)
				})
			}
		})
	}
}
