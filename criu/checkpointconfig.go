package criu

import (
	"fmt"
	"os"
	"strings"
)

// CheckpointConfig is a CRIU configuration for a runtime that itself dumps the container
// of the process pid. Without it CRIU records every cgroup of the host below a hierarchy
// in whose root the container sits, as in version 2 where a runtime sees version 1 alone,
// and a restore makes them all again. It also names the cgroup that holds the
// container's processes still, which not every runtime does. What the runtime says wins.
func CheckpointConfig(pid int) ([]byte, error) {
	container, err := readCgroups(pid)
	if err != nil {
		return nil, err
	}
	self, err := readCgroups(os.Getpid())
	if err != nil {
		return nil, err
	}
	hs, err := hostHierarchies()
	if err != nil {
		return nil, err
	}
	return checkpointConfig(hs, container, self), nil
}

func checkpointConfig(hs []hierarchy, container, self []membership) []byte {
	var lines strings.Builder
	if own := dumpControllers(container, self); len(own) < len(container) {
		for _, c := range own {
			// Quoted: version 2 has the empty name.
			fmt.Fprintf(&lines, "cgroup-dump-controller %q\n", c)
		}
	}
	if dir := freezeCgroup(hs, container, self); dir != "" {
		fmt.Fprintf(&lines, "freeze-cgroup %q\n", dir)
	}
	return []byte(lines.String())
}
