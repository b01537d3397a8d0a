package criu

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

const cgroupImage = "cgroup.img"

// controllerName is a controller, a hierarchy without one, or the unified hierarchy, which has no name. CRIU hands it to
// mount(2), where a comma would begin another option.
var controllerName = regexp.MustCompile(`^(name=)?[A-Za-z0-9_.-]*$`)

// commands are files of a cgroup that do something to the host when they are written, instead of holding a
// value. CRIU saves none of them.
func commands() []string {
	return []string{
		"release_agent", "cgroup.event_control", "cgroup.kill", "devices.allow", "devices.deny", "memory.force_empty", "memory.reclaim",
	}
}

// checkCgroupImage rejects what reaches beyond the container's own cgroup: CRIU opens the names for writing as
// root, and moves tasks to where the image says.
func checkCgroupImage(dir string, spec *specs.Spec) error {
	if _, err := os.Lstat(filepath.Join(dir, cgroupImage)); os.IsNotExist(err) {
		return nil
	}
	entries, err := readEntries[cgroup.CgroupEntry](dir, cgroupImage, magicCgroup)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, set := range e.GetSets() {
			for _, m := range set.GetCtls() {
				if !strings.HasPrefix(m.GetPath(), "/") || m.GetPath() != filepath.Clean(m.GetPath()) {
					return imageError(cgroupImage, "path %s", archive.QuoteName(m.GetPath()))
				}
				if !controllerName.MatchString(m.GetName()) {
					return imageError(cgroupImage, "controller %s", archive.QuoteName(m.GetName()))
				}
			}
		}
		for _, ctl := range e.GetControllers() {
			for _, n := range ctl.GetCnames() {
				if !controllerName.MatchString(n) {
					return imageError(cgroupImage, "controller %s", archive.QuoteName(n))
				}
			}
			if err := checkCgroupDirs(ctl.GetDirs(), true, spec); err != nil {
				return err
			}
		}
		if spec == nil {
			continue
		}
		if err := checkMembers(dir, e); err != nil {
			return err
		}
	}
	return nil
}

// checkCgroupDirs checks a tree of cgroups. Only the topmost are named by a path.
func checkCgroupDirs(dirs []*cgroup.CgroupDirEntry, top bool, spec *specs.Spec) error {
	for _, d := range dirs {
		name := d.GetDirName()
		ok := plainName(name)
		if top {
			trimmed := topDir(d)
			ok = trimmed == "" && len(d.GetProperties()) == 0 || trimmed == filepath.Clean(trimmed) && filepath.IsLocal(trimmed)
		}
		if !ok {
			return imageError(cgroupImage, "directory %s", archive.QuoteName(name))
		}
		for _, p := range d.GetProperties() {
			if !plainName(p.GetName()) || slices.Contains(commands(), p.GetName()) {
				return imageError(cgroupImage, "property %s", archive.QuoteName(p.GetName()))
			}
			if p.GetName() != "devices.list" {
				continue
			}
			if err := checkDeviceList(p.GetValue(), spec); err != nil {
				return err
			}
		}
		if err := checkCgroupDirs(d.GetChildren(), false, spec); err != nil {
			return err
		}
	}
	return nil
}

// topDir is the path of a topmost cgroup; empty for the root of its hierarchy.
func topDir(d *cgroup.CgroupDirEntry) string { return strings.TrimPrefix(d.GetDirName(), "/") }

// checkMembers wants every task in, or below, the one cgroup that a controller's part of the image begins with. CRIU
// gives that the name of the new container's; any other path it would take as a path of this host.
func checkMembers(dir string, e *cgroup.CgroupEntry) error {
	tops := map[string]string{} // by controller
	for _, ctl := range e.GetControllers() {
		for _, d := range ctl.GetDirs() {
			top := topDir(d)
			if top == "" {
				continue
			}
			for _, name := range ctl.GetCnames() {
				if other, dup := tops[name]; dup {
					return imageError(cgroupImage, "controller %s begins with two directories, %s and %s",
						archive.QuoteName(name), archive.QuoteName(other), archive.QuoteName(top))
				}
				tops[name] = top
			}
		}
	}
	sets, err := usedSets(dir)
	if err != nil {
		return err
	}
	for _, set := range e.GetSets() {
		if !sets[set.GetId()] {
			continue
		}
		for _, m := range set.GetCtls() {
			path := strings.TrimPrefix(m.GetPath(), "/")
			top, ok := tops[m.GetName()]
			inside := ok && (path == top || strings.HasPrefix(path, top+"/")) || path == "" && !limits(m.GetName())
			if inside && isCut(m.GetPath(), int64(m.GetCgnsPrefix()), len(top)+1) {
				continue
			}
			return imageError(cgroupImage, "tasks are in the cgroup %s of %s, which is not the container's",
				archive.QuoteName(m.GetPath()), archive.QuoteName(m.GetName()))
		}
	}
	return nil
}

// isCut tells whether a path ends or goes on with a slash behind so many bytes, which are those of the root of a cgroup
// namespace and at most longest. CRIU puts the new cgroup in their place.
func isCut(path string, prefix int64, longest int) bool {
	return prefix <= int64(longest) && prefix <= int64(len(path)) && (prefix == int64(len(path)) || path[prefix] == '/')
}

// limits tells whether a controller is one by which runtimes limit containers. What else there is may be in the root
// of its hierarchy, as runtimes leave it there.
func limits(controller string) bool {
	return slices.Contains([]string{"devices", "memory", "pids", "cpu", "cpuacct", "cpuset", "blkio", "freezer"}, controller) ||
		controller == "" && unifiedCgroups()
}

// unifiedCgroups tells whether this host has one hierarchy with all controllers.
func unifiedCgroups() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// usedSets gives the sets of cgroups that CRIU moves tasks and threads to. If all are in the one that CRIU was in itself,
// they stay where CRIU is, which is the container's cgroup.
func usedSets(dir string) (map[uint32]bool, error) {
	inv, err := readInventory(dir)
	if err != nil {
		return nil, err
	}
	tasks, err := readTree(dir)
	if err != nil {
		return nil, err
	}
	sets := map[uint32]bool{}
	for _, t := range tasks {
		if isZombie(dir, t.GetPid()) {
			continue // it is moved nowhere, and its threads are none
		}
		for _, tid := range append([]uint32{t.GetPid()}, t.GetThreads()...) {
			core, err := readEntry[criu_core.CoreEntry](dir, coreName(tid), magicCore)
			if err != nil {
				return nil, err
			}
			sets[core.GetTc().GetCgSet()] = true
			sets[core.GetThreadCore().GetCgSet()] = true
		}
	}
	delete(sets, 0) // none: with the parent
	if len(sets) == 1 && sets[inv.GetRootCgSet()] {
		return nil, nil
	}
	return sets, nil
}
