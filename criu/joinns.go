package criu

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pidns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// joinedNamespace is a namespace of this host that the tasks are restored into.
type joinedNamespace struct {
	name string // as CRIU calls it: net, pid, ipc, uts, time, user
	path string // of its file on this host
	key  string // under which the images ask for it; empty: CRIU joins it by its path
}

// joinedNamespaces gives the namespaces of the spec that have a path. Images of a network or PID
// namespace that was external ask for it by a key; the network namespace of images that hold
// one of their own can be replaced all the same.
func joinedNamespaces(imagesDir string, spec *specs.Spec) ([]joinedNamespace, error) {
	if spec.Linux == nil {
		return nil, nil
	}
	var joined []joinedNamespace
	for _, n := range spec.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		j := joinedNamespace{name: string(n.Type), path: n.Path}
		var err error
		switch n.Type {
		case specs.NetworkNamespace:
			j.name = "net"
			j.key, err = netKey(imagesDir)
		case specs.PIDNamespace:
			if j.key, err = pidKey(imagesDir); err == nil && j.key == "" {
				err = errors.New("the container had a PID namespace of its own, and its processes cannot be restored into another one")
			}
		case specs.IPCNamespace, specs.UTSNamespace, specs.TimeNamespace, specs.UserNamespace:
		case specs.CgroupNamespace:
			continue // it is made by where the tasks are
		default:
			err = errors.New("criu cannot restore into an existing one")
		}
		if err != nil {
			return nil, fmt.Errorf("join %s namespace %q: %w", n.Type, n.Path, err)
		}
		joined = append(joined, j)
	}
	return joined, nil
}

// ownNamespaces are the flags of the namespaces that a container has for itself and whose images may be
// missing: a container of a pod in its host's network has the host's name. CRIU restores into its own ones
// then, which must not be the host's.
func ownNamespaces(spec *specs.Spec) int {
	flags := 0
	for typ, flag := range map[specs.LinuxNamespaceType]int{specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS} {
		if hasNamespace(spec, typ) {
			flags |= flag
		}
	}
	return flags
}

// netKey gives the key of the external network namespace of the images, or "" if they have none.
func netKey(dir string) (string, error) {
	return namespaceKey(dir, "netns-", magicNetNS, func(e *netdev.NetnsEntry) string { return e.GetExtKey() })
}

// pidKey gives the key of the external PID namespace of the images, or "".
func pidKey(dir string) (string, error) {
	return namespaceKey(dir, "pidns-", magicPIDNS, func(e *pidns.PidnsEntry) string { return e.GetExtKey() })
}

func namespaceKey[T any, P message[T]](dir, prefix string, magic uint32, key func(P) string) (string, error) {
	names, err := listImages(dir)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) })
	if i < 0 {
		return "", nil
	}
	e, err := readEntry[T, P](dir, names[i], magic)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return key(e), nil
}
