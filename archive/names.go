package archive

import (
	"cmp"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
)

// The members of a checkpoint archive. Those that other engines share have
// checkpointctl's names.
const (
	ConfigDump    = metadata.ConfigDumpFile      // the container as an engine knows it
	SpecDump      = metadata.SpecDumpFile        // the runtime spec, an OCI config.json
	StatusDump    = metadata.StatusDumpFile      // the CRI status
	MetadataFile  = "ckarchive.json"             // our own: see Metadata
	BindMounts    = "bind.mounts"                // CRI-O's list of bind mounts
	NetworkStatus = metadata.NetworkStatusFile   // Podman's networks
	StatsDump     = "stats-dump"                 // CRIU's statistics
	DumpLog       = metadata.DumpLogFile         // CRIU's log of the dump
	CheckpointDir = metadata.CheckpointDirectory // the folder of CRIU's images
	DevShmTar     = metadata.DevShmCheckpointTar // content of an external /dev/shm
	RootfsDiff    = metadata.RootFsDiffTar       // what changed in the root file system
	DeletedFiles  = metadata.DeletedFilesFile    // what was deleted from it
	VolumesDir    = metadata.CheckpointVolumesDirectory
	Descriptors   = "descriptors.json" // in CheckpointDir: stdio of the first process
	Inventory     = "inventory.img"    // in CheckpointDir: CRIU's first image
	CPUInfo       = "cpuinfo.img"      // in CheckpointDir: the features of the CPU
	PagesPrefix   = metadata.PagesPrefix
)

// The images of gVisor's runsc, in CheckpointDir.
const (
	SandboxState     = "checkpoint.img" // the kernel of the sandbox
	SandboxPages     = "pages.img"      // its memory
	SandboxPagesMeta = "pages_meta.img" // which page is where
)

// head and tail are the fixed places of members: metadata first, so that a stream
// can be judged from its first kilobytes; bulky content last.
var (
	head = []string{ //nolint:gochecknoglobals // a constant table
		ConfigDump, SpecDump, StatusDump, "status", MetadataFile,
		BindMounts, NetworkStatus, StatsDump, DumpLog,
	}
	checkpointHead = []string{Descriptors, Inventory, CPUInfo}     //nolint:gochecknoglobals // a constant table
	tail           = []string{DevShmTar, RootfsDiff, DeletedFiles} //nolint:gochecknoglobals // a constant table
)

// Less is the fixed order of members in an archive: metadata, CRIU's images,
// the root file system, volumes, everything else.
func Less(a, b string) bool { return compareNames(a, b) < 0 }

func compareNames(a, b string) int {
	ga, ia := place(a)
	gb, ib := place(b)
	return cmp.Or(cmp.Compare(ga, gb), cmp.Compare(ia, ib), strings.Compare(a, b))
}

// place gives the group of a name and its rank in the group.
func place(name string) (group, rank int) {
	if i := slices.Index(head, name); i >= 0 {
		return 0, i
	}
	if name == CheckpointDir {
		return 1, 0
	}
	if rest, ok := strings.CutPrefix(name, CheckpointDir+"/"); ok {
		if i := slices.Index(checkpointHead, rest); i >= 0 {
			return 2, i
		}
		if IsPages(name) {
			return 4, len(rest) // pages-2 before pages-10
		}
		return 3, 0
	}
	if i := slices.Index(tail, name); i >= 0 {
		return 5, i
	}
	if name == VolumesDir || strings.HasPrefix(name, VolumesDir+"/") {
		return 6, 0
	}
	return 7, 0
}

// Image gives the archive's name for one of CRIU's files.
func Image(file string) string { return CheckpointDir + "/" + file }

// IsPages tells whether a member holds memory content.
func IsPages(name string) bool {
	rest, ok := strings.CutPrefix(name, CheckpointDir+"/")
	return ok && (strings.HasPrefix(rest, PagesPrefix) && strings.HasSuffix(rest, ".img") || rest == SandboxPages)
}

// CleanName makes the one form of a member's name: without a leading "./" and
// a final "/". It rejects every name that could mean something outside a folder
// or that some reader could take for another: absolute, "..", empty or
// repeated components, NUL, not UTF-8 (ckarchive.json could not name it), too long or too deep.
func CleanName(name string) (string, error) {
	if len(name) > MaxNameBytes {
		return "", rejectf("name of %d bytes, the limit is %d", len(name), MaxNameBytes)
	}
	clean := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	switch {
	case clean == "" || clean == ".":
		return "", rejectf("empty name")
	case !utf8.ValidString(clean):
		return "", rejectf("name is not UTF-8")
	case strings.ContainsRune(clean, 0):
		return "", rejectf("name holds a NUL")
	case path.IsAbs(clean):
		return "", rejectf("absolute name")
	case clean != path.Clean(clean):
		return "", rejectf("name is not in its shortest form")
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", rejectf("name leaves the archive")
	}
	parts := strings.Split(clean, "/")
	if len(parts) > MaxNameDepth {
		return "", rejectf("name of %d components, the limit is %d", len(parts), MaxNameDepth)
	}
	for _, p := range parts {
		if len(p) > MaxComponentBytes {
			return "", rejectf("name component of %d bytes, the limit is %d", len(p), MaxComponentBytes)
		}
	}
	return clean, nil
}
