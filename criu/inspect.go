package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit"
	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// Inspection is what images tell of a container, without its memory.
type Inspection struct {
	ImageVersion uint32   `json:"imageVersion"`
	Architecture string   `json:"architecture"` // Go's name
	Processes    int      `json:"processes"`
	Root         *Process `json:"root"` // the first process, with all others below it
	Mounts       []Mount  `json:"mounts,omitempty"`
}

// Process is a dumped task.
type Process struct {
	PID      uint32     `json:"pid"` // in the container
	PGID     uint32     `json:"pgid"`
	SID      uint32     `json:"sid"`
	Comm     string     `json:"comm"`
	Exe      string     `json:"exe,omitempty"`
	State    string     `json:"state"`   // alive, stopped, zombie, dead
	Threads  int        `json:"threads"` // at least one
	UID      uint32     `json:"uid"`     // effective
	GID      uint32     `json:"gid"`     // effective
	Cwd      string     `json:"cwd,omitempty"`
	Files    []OpenFile `json:"files,omitempty"`
	Sockets  []Socket   `json:"sockets,omitempty"`
	Memory   []Mapping  `json:"memory,omitempty"` // by what it is of, the most first
	Children []*Process `json:"children,omitempty"`
}

// OpenFile is an open file of a task.
type OpenFile struct {
	FD   uint32 `json:"fd"`
	Type string `json:"type"` // as reg, pipe, tty, eventpoll
	Path string `json:"path,omitempty"`
	Pos  uint64 `json:"pos,omitempty"`
	Size uint64 `json:"size,omitempty"` // bytes, of a regular file
}

// Socket is an open socket of a task.
type Socket struct {
	FD          uint32 `json:"fd"`
	Protocol    string `json:"protocol"` // tcp, udp, unix, netlink, packet, ...
	State       string `json:"state,omitempty"`
	Source      string `json:"source,omitempty"`      // address:port, or the path of a unix socket
	Destination string `json:"destination,omitempty"` // address:port
}

// Mount is a mount of the container.
type Mount struct {
	Mountpoint string `json:"mountpoint"`
	Type       string `json:"type"`
	Source     string `json:"source,omitempty"`
	Root       string `json:"root,omitempty"` // what of the file system it shows
	Key        string `json:"key,omitempty"`  // of an external mount
}

// Inspect reads the images in a directory, of any origin and architecture.
// Images of pages need not be there. It is safe for images that nobody vouches for.
func Inspect(ctx context.Context, dir string) (*Inspection, error) {
	inv, err := readEntry[inventory.InventoryEntry](dir, archive.Inventory, magicInventory)
	if err != nil {
		return nil, err
	}
	tasks, err := readTree(dir)
	if err != nil {
		return nil, err
	}
	files, err := readFiles(dir)
	if err != nil {
		return nil, err
	}
	in := &Inspection{ImageVersion: inv.GetImgVersion(), Processes: len(tasks)}
	processes := make(map[uint32]*Process, len(tasks))
	for _, t := range tasks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p, arch, err := inspectTask(dir, t, files)
		if err != nil {
			return nil, err
		}
		processes[p.PID], in.Architecture = p, arch
	}
	for _, t := range tasks { // readTree has checked that this is a tree
		if t.GetPpid() == 0 {
			in.Root = processes[t.GetPid()]
			continue
		}
		parent := processes[t.GetPpid()]
		parent.Children = append(parent.Children, processes[t.GetPid()])
	}
	in.Mounts, err = inspectMounts(dir)
	return in, err
}

// readFiles gives the open files of all tasks by their IDs.
func readFiles(dir string) (map[uint32]*fdinfo.FileEntry, error) {
	entries, err := optional(readEntries[fdinfo.FileEntry](dir, FilesImage, magicFiles))
	if err != nil {
		return nil, err
	}
	files := make(map[uint32]*fdinfo.FileEntry, len(entries))
	for _, e := range entries {
		files[e.GetId()] = e
	}
	return files, nil
}

// FilesImage is the image of all open files.
const FilesImage = "files.img"

// Listening gives the addresses, as "0.0.0.0:80", on which TCP sockets of the images listen. Without
// [FilesImage] there are none.
func Listening(dir string) ([]string, error) {
	files, err := readFiles(dir)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, f := range files {
		if k := f.GetIsk(); k.GetProto() == unix.IPPROTO_TCP && socketState(k.GetState(), k.GetProto()) == "listen" {
			addresses = append(addresses, endpoint(k.GetSrcAddr(), k.GetSrcPort()))
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

// optional takes the absence of an image for one without entries.
func optional[T any](entries []T, err error) ([]T, error) {
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

func inspectTask(dir string, t *pstree.PstreeEntry, files map[uint32]*fdinfo.FileEntry) (*Process, string, error) {
	name := coreName(t.GetPid())
	core, err := readEntry[criu_core.CoreEntry](dir, name, magicCore)
	if err != nil {
		return nil, "", err
	}
	arch, ok := architecture(core.GetMtype())
	if !ok {
		return nil, "", imageError(name, "unknown architecture %d", core.GetMtype())
	}
	state := crit.TaskState(core.GetTc().GetTaskState())
	p := &Process{
		PID: t.GetPid(), PGID: t.GetPgid(), SID: t.GetSid(),
		Comm: core.GetTc().GetComm(), State: stateName(state), Threads: max(1, len(t.GetThreads())),
		UID: core.GetThreadCore().GetCreds().GetEuid(), GID: core.GetThreadCore().GetCreds().GetEgid(),
	}
	if !state.IsAliveOrStopped() {
		return p, arch, nil
	}
	mms, err := optional(readEntries[mm.MmEntry](dir, mmName(p.PID), magicMM))
	if err != nil {
		return nil, "", err
	}
	if len(mms) > 0 {
		p.Exe = files[mms[0].GetExeFileId()].GetReg().GetName()
		if p.Memory, err = inspectMemory(dir, p.PID, mms[0], files); err != nil {
			return nil, "", err
		}
	}
	fss, err := optional(readEntries[fs.FsEntry](dir, fmt.Sprintf("fs-%d.img", p.PID), magicFS))
	if err != nil {
		return nil, "", err
	}
	if len(fss) > 0 {
		p.Cwd = files[fss[0].GetCwdId()].GetReg().GetName()
	}
	return p, arch, inspectDescriptors(dir, p, core.GetIds(), files)
}

// inspectDescriptors fills in the open files and sockets of a task.
func inspectDescriptors(dir string, p *Process, ids *criu_core.TaskKobjIdsEntry, files map[uint32]*fdinfo.FileEntry) error {
	if ids == nil {
		all, err := optional(readEntries[criu_core.TaskKobjIdsEntry](dir, fmt.Sprintf("ids-%d.img", p.PID), magicIDs))
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil
		}
		ids = all[0]
	}
	fds, err := optional(readEntries[fdinfo.FdinfoEntry](dir, fmt.Sprintf("fdinfo-%d.img", ids.GetFilesId()), magicFdinfo))
	if err != nil {
		return err
	}
	slices.SortStableFunc(fds, func(a, b *fdinfo.FdinfoEntry) int { return int(a.GetFd()) - int(b.GetFd()) })
	for _, fd := range fds {
		f := files[fd.GetId()]
		if s, ok := socket(fd, f); ok {
			p.Sockets = append(p.Sockets, s)
			continue
		}
		p.Files = append(p.Files, regular(fd, f))
	}
	return nil
}

func inspectMounts(dir string) ([]Mount, error) {
	entries, err := mountEntries(dir)
	if err != nil {
		return nil, err
	}
	mounts := make([]Mount, 0, len(entries))
	for _, m := range entries {
		typ := m.GetFsname()
		if typ == "" {
			typ = mountType(mnt.Fstype(m.GetFstype())) //nolint:gosec // an enum
		}
		mounts = append(mounts, Mount{
			Mountpoint: imagePath(m.GetMountpoint()), Type: typ, Source: m.GetSource(), Root: m.GetRoot(), Key: m.GetExtKey(),
		})
	}
	return mounts, nil
}
