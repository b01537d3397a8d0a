package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// membership is a line of /proc/PID/cgroup.
type membership struct {
	controllers string // "cpu,cpuacct", "name=systemd", or "" for cgroup v2
	path        string
}

// hierarchy is a mounted cgroup hierarchy of this host.
type hierarchy struct {
	controllers []string // "cpu", "name=systemd"; none for cgroup v2
	mount       string   // mount point
	root        string   // the cgroup that the mount point shows
}

func (h hierarchy) v2() bool { return len(h.controllers) == 0 }

// dir gives the directory of a cgroup.
func (h hierarchy) dir(cgroup string) string {
	if h.root != "/" {
		cgroup = strings.TrimPrefix(cgroup, h.root)
	}
	return filepath.Join(h.mount, cgroup)
}

func readCgroups(pid int) ([]membership, error) {
	b, err := os.ReadFile(procPath(pid, "cgroup"))
	if err != nil {
		return nil, fmt.Errorf("read cgroups of process %d: %w", pid, err)
	}
	return parseCgroups(string(b)), nil
}

func parseCgroups(text string) []membership {
	var ms []membership
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 {
			ms = append(ms, membership{controllers: f[1], path: f[2]})
		}
	}
	return ms
}

// dumpControllers gives the hierarchies in which the container has a cgroup of
// its own. Where it sits in the root CRIU would record all cgroups of the host,
// and where it sits in one with this process, those of others.
func dumpControllers(container, self []membership) []string {
	var cs []string
	for _, m := range container {
		if m.path != "/" && !slices.Contains(self, m) {
			cs = append(cs, m.controllers)
		}
	}
	return cs
}

// hostHierarchies gives the cgroup hierarchies that are mounted here.
func hostHierarchies() ([]hierarchy, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter("/sys/fs/cgroup"))
	if err != nil {
		return nil, fmt.Errorf("read cgroup mounts: %w", err)
	}
	return hierarchies(infos), nil
}

func hierarchies(infos []*mountinfo.Info) []hierarchy {
	var hs []hierarchy
	for _, m := range infos {
		h := hierarchy{mount: m.Mountpoint, root: m.Root}
		switch m.FSType {
		case "cgroup2":
		case "cgroup":
			for o := range strings.SplitSeq(m.VFSOptions, ",") {
				if o != "rw" && o != "ro" && o != "xattr" && o != "clone_children" && o != "noprefix" && !strings.HasPrefix(o, "release_agent") {
					h.controllers = append(h.controllers, o)
				}
			}
			if h.v2() {
				continue // a v1 hierarchy without a controller or a name
			}
		default:
			continue
		}
		same := func(x hierarchy) bool { return slices.Equal(x.controllers, h.controllers) }
		if !slices.ContainsFunc(hs, same) {
			hs = append(hs, h)
		}
	}
	return hs
}

// freezeCgroup gives the directory of the cgroup that CRIU may freeze to stop
// the container all at once, or "" if there is none: it must be the
// container's own, not one that this process is in too.
func freezeCgroup(hs []hierarchy, container, self []membership) string {
	own := func(controller string) (string, bool) {
		for _, m := range container {
			if !slices.Contains(strings.Split(m.controllers, ","), controller) {
				continue
			}
			for _, s := range self {
				if s.controllers == m.controllers && (s.path == m.path || strings.HasPrefix(s.path, m.path+"/")) {
					return "", false
				}
			}
			return m.path, m.path != "/"
		}
		return "", false
	}
	for _, controller := range []string{"freezer", ""} {
		p, ok := own(controller)
		if !ok {
			continue
		}
		for _, h := range hs {
			if controller == "" && h.v2() || slices.Contains(h.controllers, controller) {
				return h.dir(p)
			}
		}
	}
	return ""
}
