package criu

import (
	"os"
	"os/exec"
	"testing"
)

func TestDescends(t *testing.T) {
	child := exec.Command("sleep", "1000")
	must(t, child.Start())
	pid := child.Process.Pid
	for name, tt := range map[string]struct {
		pid, ancestor int
		want          bool
	}{
		"child":      {pid, os.Getpid(), true},
		"grandchild": {pid, os.Getppid(), true},
		"parent":     {os.Getpid(), pid, false},
		"stranger":   {1, os.Getpid(), false},
	} {
		if got := descends(tt.pid, tt.ancestor); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // killed
	if !descends(pid, 1<<30) {
		t.Error("a process that is gone is one that would be lost")
	}
}
