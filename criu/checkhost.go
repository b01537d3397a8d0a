package criu

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

const cgroupImage = "cgroup.img"

func isMountImage(name string) bool {
	return strings.HasPrefix(name, "mountpoints-") && strings.HasSuffix(name, ".img")
}

// imagePath makes a path of an image ("./proc" in old ones, "/proc") absolute and clean.
func imagePath(p string) string { return filepath.Clean("/" + strings.TrimPrefix(p, ".")) }

// checkCgroupImage rejects names that are not plain: CRIU opens them for writing as root.
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
				if !plainName(m.GetName()) && m.GetName() != "" {
					return imageError(cgroupImage, "controller %s", archive.QuoteName(m.GetName()))
				}
			}
		}
		for _, ctl := range e.GetControllers() {
			for _, n := range ctl.GetCnames() {
				if n != "" && !plainName(n) {
					return imageError(cgroupImage, "controller %s", archive.QuoteName(n))
				}
			}
			if err := checkCgroupDirs(ctl.GetDirs(), true, spec); err != nil {
				return err
			}
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
			trimmed := strings.TrimPrefix(name, "/")
			ok = trimmed == "" || trimmed == filepath.Clean(trimmed) && filepath.IsLocal(trimmed)
		}
		if !ok {
			return imageError(cgroupImage, "directory %s", archive.QuoteName(name))
		}
		for _, p := range d.GetProperties() {
			if !plainName(p.GetName()) {
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

func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// checkFilters rejects packet filter rules for a container in the host's network
// namespace: CRIU would load them there.
func checkFilters(dir string, names []string, spec *specs.Spec) error {
	if spec == nil || hasNamespace(spec, specs.NetworkNamespace) {
		return nil
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "iptables-") && !strings.HasPrefix(name, "ip6tables-") && !strings.HasPrefix(name, "nftables-") {
			continue
		}
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if fi.Size() > 0 {
			return imageError(name, "packet filter rules, and the container is in the host's network namespace")
		}
	}
	return nil
}

func hasNamespace(spec *specs.Spec, typ specs.LinuxNamespaceType) bool {
	_, ok := namespacePath(spec, typ)
	return ok
}

// namespacePath gives the path of a namespace of the spec; empty for a new one.
func namespacePath(spec *specs.Spec, typ specs.LinuxNamespaceType) (path string, ok bool) {
	if spec == nil || spec.Linux == nil {
		return "", false
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == typ {
			return n.Path, true
		}
	}
	return "", false
}
