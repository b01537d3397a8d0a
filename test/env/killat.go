package env

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// steps are the system calls that others see the effect of, or that make one last: between two of them a killed process
// might as well have been killed at the second.
func steps() map[uint64]bool {
	set := map[uint64]bool{}
	for _, nr := range []uint64{
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT,
		unix.SYS_SYMLINKAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_FTRUNCATE, unix.SYS_PWRITE64, unix.SYS_WRITE,
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_SENDMSG,
	} {
		set[nr] = true
	}
	for _, nr := range ownSteps {
		set[nr] = true
	}
	return set
}

// KillAt runs a program and kills it before its n-th system call that others could see something of, whichever of its
// threads makes it; n is at least 1. It tells whether there was such a call: otherwise the program has ended in its own way.
// The programs that it starts are not traced, and live on.
func KillAt(tb testing.TB, n int, dir string, environ []string, output *os.File, argv ...string) (killed bool, status unix.WaitStatus) {
	tb.Helper()
	runtime.LockOSThread() // the tracer is one thread
	defer runtime.UnlockOSThread()
	null, err := os.Open(os.DevNull)
	if err != nil {
		tb.Fatal(err)
	}
	defer null.Close() //nolint:errcheck // read side
	child, err := os.StartProcess(Program(tb, argv[0]), argv, &os.ProcAttr{
		Dir: dir, Env: environ, Files: []*os.File{null, output, output}, Sys: &unix.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		tb.Fatalf("start %s: %v", argv[0], err)
	}
	t := tracer{pid: child.Pid, steps: steps(), left: n, known: map[int]bool{child.Pid: true}}
	if status, err = t.run(); err != nil {
		_ = child.Kill()
		tb.Fatalf("trace %s: %v", argv[0], err)
	}
	_ = child.Release() // it was waited for
	return t.left == 0, status
}

// tracer counts the system calls of a process.
type tracer struct {
	pid   int
	steps map[uint64]bool
	left  int
	known map[int]bool // threads whose first stop is over
}

func (t *tracer) run() (status unix.WaitStatus, err error) {
	// The stop at its exec.
	if _, err := unix.Wait4(t.pid, &status, unix.WALL, nil); err != nil {
		return status, err
	}
	// Not PTRACE_O_TRACEVFORK: what it starts is its own.
	err = unix.PtraceSetOptions(t.pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL)
	if err == nil {
		err = unix.PtraceSyscall(t.pid, 0)
	}
	for err == nil {
		var thread int
		thread, err = unix.Wait4(-t.pid, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			err = nil
			continue
		case err != nil:
			return status, err
		case thread == t.pid && (status.Exited() || status.Signaled()):
			return status, nil
		case status.Stopped():
			// A thread may be gone, killed with the others.
			if err = unix.PtraceSyscall(thread, t.stopped(thread, status)); errors.Is(err, unix.ESRCH) {
				err = nil
			}
		}
	}
	return status, err
}

// stopped looks at a thread that stands still, and gives the signal that it goes on with.
func (t *tracer) stopped(thread int, status unix.WaitStatus) (signal int) {
	const inSyscall = unix.SIGTRAP | 0x80
	switch sig := status.StopSignal(); {
	case sig == inSyscall:
		if t.left > 0 && t.steps[entered(thread)] {
			if t.left--; t.left == 0 {
				_ = unix.Kill(t.pid, unix.SIGKILL)
			}
		}
		return 0
	case sig == unix.SIGTRAP: // of a clone
		return 0
	case sig == unix.SIGSTOP && !t.known[thread]:
		t.known[thread] = true
		return 0
	default:
		return int(sig)
	}
}

// none is no system call.
const none = ^uint64(0)

// entered gives the number of the system call that a thread is about to make.
func entered(thread int) uint64 {
	var info struct { // struct ptrace_syscall_info
		op     uint8
		_      [3]uint8
		arch   uint32
		ip, sp uint64
		nr     uint64
		args   [6]uint64
		_      [2]uint64
	}
	const atEntry = 1
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0) //nolint:gosec // as ptrace(2) has it
	if errno != 0 || info.op != atEntry {
		return none
	}
	return info.nr
}
