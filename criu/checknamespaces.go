package criu

import (
	"errors"
	"fmt"
	"os"

	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// ids are the numbers by which images know what a process shares with others. CRIU's own are in the
// inventory: a task with the same number of a namespace is restored into CRIU's, which is the host's.
type ids = criu_core.TaskKobjIdsEntry

// checkNamespaces rejects tasks that are in a namespace of the host where the spec has one of the
// container's own. Ipc and uts are not looked at: CRIU is started in new ones, see [ownNamespaces].
func checkNamespaces(dir string, spec *specs.Spec) error {
	if spec == nil {
		return nil
	}
	inv, err := readInventory(dir)
	if err != nil {
		return err
	}
	host := inv.GetRootIds()
	if host == nil {
		return imageError(archive.Inventory, "no namespaces of CRIU, with which those of the tasks are compared")
	}
	tasks, err := readTree(dir)
	if err != nil {
		return err
	}
	for i, t := range tasks {
		if err := checkTaskNamespaces(dir, t, i == 0, host, spec); err != nil {
			return err
		}
	}
	return nil
}

// checkTaskNamespaces checks one task. Only the first one must say where it is: one that does not is
// with its parent.
func checkTaskNamespaces(dir string, t *pstree.PstreeEntry, first bool, host *ids, spec *specs.Spec) error {
	name := fmt.Sprintf("ids-%d.img", t.GetPid())
	own, err := readEntry[ids](dir, name, magicIDs)
	if errors.Is(err, os.ErrNotExist) && !first {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range []struct {
		typ  specs.LinuxNamespaceType
		id   func(*ids) uint32
		must bool // whatever the spec says: without it there is no container
	}{
		{specs.MountNamespace, (*ids).GetMntNsId, true},
		{specs.PIDNamespace, (*ids).GetPidNsId, false},
		{specs.NetworkNamespace, (*ids).GetNetNsId, false},
		{specs.UserNamespace, (*ids).GetUserNsId, false},
		{specs.TimeNamespace, (*ids).GetTimeNsId, false},
	} {
		path, has := namespacePath(spec, n.typ)
		// One by path is joined, wherever the tasks were.
		if !n.must && (!has || path != "") {
			continue
		}
		if n.id(own) == n.id(host) {
			return imageError(name, "task %d is in the %s namespace of its host, and the spec has one of the container's own", t.GetPid(), n.typ)
		}
	}
	return nil
}
