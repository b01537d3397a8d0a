package criu

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func isMountImage(name string) bool {
	return strings.HasPrefix(name, "mountpoints-") && strings.HasSuffix(name, ".img")
}

// imagePath makes a path of an image ("./proc" in old ones, "/proc") absolute and clean.
func imagePath(p string) string { return filepath.Clean("/" + strings.TrimPrefix(p, ".")) }

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
		if !isFilterImage(name) {
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

// isFilterImage tells whether an image is of packet filters.
func isFilterImage(name string) bool {
	return strings.HasPrefix(name, "iptables-") || strings.HasPrefix(name, "ip6tables-") || strings.HasPrefix(name, "nftables-")
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
