package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
)

// Direct is the name of the runtime that ckarchive itself is for containers it
// restored through CRIU without another one.
const Direct = "direct"

// kind is what one runtime does differently from the others.
type kind struct {
	name string
	// root is the default state directory of root.
	root string
	// restoreFlags are the options of its restore command that not every runtime has; nil: it
	// cannot restore CRIU's images.
	restoreFlags []string
	// checkpoint is its checkpoint command; empty is "checkpoint".
	checkpoint string
	// held tells that its checkpoint command refuses a container that its pause command holds.
	held bool
	// criuMark is in what --version prints when it was built with CRIU; empty if it always is.
	criuMark string
	// keepsCgroup tells that its restore names the container's cgroup to CRIU for version 1 only.
	keepsCgroup bool
	// sandbox tells that the processes are a sandbox's and not the host's.
	sandbox bool
	// file is in the state directory of every container of this runtime; empty if it has none.
	file string
	// bundle reads the bundle from the container's state, a path below root, or is empty.
	bundle func(path string) string
	// descriptors reads the stdio that the runtime recorded at the container's start.
	descriptors func(stateDir string) ([]string, error)
}

// kinds are the runtimes in the order in which a container is looked for.
func kinds() []kind {
	return []kind{
		{
			name: "runc", root: "/run/runc", keepsCgroup: true,
			restoreFlags: []string{
				"tcp-established", "ext-unix-sk", "shell-job", "file-locks", "manage-cgroups-mode",
				"lsm-profile", "lsm-mount-context", "no-pivot", "no-subreaper", "auto-dedup",
			},
			file: "state.json", bundle: runcBundle, descriptors: runcDescriptors,
		},
		{
			name: "crun", root: "/run/crun", criuMark: "+CRIU",
			// It takes manage-cgroups-mode, and then does not act on it.
			restoreFlags: []string{"tcp-established", "ext-unix-sk", "shell-job", "file-locks", "lsm-profile", "lsm-mount-context"},
			file:         "status", bundle: crunBundle, descriptors: crunDescriptors,
		},
		// The command's name is a slip of youki 0.7's command line.
		{name: "youki", root: "/run/youki", checkpoint: "checkpointt", held: true, file: "youki_config.json", bundle: youkiBundle},
		{name: "runsc", root: "/run/runsc", sandbox: true, bundle: runscBundle},
	}
}

// Names are the runtimes that [Lookup] knows, in its order.
func Names() []string {
	names := []string{}
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return append(names, Direct)
}

// Runtime is an OCI runtime on this host with one state directory.
type Runtime struct {
	Name string // runc, crun, youki, runsc or direct
	Path string // its binary; empty for direct
	Root string // its state directory
	kind kind
}

// ErrNoRuntime says that a runtime is not installed.
var ErrNoRuntime = errors.New("runtime is not installed")

// ErrNoRestore says that a runtime, as it is installed, does not restore images of a kind.
var ErrNoRestore = errors.New("runtime cannot restore")

// Lookup finds the runtime called name, or the one at the path name. root overrides its
// state directory. For [Direct], root is required.
func Lookup(name, root string) (Runtime, error) {
	base := filepath.Base(name)
	if base == Direct && !strings.Contains(name, "/") {
		if root == "" {
			return Runtime{}, errors.New("the direct runtime needs a state directory")
		}
		return Runtime{Name: Direct, Root: root}, nil
	}
	for _, k := range kinds() {
		// A path such as /opt/runc-1.5/runc or runc-patched is of the kind that its name begins with.
		if base != k.name && !strings.HasPrefix(base, k.name+"-") && !strings.HasPrefix(base, k.name+".") {
			continue
		}
		path, err := lookPath(name)
		if err != nil {
			return Runtime{}, fmt.Errorf("%s: %w: %w", name, ErrNoRuntime, err)
		}
		if root == "" {
			root = k.root
		}
		return Runtime{Name: k.name, Path: path, Root: root, kind: k}, nil
	}
	return Runtime{}, fmt.Errorf("%s: %w: known are %s", name, ErrNoRuntime, strings.Join(Names(), ", "))
}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !strings.Contains(name, "/") {
		// A service's or user's PATH often lacks the system directories.
		for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
			if p, lerr := exec.LookPath(filepath.Join(dir, name)); lerr == nil {
				return p, nil
			}
		}
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// CanRestore tells whether the runtime restores CRIU's images itself.
func (r Runtime) CanRestore() bool { return r.kind.restoreFlags != nil }

// RestoreTakes tells whether the runtime's restore command has an option, named without its dashes.
func (r Runtime) RestoreTakes(option string) bool {
	return slices.Contains(r.kind.restoreFlags, option)
}

// CheckRestore tells whether the installed runtime restores images of a format, [archive.FormatCRIU] or
// [archive.FormatGVisor]: an [ErrNoRestore] if not. crun can be built without CRIU.
func (r Runtime) CheckRestore(ctx context.Context, format string) error {
	switch {
	case format == archive.FormatGVisor && !r.kind.sandbox:
		return fmt.Errorf("%s: %w images of gVisor: only runsc does", r.Name, ErrNoRestore)
	case format == archive.FormatCRIU && !r.CanRestore():
		return fmt.Errorf("%s: %w images of CRIU", r.Name, ErrNoRestore)
	case r.kind.criuMark == "":
		return nil
	}
	said, err := r.aboutItself(ctx)
	if err != nil {
		return err
	}
	if !strings.Contains(said, r.kind.criuMark) {
		return fmt.Errorf("%s: %w: it was built without CRIU", r.Path, ErrNoRestore)
	}
	return nil
}

// Format is whose images a dump of the runtime's containers has: those of runsc are processes of its
// own kernel, which CRIU cannot dump.
func (r Runtime) Format() string {
	if r.kind.sandbox {
		return archive.FormatGVisor
	}
	return archive.FormatCRIU
}

// pauses tells whether the runtime's own commands pause and resume its containers; the
// others are held by their cgroup, of which the runtime need not know.
func (r Runtime) pauses() bool { return r.Name != Direct && !r.kind.held }

// knows tells whether the runtime's state directory has the container.
func (r Runtime) knows(id string) bool {
	path := filepath.Join(r.Root, id)
	if r.kind.sandbox {
		// What CheckID allows is no pattern.
		return len(glob(r.Root, id+sandboxMark+"*"+sandboxState)) > 0
	}
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func crunBundle(dir string) string   { return bundleIn(filepath.Join(dir, "status"), "bundle") }
func youkiBundle(dir string) string  { return bundleIn(filepath.Join(dir, "state.json"), "bundle") }
func runscBundle(path string) string { return bundleIn(path, "bundleDir") }

// runcDescriptors reads external_descriptors of runc's state.json.
func runcDescriptors(stateDir string) ([]string, error) {
	var st struct {
		Descriptors []string `json:"external_descriptors"`
	}
	if err := readJSON(filepath.Join(stateDir, "state.json"), &st); err != nil {
		return nil, err
	}
	return st.Descriptors, nil
}

// crunDescriptors reads external_descriptors of crun's status file: JSON in a string.
func crunDescriptors(stateDir string) ([]string, error) {
	var st struct {
		Descriptors string `json:"external_descriptors"`
	}
	if err := readJSON(filepath.Join(stateDir, "status"), &st); err != nil || st.Descriptors == "" {
		return nil, err
	}
	var d []string
	if err := json.Unmarshal([]byte(st.Descriptors), &d); err != nil {
		return nil, fmt.Errorf("external_descriptors of %q: %w", stateDir, err)
	}
	return d, nil
}

func readJSON(path string, v any) error {
	b, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	return nil
}
