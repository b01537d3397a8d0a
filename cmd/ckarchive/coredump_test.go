package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoCoreDump kills ckarchive in the middle of reading, in a way that would leave a core.
func TestNoCoreDump(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -c "$(ulimit -Hc)" && exec ckarchive verify -`)
	cmd.Dir, cmd.Stdin = t.TempDir(), r
	cmd.Env = append(os.Environ(), "GOTRACEBACK=crash", "CKARCHIVE_ROOT="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It reads when the pipe is empty again.
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		n, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("ckarchive does not read: %v", err)
		}
		if n == 0 {
			break
		}
	}
	if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGABRT {
		t.Fatalf("ended with %v, want SIGABRT", cmd.ProcessState)
	}
	if status.CoreDump() {
		t.Error("ckarchive left a core dump")
	}
}
