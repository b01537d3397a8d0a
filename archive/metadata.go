package archive

import (
	"encoding/json"
	"time"
)

// FormatVersion is the version of ckarchive.json that this package writes. A
// reader takes every version up to it and rejects later ones.
const FormatVersion = 1

// Whose images a checkpoint holds.
const (
	FormatCRIU   = "criu"   // CRIU's: processes of the host's kernel
	FormatGVisor = "gvisor" // runsc's: a sandbox with a kernel of its own
)

// Metadata is ckarchive.json: what a restorer must know of a checkpoint before
// it reads the images, and the proof of every other member.
type Metadata struct {
	FormatVersion int       `json:"formatVersion"`
	Format        string    `json:"format"` // whose images: FormatCRIU or FormatGVisor
	Tool          string    `json:"tool"`   // "ckarchive/VERSION"
	Created       time.Time `json:"created"`
	Container     Container `json:"container"`
	Host          Host      `json:"host"`
	CRIU          string    `json:"criuVersion,omitempty"` // "4.2.1"
	// Options are the options of the dump, by the names of the command line's flags.
	// Restoring needs some of them again (tcp-established, file-locks, ext-unix-sk, ...).
	Options map[string]string `json:"options,omitempty"`
	// Externals are the objects outside the container that CRIU recorded by key.
	Externals []External `json:"externals,omitempty"`
	// Sandbox is there in [FormatGVisor] only.
	Sandbox *Sandbox `json:"sandbox,omitempty"`
	Base    *Base    `json:"base,omitempty"`
	Rootfs  *Rootfs  `json:"rootfs,omitempty"`
	// Volumes are those named volumes whose content is in the archive. Archives of other engines have them in config.dump.
	Volumes []Volume `json:"volumes,omitempty"`
	Stats   *Stats   `json:"stats,omitempty"`
	// Members are all files of the archive but ckarchive.json itself, in the order of the archive.
	Members []Member `json:"members"`
}

// Volume is a named volume of an engine. Its content is the member volumes/NAME.tar.
type Volume struct {
	Name string `json:"name"`
	Path string `json:"path"` // where it is mounted in the container
}

// Container is the container that was dumped.
type Container struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	Engine  string    `json:"engine,omitempty"` // who managed it: podman, containerd, ...; empty for a runtime alone
	Runtime Runtime   `json:"runtime"`
	Created time.Time `json:"created,omitzero"`
	// Generation counts dumps in a row: 1 for a container that was never restored.
	Generation int `json:"generation,omitempty"`
	// MemoryBytes is the sum of the pages files.
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	// Processes is the number of tasks in the tree.
	Processes int `json:"processes,omitempty"`
}

// Runtime is the OCI runtime of a container.
type Runtime struct {
	Name    string `json:"name"`              // runc, crun, youki, runsc, direct
	Version string `json:"version,omitempty"` // first line of its --version
	Root    string `json:"root,omitempty"`    // its state directory
	Bundle  string `json:"bundle,omitempty"`
}

// Host is the machine of the dump, as far as a restore depends on it.
type Host struct {
	Architecture  string `json:"architecture"`  // Go's name: amd64, arm64
	Kernel        string `json:"kernel"`        // uname -r
	CgroupVersion string `json:"cgroupVersion"` // v1, v2 or hybrid
	CPU           string `json:"cpu,omitempty"` // the model's name
	Distribution  string `json:"distribution,omitempty"`
	Version       string `json:"distributionVersion,omitempty"`
}

// External is an object outside the container that the images refer to by a
// key and that a restore must supply.
type External struct {
	Kind string `json:"kind"`           // mount, file, tty, unix, net, pid
	Key  string `json:"key"`            // CRIU's key
	Path string `json:"path,omitempty"` // mount point or path inside the container
	// Directory tells, for a mount, whether its root is a directory.
	Directory bool `json:"directory,omitempty"`
	// Mode is st_mode of an external file: its type and permissions.
	Mode uint32 `json:"mode,omitempty"`
	// Flags are the open(2) flags of an external file; Size is its length in bytes at the dump.
	Flags int   `json:"flags,omitempty"`
	Size  int64 `json:"size,omitempty"`
	// FD is the descriptor of the first process that holds an external file.
	FD int `json:"fd,omitempty"`
}

// Sandbox is how runsc had set up the sandbox of the container, in the words of its flags. What is
// not known is empty.
type Sandbox struct {
	Network  string `json:"network,omitempty"`  // sandbox, none or host
	Overlay  string `json:"overlay2,omitempty"` // as root:self: where writes go that are not the host's
	Platform string `json:"platform,omitempty"` // systrap, kvm, ...: how it intercepts system calls; every one restores every other's
}

// Base is the root file system that the rootfs diff is relative to. All fields
// empty: the diff is the whole tree.
type Base struct {
	Image    string   `json:"image,omitempty"`    // fully qualified name
	ImageID  string   `json:"imageID,omitempty"`  // config digest
	Manifest string   `json:"manifest,omitempty"` // manifest digest
	DiffIDs  []string `json:"diffIDs,omitempty"`
	Path     string   `json:"path,omitempty"`   // a directory of the dumping host
	Layers   []string `json:"layers,omitempty"` // overlay lowers of the dumping host, top first
}

// Rootfs says how the rootfs diff was made.
type Rootfs struct {
	Method  string   `json:"method"`            // overlay, directory, whole
	Files   int      `json:"files"`             // entries of the diff
	Deleted int      `json:"deleted,omitempty"` // deletions
	Skipped []string `json:"skipped,omitempty"` // sockets, which a tar cannot hold
}

// Stats are the times and amounts of a dump. Times are in microseconds.
type Stats struct {
	FreezingTime uint64 `json:"freezingTime"`
	FrozenTime   uint64 `json:"frozenTime"`
	MemdumpTime  uint64 `json:"memdumpTime"`
	MemwriteTime uint64 `json:"memwriteTime"`
	PagesScanned uint64 `json:"pagesScanned"`
	PagesWritten uint64 `json:"pagesWritten"`
	// PausedTime is how long the container stood still in all: from before it was paused until it went on,
	// or until its root file system was archived if it was to be stopped.
	PausedTime uint64 `json:"pausedTime,omitempty"`
	// PausingTime is how long its runtime took to pause it. FreezingTime is CRIU's own, which finds it paused.
	PausingTime uint64 `json:"pausingTime,omitempty"`
	// DumpTime is that of the dump as seen from outside of CRIU, with the start of programs.
	DumpTime uint64 `json:"dumpTime,omitempty"`
	// RootfsTime is that of the search for changes in the root file system, and of archiving them.
	RootfsTime uint64 `json:"rootfsTime,omitempty"`
	// PackTime is that of compressing memory, or storing it, when it had been captured and before the
	// metadata was written. What is compressed while the archive is written or uploaded is in no metadata.
	PackTime uint64 `json:"packTime,omitempty"`
}

// Member is one file of the archive.
type Member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hex
}

// Marshal gives the bytes of ckarchive.json.
func (m *Metadata) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// ParseMetadata reads ckarchive.json. Fields that it does not know are ignored;
// a later format version, duplicate keys and malformed members are rejected.
func ParseMetadata(b []byte) (*Metadata, error) {
	var m Metadata
	if err := DecodeJSON(MetadataFile, b, &m); err != nil {
		return nil, err
	}
	if m.FormatVersion < 1 || m.FormatVersion > FormatVersion {
		return nil, rejectEntry(MetadataFile, "format version %d, this program knows 1 to %d", m.FormatVersion, FormatVersion)
	}
	seen := make(map[string]bool, len(m.Members))
	for _, mem := range m.Members {
		clean, err := CleanName(mem.Name)
		if err != nil || clean != mem.Name {
			return nil, rejectEntry(MetadataFile, "member name %s", QuoteName(mem.Name))
		}
		if seen[clean] {
			return nil, rejectEntry(MetadataFile, "member %s listed twice", QuoteName(mem.Name))
		}
		seen[clean] = true
		if mem.Size < 0 || !isSHA256(mem.SHA256) {
			return nil, rejectEntry(MetadataFile, "size or digest of member %s", QuoteName(mem.Name))
		}
	}
	return &m, nil
}

func isSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
