package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// cgroups are the cgroups of a container that is restored directly: CRIU is put
// into them before it makes the first task.
type cgroups struct {
	path        string
	hierarchies []hierarchy
	made        []string // directories, in the order of making
}

// newCgroups makes the cgroup path in every hierarchy. It must not be in use.
func newCgroups(path string, resources *specs.LinuxResources) (_ *cgroups, err error) {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil, errors.New("make cgroups: the root cgroup belongs to the host")
	}
	hs, err := hostHierarchies()
	if err != nil {
		return nil, err
	}
	c := &cgroups{path: path, hierarchies: hs}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	for _, h := range hs {
		if err := c.make(h); err != nil {
			return nil, fmt.Errorf("make cgroup %q: %w", h.dir(path), err)
		}
		if pids, err := cgroupPIDs(h.dir(path)); err != nil || len(pids) > 0 {
			return nil, fmt.Errorf("make cgroup %q: it has processes already (%v): %w", h.dir(path), pids, errors.Join(os.ErrExist, err))
		}
	}
	if err := c.limit(resources); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *cgroups) make(h hierarchy) error {
	dir := h.mount
	for part := range strings.SplitSeq(strings.Trim(strings.TrimPrefix(c.path, strings.TrimSuffix(h.root, "/")), "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		c.made = append(c.made, dir)
		// Whatever the umask: the root user of a user namespace mounts what is below.
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
		if slices.Contains(h.controllers, "cpuset") {
			// A new cpuset is empty, and nothing can join an empty one.
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				b, err := os.ReadFile(filepath.Join(parent, f))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, f), b, 0o644)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// join puts a process into all of the cgroups.
func (c *cgroups) join(pid int) error {
	for _, h := range c.hierarchies {
		file := filepath.Join(h.dir(c.path), "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// roots tells CRIU that the cgroups of the images are these here.
func (c *cgroups) roots() []*rpc.CgroupRoot {
	var roots []*rpc.CgroupRoot
	for _, h := range c.hierarchies {
		r := &rpc.CgroupRoot{Path: proto.String(c.path)}
		if !h.v2() {
			r.Ctrl = proto.String(strings.Join(h.controllers, ","))
		}
		roots = append(roots, r)
	}
	return roots
}

// source gives the directory of the host that a container's cgroup mount shows.
func (c *cgroups) source(m ImageMount) (string, bool) {
	name := filepath.Base(m.Mountpoint)
	for _, h := range c.hierarchies {
		switch {
		case h.v2() && (name == "unified" || m.Mountpoint == "/sys/fs/cgroup"):
			return h.dir(c.path), true
		case !h.v2() && (strings.Join(h.controllers, ",") == name || slices.Contains(h.controllers, name) || slices.Contains(h.controllers, "name="+name)):
			return h.dir(c.path), true
		}
	}
	return "", false
}

// killAll ends every process in the cgroups.
func (c *cgroups) killAll() {
	for range 100 {
		left := false
		for _, h := range c.hierarchies {
			pids, err := cgroupPIDs(h.dir(c.path))
			if err != nil {
				continue
			}
			for _, p := range pids {
				left = true
				unix.Kill(p, unix.SIGKILL)            //nolint:errcheck // it may have ended
				unix.Wait4(p, nil, unix.WNOHANG, nil) //nolint:errcheck // only our own child is ours to reap
			}
		}
		if !left {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// remove removes the directories that were made.
func (c *cgroups) remove() error {
	var errs []error
	for _, dir := range slices.Backward(c.made) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	c.made = nil
	return errors.Join(errs...)
}

func cgroupPIDs(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if p, err := strconv.Atoi(f); err == nil && p > 0 {
			pids = append(pids, p)
		}
	}
	return pids, nil
}
