package criu

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// cpuCaps asks CRIU for its usual CPU checks (FPU and instructions) and for a
// record of the CPU, cpuinfo.img.
const cpuCaps = 1 | 4 | 8

// Keys of external namespaces, the same in all runtimes.
const (
	keyNetNS = "extRootNetNS"
	keyPIDNS = "extRootPidNS"
)

// facts are what a dump has to know of a container beside its spec.
type facts struct {
	mounts      []*mountinfo.Info
	cgroups     []membership
	self        []membership
	hierarchies []hierarchy
	ownCgroupNS bool
	interfaces  []string // of its network namespace
	netNS       uint64   // inode numbers
	pidNS       uint64
}

func gatherFacts(pid int) (facts, error) {
	var f facts
	var err error
	if f.mounts, err = readMounts(pid); err != nil {
		return f, err
	}
	if f.cgroups, err = readCgroups(pid); err != nil {
		return f, err
	}
	if f.self, err = readCgroups(os.Getpid()); err != nil {
		return f, err
	}
	if f.hierarchies, err = hostHierarchies(); err != nil {
		return f, err
	}
	same, err := sameNamespace(pid, os.Getpid(), "cgroup")
	if err != nil {
		return f, err
	}
	f.ownCgroupNS = !same
	b, err := os.ReadFile(procPath(pid, "net", "dev"))
	if err != nil {
		return f, fmt.Errorf("read network interfaces of process %d: %w", pid, err)
	}
	f.interfaces = parseInterfaces(string(b))
	for kind, ino := range map[string]*uint64{"net": &f.netNS, "pid": &f.pidNS} {
		var st unix.Stat_t
		if err := unix.Stat(procPath(pid, "ns", kind), &st); err != nil {
			return f, fmt.Errorf("read %s namespace of process %d: %w", kind, pid, err)
		}
		*ino = st.Ino
	}
	return f, nil
}

// parseInterfaces reads the names of /proc/PID/net/dev.
func parseInterfaces(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

// dumpRequest fills in the options of a dump and gives the external objects
// that they declare.
func dumpRequest(o *rpc.CriuOpts, opts DumpOptions, f facts, sockets []archive.External) ([]archive.External, error) {
	flags := opts.Flags
	flags.MountCompat = false // CRIU refuses it at a dump
	if err := flags.apply(o); err != nil {
		return nil, err
	}
	mode, err := cgroupMode(opts.Flags.CgroupMode, rpc.CriuCgMode_DEFAULT)
	if err != nil {
		return nil, err
	}
	o.Pid = proto.Int32(int32(opts.PID)) //nolint:gosec // a PID
	o.Root = proto.String(opts.Rootfs)
	o.LeaveRunning = proto.Bool(opts.LeaveRunning)
	o.NotifyScripts = proto.Bool(true)
	o.OrphanPtsMaster = proto.Bool(true)
	o.TcpSkipInFlight = proto.Bool(opts.TCPSkipInFlight)
	o.LinkRemap = proto.Bool(opts.LinkRemap)
	o.CpuCap = proto.Uint32(cpuCaps)
	o.ManageCgroups = proto.Bool(true)
	o.ManageCgroupsMode = mode.Enum()
	o.CgroupDumpController = dumpControllers(f.cgroups, f.self)
	if opts.GhostLimit != 0 {
		o.GhostLimit = proto.Uint32(opts.GhostLimit)
	}
	if opts.FreezeTimeout > 0 {
		o.Timeout = proto.Uint32(uint32(max(1, opts.FreezeTimeout.Seconds())))
	}
	if opts.ForceIrmap || len(opts.IrmapPaths) > 0 {
		o.ForceIrmap = proto.Bool(true)
		o.IrmapScanPaths = opts.IrmapPaths
	}
	if err := memoryRequest(o, opts); err != nil {
		return nil, err
	}
	if dir := freezeCgroup(f.hierarchies, f.cgroups, f.self); dir != "" {
		o.FreezeCgroup = proto.String(dir)
	}
	ext := externalMounts(f.mounts, opts.Spec, f.ownCgroupNS)
	for _, e := range ext {
		o.ExtMnt = append(o.ExtMnt, &rpc.ExtMountMap{Key: proto.String(e.Path), Val: proto.String(e.Key)})
	}
	ext = append(ext, namespaceRequest(o, opts, f)...)
	for _, s := range sockets {
		o.External = append(o.External, s.Key)
	}
	o.External = append(o.External, opts.External...)
	return append(ext, sockets...), nil
}

// givenBack tells whether all interfaces but lo are pairs whose outer ends the restore is told.
func givenBack(interfaces, external []string) bool {
	return !slices.ContainsFunc(interfaces, func(name string) bool {
		return name != "lo" && !slices.Contains(external, "veth["+name+"]")
	})
}

// namespaceRequest fills in which namespaces belong to others.
func namespaceRequest(o *rpc.CriuOpts, opts DumpOptions, f facts) (ext []archive.External) {
	p, own := namespacePath(opts.Spec, specs.NetworkNamespace)
	switch {
	case own && p != "":
		o.External = append(o.External, fmt.Sprintf("net[%d]:%s", f.netNS, keyNetNS))
		ext = append(ext, archive.External{Kind: kindNet, Key: keyNetNS, Path: p})
	case opts.EmptyNetNS, own && !givenBack(f.interfaces, opts.External):
		// Interfaces beside lo belong to whoever set them up and will again: CRIU could
		// not restore their other ends.
		o.EmptyNs = proto.Uint32(unix.CLONE_NEWNET)
	}
	if p, ok := namespacePath(opts.Spec, specs.PIDNamespace); ok && p != "" {
		o.External = append(o.External, fmt.Sprintf("pid[%d]:%s", f.pidNS, keyPIDNS))
		ext = append(ext, archive.External{Kind: kindPID, Key: keyPIDNS, Path: p})
	}
	return ext
}
