package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// Image format versions that are known: 1.0 and 1.1.
const (
	minImageVersion = 1
	maxImageVersion = 2
)

// CheckOptions say what images are held against besides themselves. The zero
// value checks what holds for all images.
type CheckOptions struct {
	// Spec is the runtime spec that the images are to be restored with: capabilities of tasks, mounts,
	// devices, users, system call filters and packet filters must fit it. nil: not checked.
	Spec *specs.Spec
	// Guard are paths below /proc and /sys that have to be hidden or read-only in the container, as far as this host
	// has them.
	Guard []string
	// Own says that the images were made on this host. Only then can they name files by handles of a file system, and
	// have tasks of real time that the spec says nothing of.
	Own bool
	// AnyArchitecture accepts images of another CPU architecture, for reading only.
	AnyArchitecture bool
	// WithoutMemory says that memory and page maps are not there: a page server has them.
	WithoutMemory bool
	// Taken are pages files that are no longer in the directory: name to size in bytes.
	Taken map[string]int64
	// child says that part of the memory is in the images that archive.ParentLink names.
	child bool
}

// Checked is what a check learned about images.
type Checked struct {
	Processes    int    // tasks in the tree, zombies included
	MemoryBytes  int64  // sum of the pages files
	Architecture string // Go's name
}

// Check proves a directory of images before anything acts on it: that it is
// complete, that sizes agree, and that it holds none of what makes CRIU hang or
// reach outside of the container. What is wrong is an [archive.ErrRejected]
// that names the file and the rule.
func Check(ctx context.Context, dir string, opts CheckOptions) (Checked, error) {
	var c Checked
	var links []string
	if opts.child {
		links = append(links, archive.ParentLink)
	}
	names, err := listImages(dir, links...)
	if err != nil {
		return c, err
	}
	if !slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".img") }) {
		return c, fmt.Errorf("%w: no CRIU images in %s", archive.ErrRejected, archive.CheckpointDir)
	}
	if _, err := readInventory(dir); err != nil {
		return c, err
	}
	tasks, err := readTree(dir)
	if err != nil {
		return c, err
	}
	c.Processes = len(tasks)
	filters, err := readFilters(dir)
	if err != nil {
		return c, err
	}
	pids := make(map[uint32]bool, len(tasks))
	for _, t := range tasks {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		pids[t.GetPid()] = true
		arch, err := checkTask(dir, t, filters, opts)
		if err != nil {
			return c, err
		}
		if c.Architecture != "" && c.Architecture != arch {
			return c, imageError(coreName(t.GetPid()), "architecture %s, other tasks have %s", arch, c.Architecture)
		}
		c.Architecture = arch
	}
	if c.Architecture != runtime.GOARCH && !opts.AnyArchitecture {
		return c, imageError(coreName(tasks[0].GetPid()), "tasks are of architecture %s, this host is %s", c.Architecture, runtime.GOARCH)
	}
	if !opts.WithoutMemory {
		c.MemoryBytes, err = checkPages(ctx, dir, names, pids, pageSize(c.Architecture), opts.Taken)
	}
	if err != nil {
		return c, err
	}
	return c, checkSurroundings(ctx, dir, names, opts)
}

// checkSurroundings checks what is not of one task: mounts, cgroups, devices, users, networks.
func checkSurroundings(ctx context.Context, dir string, names []string, opts CheckOptions) error {
	spec := opts.Spec
	if err := checkMountImages(dir, names, opts); err != nil {
		return err
	}
	if err := checkCgroupImage(dir, spec); err != nil {
		return err
	}
	if err := checkUsers(dir, names, spec); err != nil {
		return err
	}
	if err := checkNamespaces(dir, spec); err != nil {
		return err
	}
	if err := checkLabels(dir, spec); err != nil {
		return err
	}
	if err := checkFiles(dir, names, opts); err != nil {
		return err
	}
	if err := checkNodes(ctx, dir, names, spec); err != nil {
		return err
	}
	return checkFilters(dir, names, spec)
}

// readInventory reads inventory.img of a version that is known.
func readInventory(dir string) (*inventory.InventoryEntry, error) {
	inv, err := readEntry[inventory.InventoryEntry](dir, archive.Inventory, magicInventory)
	if err != nil {
		return nil, err
	}
	if v := inv.GetImgVersion(); v < minImageVersion || v > maxImageVersion {
		return nil, imageError(archive.Inventory, "%w %d, this program knows %d to %d", errImageVersion, v, minImageVersion, maxImageVersion)
	}
	return inv, nil
}

var errImageVersion = errors.New("image version")

// pageSize is the size of a page in bytes: the host's for its own architecture.
func pageSize(arch string) int64 {
	if arch == runtime.GOARCH {
		return int64(os.Getpagesize())
	}
	return 4096
}

func coreName(pid uint32) string { return fmt.Sprintf("core-%d.img", pid) }

// readTree reads pstree.img: every task once, one root, no task its own ancestor.
func readTree(dir string) ([]*pstree.PstreeEntry, error) {
	const name = "pstree.img"
	tasks, err := readEntries[pstree.PstreeEntry](dir, name, magicPstree)
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, imageError(name, "no tasks")
	}
	parents := make(map[uint32]uint32, len(tasks))
	for _, t := range tasks {
		if t.GetPid() == 0 {
			return nil, imageError(name, "task with PID 0")
		}
		if _, dup := parents[t.GetPid()]; dup {
			return nil, imageError(name, "PID %d twice", t.GetPid())
		}
		parents[t.GetPid()] = t.GetPpid()
	}
	roots := 0
	depth := make(map[uint32]bool, len(tasks)) // tasks known to lead to a root
	for _, t := range tasks {
		if t.GetPpid() == 0 {
			roots++
		} else if _, ok := parents[t.GetPpid()]; !ok {
			return nil, imageError(name, "parent %d of PID %d is missing", t.GetPpid(), t.GetPid())
		}
		var path []uint32
		for p := t.GetPid(); p != 0 && !depth[p]; p = parents[p] {
			if path = append(path, p); len(path) > len(tasks) {
				return nil, imageError(name, "PID %d is its own ancestor", t.GetPid())
			}
		}
		for _, p := range path {
			depth[p] = true
		}
	}
	if roots != 1 {
		return nil, imageError(name, "%d tasks without a parent, want one", roots)
	}
	return tasks, checkThreads(dir, tasks)
}

// architecture gives Go's name for CRIU's.
func architecture(m criu_core.CoreEntryMarch) (string, bool) {
	switch m {
	case criu_core.CoreEntry_X86_64:
		return "amd64", true
	case criu_core.CoreEntry_ARM:
		return "arm", true
	case criu_core.CoreEntry_AARCH64:
		return "arm64", true
	case criu_core.CoreEntry_PPC64:
		return "ppc64le", true
	case criu_core.CoreEntry_S390:
		return "s390x", true
	case criu_core.CoreEntry_MIPS:
		return "mips64le", true
	case criu_core.CoreEntry_LOONGARCH64:
		return "loong64", true
	case criu_core.CoreEntry_RISCV64:
		return "riscv64", true
	default:
		return "", false
	}
}
