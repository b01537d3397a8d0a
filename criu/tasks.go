package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxTasks is how many processes of a container are looked at.
const maxTasks = 1 << 16

// taskTree gives the PIDs of a process and its descendants, itself first. Those
// that end meanwhile may be missing.
func taskTree(pid int) ([]int, error) {
	if _, err := os.Stat(procPath(pid)); err != nil {
		return nil, fmt.Errorf("find process %d: %w", pid, err)
	}
	tree := []int{pid}
	seen := map[int]bool{pid: true}
	for i := 0; i < len(tree) && len(tree) < maxTasks; i++ {
		lists, err := filepath.Glob(procPath(tree[i], "task", "*", "children"))
		if err != nil {
			return nil, err
		}
		for _, list := range lists {
			b, err := os.ReadFile(list)
			if err != nil {
				continue // the thread has ended
			}
			for _, f := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(f); err == nil && !seen[child] {
					seen[child] = true
					tree = append(tree, child)
				}
			}
		}
	}
	return tree, nil
}

// Strays gives the processes in the container's PID namespace that are no
// descendants of its first process: those that joined it ("runc exec"). CRIU
// does not dump them, so that they would be lost without a word.
func Strays(pid int) ([]int, error) {
	alone, err := sameNamespace(pid, os.Getpid(), "pid")
	if err != nil || alone {
		return nil, err // without a PID namespace of its own there is no telling
	}
	tree, err := taskTree(pid)
	if err != nil {
		return nil, err
	}
	ns, err := os.Readlink(procPath(pid, "ns", "pid"))
	if err != nil {
		return nil, fmt.Errorf("read pid namespace of process %d: %w", pid, err)
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var strays []int
	for _, e := range procs {
		p, err := strconv.Atoi(e.Name())
		if err != nil || slices.Contains(tree, p) {
			continue
		}
		// An external PID namespace may hold other containers: only what shares the
		// mount namespace too belongs to this one.
		if link, err := os.Readlink(procPath(p, "ns", "pid")); err != nil || link != ns {
			continue
		}
		same, err := sameNamespace(p, pid, "mnt")
		// What was forked since the tree was read is below it all the same.
		if err == nil && same && !descends(p, pid) {
			strays = append(strays, p)
		}
	}
	return strays, nil
}

// descends tells whether a process is a descendant of another one, by its parents. One that has
// ended is taken for one: there is nothing of it to lose.
func descends(pid, ancestor int) bool {
	for range maxTasks {
		f, err := statFields(pid)
		if err != nil || len(f) < 2 {
			return true
		}
		if pid, err = strconv.Atoi(f[1]); err != nil || pid <= 1 {
			return false
		}
		if pid == ancestor {
			return true
		}
	}
	return false
}

// statFields gives the fields of /proc/PID/stat behind the name of the process: the state first, the third of all. The
// name in parentheses may hold anything, spaces and parentheses too.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])), nil
}

// alive tells whether a process is there and no zombie.
func alive(pid int) bool {
	f, err := statFields(pid)
	return err == nil && len(f) > 0 && f[0] != "Z" && f[0] != "X"
}

// startTime gives when a process was started, in clock ticks since boot. With
// the PID it names a process for good.
func startTime(pid int) (uint64, error) {
	f, err := statFields(pid)
	if err != nil {
		return 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	const field = 22 - 3
	if len(f) <= field {
		return 0, fmt.Errorf("read start time of process %d: malformed stat", pid)
	}
	return strconv.ParseUint(f[field], 10, 64)
}
