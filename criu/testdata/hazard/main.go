// Command hazard does, as the first process of a test container, one thing that
// a look at the container before a dump has to find, and counts.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keep holds what must stay open.
var keep []any

func main() {
	hazards := map[string]func(){
		"none":      func() {},
		"mapped":    mapped,
		"program":   program,
		"unlink":    func() { check(os.Remove(os.Args[0])) },
		"link":      link,
		"inotify":   inotify,
		"unix":      connect,
		"tmpfs":     func() { check(os.WriteFile(os.Args[2], random(40<<20), 0o600)) },
		"mptcp":     func() { listen(true) },
		"in-flight": inFlight,
		"io-uring":  func() { raw(unix.SYS_IO_URING_SETUP, 4) },
		"uffd":      func() { raw(unix.SYS_USERFAULTFD, 1) }, // of its own mode only
		"vsock":     func() { raw(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM) },
		"traced":    func() { child(&syscall.SysProcAttr{Ptrace: true}) },
		"userns":    func() { child(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}) },
		"serve":     serve,
		"stderr":    func() { fmt.Fprintln(os.Stderr, "tick 0") },
		"sleep":     func() { time.Sleep(time.Hour) },
	}
	hazards[os.Args[1]]()
	for i := 1; ; i++ {
		fmt.Println("tick", i)
		time.Sleep(50 * time.Millisecond)
	}
}

// mapped maps a deleted file of 4 MiB.
func mapped() {
	const size = 4 << 20
	check(os.WriteFile("/tmp/mapped", random(size), 0o600))
	f, err := os.OpenFile("/tmp/mapped", os.O_RDWR, 0)
	check(err)
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	check(err)
	check(f.Close())
	check(os.Remove("/tmp/mapped"))
	keep = append(keep, b)
}

// program goes on as a copy of this program, which removes itself.
func program() {
	b, err := os.ReadFile("/proc/self/exe")
	check(err)
	check(os.WriteFile("/tmp/program", b, 0o700))
	check(syscall.Exec("/tmp/program", []string{"/tmp/program", "unlink"}, nil))
}

// link opens a file, gives it a second name and removes the first.
func link() {
	f, err := os.Create("/tmp/first")
	check(err)
	check(os.Link("/tmp/first", "/tmp/second"))
	check(os.Remove("/tmp/first"))
	keep = append(keep, f)
}

func inotify() {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	check(err)
	_, err = unix.InotifyAddWatch(fd, os.Args[2], unix.IN_CREATE)
	check(err)
}

// connect connects to a unix socket of the given kind ("unix", "unixgram").
func connect() {
	c, err := net.Dial(os.Args[2], os.Args[3])
	check(err)
	keep = append(keep, c)
}

// serve listens on a unix socket and writes a byte to who connects first.
func serve() {
	l, err := net.Listen("unix", "/sockets/s")
	check(err)
	keep = append(keep, l, nil)
	go func() {
		c, err := l.Accept()
		check(err)
		_, err = c.Write([]byte("x"))
		check(err)
		keep[1] = c
	}()
}

func listen(multipath bool) net.Listener {
	var lc net.ListenConfig
	lc.SetMultipathTCP(multipath)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	check(err)
	keep = append(keep, l)
	return l
}

// inFlight has a connection that is not accepted; its own end is gone.
func inFlight() {
	l := listen(false)
	c, err := net.Dial("tcp4", l.Addr().String())
	check(err)
	check(c.Close())
}

// raw makes a system call that returns a descriptor.
func raw(nr uintptr, args ...uintptr) {
	a := [3]uintptr{}
	copy(a[:], args)
	if nr == unix.SYS_IO_URING_SETUP {
		a[1] = params()
	}
	_, _, errno := unix.Syscall(nr, a[0], a[1], a[2])
	if errno != 0 {
		check(errno)
	}
}

// params gives the address of zeroed struct io_uring_params, which has 120 bytes.
func params() uintptr {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	check(err)
	keep = append(keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// child starts this program again with attributes of the process.
func child(attr *syscall.SysProcAttr) {
	runtime.LockOSThread() // a tracer is a thread
	cmd := exec.Command("/proc/self/exe", "sleep")
	cmd.SysProcAttr = attr
	check(cmd.Start())
}

func random(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}
