package criu

// CodeStray is the code of processes that a dump would lose. It is no blocker: the dump succeeds.
const CodeStray = "stray-process"

// preflightCauses are what a look at a container finds beside the causes of
// failures that CRIU's log tells: what CRIU loses silently, and failures for
// which the table of known causes has no row.
//
//nolint:gochecknoglobals // a constant table
var preflightCauses = []Finding{
	{
		Code: CodeStray, Severity: Warning, Option: "force",
		Text:   "a process joined the container (an exec session) and is not below its first process: a dump leaves it out silently",
		Remedy: "end it before the dump, or accept the loss",
	},
	{
		Code: "rootfs-mismatch", Severity: Warning,
		Text:   "the given root file system is not the one that the container sees: changed files would be taken from the wrong place",
		Remedy: "give the directory that is mounted as the container's root",
	},
	{
		Code: "tmpfs-size", Severity: Warning,
		Text:   "a tmpfs holds much data, which is packed with tar and gzip while the container stands still",
		Remedy: "delete what is not needed, or mount a volume in its place",
	},
	{
		Code: "nested-tmpfs", Severity: Warning,
		Text:   "a tmpfs lies below a volume: its content is copied, and is private to the container after a restore",
		Remedy: "give it to the container as a volume of its own",
	},
	{
		Code: "mount-newline", Severity: Blocker,
		Text:   "the path of a mount has a line break, which CRIU does not find again in the kernel's list of mounts",
		Remedy: "give the container that mount at another path",
	},
	{
		Code: "mount-name", Severity: Warning,
		Text:   "the path of a mount cannot be written in the configuration of CRIU with which a runtime restores it",
		Remedy: "restore with the direct engine, or give the container that mount at another path",
	},
	{
		Code: "gpu-plugin", Severity: Info,
		Text:   "a task uses a GPU, whose state a plugin of CRIU dumps",
		Remedy: "restore on a host with the same kind of GPU, driver and plugin",
	},
	{
		Code: "sockets-unseen", Severity: Warning,
		Text:   "the sockets of the container could not be looked into",
		Remedy: "run as root with all capabilities on Linux 5.6 or later",
	},
}

// usual are the severities of the codes of the table of known causes that are
// not blockers.
//
//nolint:gochecknoglobals // a constant table
var usual = map[string]Severity{
	"freeze-timeout":   Warning, // it may answer by then
	"stdout-host-file": Info,    // a dump declares it
	"host-file":        Info,
	"nested-mount":     Info,
}

// findingOf gives the words and the usual severity of a code.
func findingOf(code string) Finding {
	for _, f := range preflightCauses {
		if f.Code == code {
			return f
		}
	}
	f := Finding{Code: code, Severity: Blocker}
	if s, ok := usual[code]; ok {
		f.Severity = s
	}
	for _, row := range knownCauses {
		if row.code == code {
			f.Text, f.Remedy, f.Option = row.cause, row.remedy, row.option
			break
		}
	}
	return f
}
