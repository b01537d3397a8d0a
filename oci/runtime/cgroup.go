package runtime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// freezer is a cgroup that can hold its processes, of version 1 or 2.
type freezer struct {
	file       string // the control file
	hold, thaw string // what is written to it
	status     string // the file that tells the state
	held       string // a line of it when the processes are held
}

// findFreezer finds the freezer of the process pid. In a hybrid set-up the
// version 1 hierarchy is the one that runtimes use.
func findFreezer(pid int) (freezer, error) {
	paths, err := processCgroups(pid)
	if err != nil {
		return freezer{}, err
	}
	mounts, err := hierarchies()
	if err != nil {
		return freezer{}, err
	}
	if mount, ok := mounts["freezer"]; ok && paths["freezer"] != "" && paths["freezer"] != "/" {
		file := filepath.Join(mount, paths["freezer"], "freezer.state")
		return freezer{file: file, hold: "FROZEN", thaw: "THAWED", status: file, held: "FROZEN"}, nil
	}
	if mount, ok := mounts[""]; ok && paths[""] != "" && paths[""] != "/" {
		dir := filepath.Join(mount, paths[""])
		return freezer{
			file: filepath.Join(dir, "cgroup.freeze"), hold: "1", thaw: "0",
			status: filepath.Join(dir, "cgroup.events"), held: "frozen 1",
		}, nil
	}
	return freezer{}, fmt.Errorf("process %d is in no cgroup of its own that could be frozen", pid)
}

func (f freezer) frozen() (bool, error) {
	b, err := os.ReadFile(f.status)
	if err != nil {
		return false, err
	}
	return slices.Contains(strings.Split(strings.TrimSpace(string(b)), "\n"), f.held), nil
}

// release lets go of what is in the cgroup, without waiting for it.
func (f freezer) release() error { return os.WriteFile(f.file, []byte(f.thaw), 0o600) }

// set writes the wanted state and waits until the kernel reports it.
func (f freezer) set(ctx context.Context, hold bool) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	value := f.thaw
	if hold {
		value = f.hold
	}
	for {
		if err := os.WriteFile(f.file, []byte(value), 0o600); err != nil {
			return err
		}
		now, err := f.frozen()
		if err != nil || now == hold {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not become %s: %w", f.file, value, context.Cause(ctx))
		case <-time.After(time.Millisecond):
			// Version 1 needs the request again while tasks are between two states.
		}
	}
}

// processCgroups gives the cgroup path of pid by controller; "" is version 2.
func processCgroups(pid int) (map[string]string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	paths := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			paths[controller] = parts[2]
		}
	}
	return paths, lines.Err()
}

// hierarchies gives the mount point of each version 1 controller and, under "", of
// version 2.
func hierarchies() (map[string]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup mounts: %w", err)
	}
	mounts := map[string]string{}
	for _, m := range infos {
		if m.FSType == "cgroup2" {
			mounts[""] = m.Mountpoint
			continue
		}
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			mounts[option] = m.Mountpoint
		}
	}
	return mounts, nil
}

// CgroupVersion tells how this host's cgroups are mounted: v1, v2 or hybrid.
func CgroupVersion() (string, error) {
	mounts, err := hierarchies()
	if err != nil {
		return "", err
	}
	_, unified := mounts[""]
	switch {
	case unified && len(mounts) == 1:
		return "v2", nil
	case unified:
		return "hybrid", nil
	}
	return "v1", nil
}

// removeCgroups removes the empty cgroups of the path in every hierarchy.
func removeCgroups(path string) error {
	if path == "" || path == "/" || strings.Contains(path, "..") {
		return nil
	}
	mounts, err := hierarchies()
	if err != nil {
		return err
	}
	var errs error
	done := map[string]bool{}
	for _, mount := range mounts {
		if done[mount] {
			continue
		}
		done[mount] = true
		errs = errors.Join(errs, removeCgroup(filepath.Join(mount, path)))
	}
	return errs
}

// removeCgroup removes one cgroup and those below it; the kernel refuses one with
// processes.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %q: %w", dir, err)
	}
	return nil
}
