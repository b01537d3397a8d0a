package criu

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilityNames are the capabilities of Linux in the order of their numbers.
const capabilityNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
	"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE " +
	"SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL " +
	"SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"

// maxThreads is the number of threads of all tasks, PID_MAX_LIMIT of Linux.
const maxThreads = 1 << 22

// checkTask checks the images of one task and of its threads, and gives its architecture.
func checkTask(dir string, t *pstree.PstreeEntry, filters filterSet, opts CheckOptions) (string, error) {
	pid := t.GetPid()
	name := coreName(pid)
	core, err := readEntry[criu_core.CoreEntry](dir, name, magicCore)
	if err != nil {
		return "", err
	}
	arch, ok := architecture(core.GetMtype())
	if !ok {
		return "", imageError(name, "unknown architecture %d", core.GetMtype())
	}
	if core.GetTc() == nil {
		return "", imageError(name, "not the core of a process")
	}
	if !isAlive(core) {
		return arch, nil // a zombie has nothing else
	}
	if _, err := readEntry[mm.MmEntry](dir, fmt.Sprintf("mm-%d.img", pid), magicMM); err != nil {
		return "", err
	}
	if err := checkMapped(dir, pid, opts); err != nil {
		return "", err
	}
	if err := checkThread(name, core, filters, false, opts); err != nil {
		return "", err
	}
	shared := filters.shared(core)
	for _, tid := range t.GetThreads() {
		if tid == pid {
			continue
		}
		// Every thread has credentials and filters of its own.
		name := coreName(tid)
		core, err := readEntry[criu_core.CoreEntry](dir, name, magicCore)
		if err != nil {
			return "", err
		}
		if core.GetThreadCore() == nil {
			return "", imageError(name, "not the core of a thread")
		}
		if err := checkThread(name, core, filters, shared, opts); err != nil {
			return "", err
		}
	}
	return arch, nil
}

// checkMapped wants the page map of a task. Its content is checked with all page maps.
func checkMapped(dir string, pid uint32, opts CheckOptions) error {
	if opts.WithoutMemory {
		return nil
	}
	name := fmt.Sprintf("pagemap-%d.img", pid)
	f, _, err := openImage(dir, name)
	if err != nil {
		return missing(name, err)
	}
	return f.Close()
}

func isAlive(core *criu_core.CoreEntry) bool {
	return crit.TaskState(core.GetTc().GetTaskState()).IsAliveOrStopped()
}

// isZombie tells whether the core of a process says that it has ended.
func isZombie(dir string, pid uint32) bool {
	core, err := readEntry[criu_core.CoreEntry](dir, coreName(pid), magicCore)
	return err == nil && core.GetTc() != nil && !isAlive(core)
}

// checkThread holds what a thread may do against the spec. shared tells that it gets the filters of the
// first thread.
func checkThread(name string, core *criu_core.CoreEntry, filters filterSet, shared bool, opts CheckOptions) error {
	spec := opts.Spec
	if err := checkCapabilities(name, core.GetThreadCore().GetCreds(), spec); err != nil {
		return err
	}
	if err := checkScheduling(name, core, opts); err != nil {
		return err
	}
	switch mode, filter := seccompOf(core); {
	case mode == criu_core.SeccompMode_filter:
		return filters.check(name, filter)
	case mode == criu_core.SeccompMode_disabled && !shared && spec != nil && spec.Linux != nil && spec.Linux.Seccomp != nil:
		return imageError(name, "task has no system call filter, and the spec has one")
	}
	return nil
}

// checkCapabilities rejects a task that would get capabilities which the spec
// does not bound: CRIU gives what the image says.
func checkCapabilities(name string, c *creds.CredsEntry, spec *specs.Spec) error {
	if spec == nil || spec.Process == nil {
		return nil
	}
	if c == nil {
		return imageError(name, "task has no credentials")
	}
	granted := bounding(spec)
	names := strings.Fields(capabilityNames)
	for _, set := range [][]uint32{c.GetCapInh(), c.GetCapPrm(), c.GetCapEff(), c.GetCapBnd(), c.GetCapAmb()} {
		for word, w := range set {
			for w != 0 {
				n := word*32 + bits.TrailingZeros32(w)
				w &= w - 1
				if n >= len(names) {
					return imageError(name, "task has the unknown capability %d", n)
				}
				if !slices.Contains(granted, "CAP_"+names[n]) {
					return imageError(name, "task has CAP_%s, which the spec does not grant", names[n])
				}
			}
		}
	}
	return nil
}

// checkScheduling rejects a thread that goes before all others of the host, or may choose to, which needs CAP_SYS_NICE or
// a resource limit of the spec: CRIU sets what the image says as root. One of this host may have its limits of who started it.
func checkScheduling(name string, core *criu_core.CoreEntry, opts CheckOptions) error {
	spec := opts.Spec
	limit := func(l specs.POSIXRlimit) bool { return l.Type == "RLIMIT_RTPRIO" && l.Hard > 0 }
	if opts.Own || spec == nil || spec.Process == nil || slices.Contains(bounding(spec), "CAP_SYS_NICE") || slices.ContainsFunc(spec.Process.Rlimits, limit) {
		return nil
	}
	realTime := slices.Contains([]uint32{unix.SCHED_FIFO, unix.SCHED_RR, unix.SCHED_DEADLINE}, core.GetThreadCore().GetSchedPolicy())
	limits := core.GetTc().GetRlimits().GetRlimits() // by the numbers of the kernel
	if realTime || len(limits) > unix.RLIMIT_RTPRIO && limits[unix.RLIMIT_RTPRIO].GetMax() > 0 {
		return imageError(name, "task may run in real time, for which it needs CAP_SYS_NICE, which the spec does not grant")
	}
	return nil
}

// checkThreads wants every thread to be one thread of one task: CRIU reads its core by number.
func checkThreads(dir string, tasks []*pstree.PstreeEntry) error {
	const name = "pstree.img"
	seen := map[uint32]bool{}
	for _, t := range tasks {
		if threads := t.GetThreads(); len(threads) > 0 && threads[0] != t.GetPid() {
			if len(threads) == 1 && isZombie(dir, t.GetPid()) {
				continue // CRIU writes what was in memory there, and reads it for the living only
			}
			return imageError(name, "the first thread of PID %d is %d", t.GetPid(), threads[0])
		}
		for _, tid := range t.GetThreads() {
			if tid == 0 || seen[tid] {
				return imageError(name, "thread %d of PID %d is none or there already", tid, t.GetPid())
			}
			if len(seen) == maxThreads {
				return imageError(name, "more than %d threads", maxThreads)
			}
			seen[tid] = true
		}
	}
	return nil
}

// checkUsers rejects user namespaces that map other users to the container than the spec.
func checkUsers(dir string, names []string, spec *specs.Spec) error {
	if spec == nil || spec.Linux == nil {
		return nil
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "userns-") || !strings.HasSuffix(name, ".img") {
			continue
		}
		e, err := readEntry[userns.UsernsEntry](dir, name, magicUserns)
		if err != nil {
			return err
		}
		if !hasNamespace(spec, specs.UserNamespace) {
			return imageError(name, "a user namespace, which the spec does not have")
		}
		if !sameMapping(e.GetUidMap(), spec.Linux.UIDMappings) || !sameMapping(e.GetGidMap(), spec.Linux.GIDMappings) {
			return imageError(name, "its users and groups are mapped in another way than the spec says")
		}
	}
	return nil
}

func sameMapping(got []*userns.UidGidExtent, want []specs.LinuxIDMapping) bool {
	return slices.EqualFunc(got, want, func(g *userns.UidGidExtent, w specs.LinuxIDMapping) bool {
		return g.GetFirst() == w.ContainerID && g.GetLowerFirst() == w.HostID && g.GetCount() == w.Size
	})
}

// checkLabels rejects policies of a security module, which CRIU would load into the kernel.
func checkLabels(dir string, spec *specs.Spec) error {
	const name = "apparmor.img"
	if spec == nil {
		return nil
	}
	switch fi, err := os.Lstat(filepath.Join(dir, name)); {
	case os.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case fi.Size() > 0:
		return imageError(name, "AppArmor policies of another host")
	}
	return nil
}
