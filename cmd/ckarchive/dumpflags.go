package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// What the flags are when nobody says.
const (
	defaultGhostLimit  = "1MiB"
	defaultNetworkLock = "iptables"
	noStatusFD         = -1
)

// acceptFlags are options by which a dump takes what would stop it otherwise. check has them too:
// its verdict is that of a dump with the same options.
type acceptFlags struct {
	Profile         string   `help:"Take the options of this profile that are not on the command line: jvm, postgres, server, or one of /etc/ckarchive/profiles." placeholder:"NAME"`
	TCPSkipInFlight bool     `help:"Leave out TCP connections that are not established yet."`
	LinkRemap       bool     `help:"Allow open files that were deleted but have other links."`
	GhostLimit      string   `help:"Largest deleted open file that is dumped." default:"${ghostlimit}" placeholder:"SIZE"`
	ForceIrmap      bool     `help:"Find files that are watched with inotify by a search."`
	IrmapPath       []string `help:"Directory of the container that is searched for watched files; may be repeated." sep:"none" placeholder:"DIR"`
}

// dumpFlags are the other options of a dump.
type dumpFlags struct {
	acceptFlags
	criuFlags
	External          []string      `help:"A unix socket outside of the container that it is connected to, by its path or @name, or any external object in CRIU's notation, as unix[1234]; may be repeated." sep:"none" placeholder:"NAME"`
	NetworkLock       string        `help:"How CRIU locks TCP connections, here and when it restores: ${enum}." enum:"iptables,nftables,skip" default:"${networklock}"`
	ManageCgroupsMode string        `help:"How much of its cgroups is dumped: ignore, soft, full, strict; soft by default." enum:",ignore,soft,full,strict" default:"" placeholder:"MODE"`
	EmptyNs           string        `help:"Leave this namespace empty: network is the only one." enum:",network" default:"" placeholder:"network"`
	SkipFileRWXCheck  bool          `name:"skip-file-rwx-check" help:"Do not compare the modes of open files when this archive is restored."`
	MntnsCompatMode   bool          `help:"Use CRIU's older way to restore mounts when this archive is restored."`
	CRIUConfig        string        `name:"criu-config" help:"File with further options of CRIU, which win over all others." type:"path" placeholder:"FILE"`
	FreezeTimeout     time.Duration `help:"How long the tasks may take to stop, at least a second; CRIU's 10 seconds by default."`
	WorkPath          string        `help:"Directory for CRIU's log and statistics, which stay there." type:"path" placeholder:"DIR"`
	PreDump           bool          `help:"Only write the memory to dir:PATH and let the container go on; for a --parent."`
	HoldMemory        string        `help:"How much memory of this host may hold that of a container that goes on; by default half of what is available." placeholder:"SIZE"`
	Parent            string        `help:"Earlier checkpoint of which only the changes are stored, for a DEST in a store; by default the last one of the container. For a dir:PATH the directory of images of an earlier pre-dump or dump." placeholder:"REF|DIR"`
	AutoDedup         bool          `help:"Free in --parent the memory that is written anew."`
	PageServer        string        `help:"Send the memory to a page server, and everything else to dir:PATH. With --lazy-pages, where it is served." placeholder:"ADDRESS:PORT"`
	LazyPages         bool          `help:"Serve the memory at --page-server when everything else is in dir:PATH, page by page, for criu lazy-pages; then stop the container."`
	StatusFD          int           `name:"status-fd" help:"Write a zero byte to this descriptor when --lazy-pages serves." default:"-1" placeholder:"FD"`
}

// flags are the options for CRIU's own notation of all flags.
func (f dumpFlags) flags() criu.Flags {
	flags := f.criuFlags.flags()
	flags.NetworkLock, flags.CgroupMode = f.NetworkLock, f.ManageCgroupsMode
	flags.SkipRWXCheck, flags.MountCompat, flags.ConfigFile = f.SkipFileRWXCheck, f.MntnsCompatMode, f.CRIUConfig
	return flags
}

// preflight are the options of a look at a container.
func (f acceptFlags) preflight(ctr *runtime.Container, flags criu.Flags, external []string) (criu.PreflightOptions, error) {
	limit, err := ghostLimit(f.GhostLimit)
	objects, sockets := splitExternal(external)
	return criu.PreflightOptions{
		Flags: flags, Spec: ctr.Spec, PID: ctr.PID, Rootfs: ctr.Rootfs, Descriptors: ctr.Descriptors,
		TCPSkipInFlight: f.TCPSkipInFlight, LinkRemap: f.LinkRemap, GhostLimit: limit,
		IrmapPaths: f.IrmapPath, External: objects, ExternalSockets: sockets,
	}, err
}

// splitExternal tells the names of unix sockets from objects in CRIU's notation.
func splitExternal(external []string) (objects, sockets []string) {
	for _, e := range external {
		if strings.HasPrefix(e, "/") || strings.HasPrefix(e, "@") {
			sockets = append(sockets, e)
		} else {
			objects = append(objects, e)
		}
	}
	return objects, sockets
}

// given are the options of a dump that differ from what they are when nobody says, by flag:
// "true" for one without a value.
func (f dumpFlags) given() map[string]string {
	o := f.criuFlags.options()
	for flag, set := range map[string]bool{
		"tcp-skip-in-flight": f.TCPSkipInFlight, "link-remap": f.LinkRemap, "force-irmap": f.ForceIrmap,
		"skip-file-rwx-check": f.SkipFileRWXCheck, "mntns-compat-mode": f.MntnsCompatMode,
		"pre-dump": f.PreDump, "auto-dedup": f.AutoDedup, "lazy-pages": f.LazyPages,
	} {
		if set {
			o[flag] = "true"
		}
	}
	freeze := ""
	if f.FreezeTimeout != 0 {
		freeze = f.FreezeTimeout.String()
	}
	for flag, text := range map[string]string{
		"ghost-limit": unless(f.GhostLimit, defaultGhostLimit), "network-lock": unless(f.NetworkLock, defaultNetworkLock),
		"external": strings.Join(f.External, " "), "irmap-path": strings.Join(f.IrmapPath, " "),
		"manage-cgroups-mode": f.ManageCgroupsMode, "empty-ns": f.EmptyNs, "criu-config": f.CRIUConfig,
		"freeze-timeout": freeze, "work-path": f.WorkPath, "parent": f.Parent, "page-server": f.PageServer,
	} {
		if text != "" {
			o[flag] = text
		}
	}
	return o
}

func unless(value, usual string) string {
	if value == usual {
		return ""
	}
	return value
}

// ofThisHost are options that mean nothing to a restore elsewhere.
func ofThisHost() []string {
	return []string{"criu-config", "freeze-timeout", "work-path", "parent", "page-server", "pre-dump", "auto-dedup"}
}

// options are the options of the dump that the archive keeps, by flag.
func (c *exportCmd) options() map[string]string {
	o := c.given()
	maps.DeleteFunc(o, func(flag, _ string) bool { return slices.Contains(ofThisHost(), flag) })
	o["engine"] = c.Engine
	return o
}

// forRuntime are the options that the runtime is asked for. The work path and CRIU's configuration need no
// flag of it.
func (c *exportCmd) forRuntime() map[string]string {
	o := c.given()
	delete(o, "work-path")
	delete(o, "criu-config")
	return o
}

// rule is a combination of flags that cannot be meant.
type rule struct {
	broken bool
	text   string
	hint   string
}

// firstBroken gives the error of the first rule that a command line breaks.
func firstBroken(rules []rule) error {
	for _, r := range rules {
		if r.broken {
			return &usageError{err: errors.New(r.text), hint: r.hint}
		}
	}
	return nil
}

// rules are all that is known of a command line before anything is looked at.
func (c *exportCmd) rules(dest location) []rule {
	images := dest.kind == locationImages
	goesOn := c.LeaveRunning || c.LeavePaused
	return []rule{
		{dest.kind == locationStream && !c.LeaveRunning, "a stream cannot be made durable, so the container must go on", "add --leave-running, or write to a file"},
		{dest.kind == locationArchive, "export does not write oci-archive: files", "export to oci:DIR or to a name, then push it to " + dest.text},
		{c.LeaveRunning && c.LeavePaused, "--leave-running and --leave-paused exclude each other", ""},
		{c.Delete && goesOn, "--delete and --leave-running or --leave-paused exclude each other", ""},
		{c.TCPEstablished && c.TCPClose, "--tcp-established and --tcp-close exclude each other", ""},
		{c.AutoDedup && c.Parent == "", "--auto-dedup frees memory in a --parent, and none was given", ""},
		{c.PreDump && (c.Delete || c.LazyPages || goesOn), "a pre-dump lets the container go on, whatever else is asked", "leave out --leave-running, --leave-paused, --delete and --lazy-pages"},
		{c.PreDump && !images, "a pre-dump is no archive: it is of use to a later dump on this host only", "write it to dir:PATH"},
		{c.Parent != "" && !images, "a file holds all of the memory, and has no --parent", "write it to a name of the local store, to oci:DIR or to dir:PATH"},
		{c.PageServer != "" && !images, "with --page-server the memory is elsewhere: it is no whole archive", "write it to dir:PATH"},
		{c.LazyPages && c.PageServer == "", "--lazy-pages needs the address at which the memory is served", "add --page-server ADDRESS:PORT"},
		{c.LazyPages && goesOn, "--lazy-pages moves the container: it cannot go on here", ""},
		{c.LazyPages && c.Parent != "", "--lazy-pages serves all memory, and takes none from a --parent", ""},
		{c.StatusFD != noStatusFD && !c.LazyPages, "--status-fd tells when --lazy-pages serves, and that was not given", ""},
		{c.FreezeTimeout < 0 || c.FreezeTimeout > 0 && c.FreezeTimeout < time.Second, "--freeze-timeout counts whole seconds, one at least", ""},
		{c.Engine == engineRuntime && c.LazyPages, "a runtime cannot serve memory and wait for the rest to be written", "use --engine direct"},
		{c.Engine == engineRuntime && c.TCPEstablished && !goesOn, "a runtime cannot keep established connections and wait for the archive before it stops the container", "use --engine direct, or --leave-running"},
	}
}

// engineRuntime is the value of --engine for the container's runtime.
const engineRuntime = "runtime"

// checkFlags refuses wrong combinations before anything is touched.
func (c *exportCmd) checkFlags(dest location) error {
	if err := firstBroken(c.rules(dest)); err != nil {
		return err
	}
	if c.PageServer != "" {
		if _, _, err := criu.SplitAddress(c.PageServer); err != nil {
			return &usageError{err: err}
		}
	}
	for flag, path := range map[string]string{"criu-config": c.CRIUConfig, "parent": c.Parent} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(filepath.Clean(path)); err != nil {
			return usagef("--%s: %w", flag, err)
		}
	}
	return nil
}
