package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations of a restored bundle.
const (
	// AnnotationGeneration counts the dumps that the container comes from.
	AnnotationGeneration = "io.ckarchive.generation"
	// AnnotationName is what people call the container, when no engine names it.
	AnnotationName = "io.ckarchive.name"
)

func generation(spec *specs.Spec) int {
	n, err := strconv.Atoi(spec.Annotations[AnnotationGeneration])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// RestoreOptions are what a runtime's restore command takes.
type RestoreOptions struct {
	ID         string
	Bundle     string // absolute
	ImagesDir  string // absolute
	WorkDir    string // absolute: CRIU's restore.log is written there
	CRIUConfig string // path of a CRIU configuration file, or empty
	CRIUPath   string // directory of the criu to use, put first in PATH; or empty

	ConsoleSocket  string
	TCPEstablished bool
	ExtUnixSk      bool
	ShellJob       bool
	FileLocks      bool
	NoPivot        bool
	NoSubreaper    bool
	// CgroupMode is CRIU's name of a way to treat cgroups; empty is the runtime's own choice.
	CgroupMode      string
	LSMProfile      string // "apparmor:NAME" or "selinux:LABEL"; empty: as dumped
	LSMMountContext string // SELinux context of mounts; empty: as dumped
	// ConsumeImages frees the memory in the images while it is restored. runc takes this as an option
	// and no other way; of the others CRIU's configuration says it.
	ConsumeImages bool

	// Spec is the bundle's configuration. The runtime works in new namespaces of the types that
	// the container has for itself and whose images may be missing.
	Spec *specs.Spec

	// Stdin, Stdout and Stderr become the container's; nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
	// Inherited are descriptors for CRIU, which knows them by the numbers from
	// [FirstInherited] on.
	Inherited []*os.File
}

// FirstInherited is the number of the first descriptor that a runtime leaves to its CRIU: below
// are the standard ones and CRIU's connection.
const FirstInherited = 4

// args is the command line of runc and crun restore, without --root.
func (o RestoreOptions) args(pidFile string) []string {
	args := []string{
		"restore", "--detach", "--image-path", o.ImagesDir, "--work-path", o.WorkDir,
		"--bundle", o.Bundle, "--pid-file", pidFile,
	}
	for _, v := range []struct{ name, value string }{
		{"--console-socket", o.ConsoleSocket},
		{"--manage-cgroups-mode", o.CgroupMode},
		{"--lsm-profile", o.LSMProfile},
		{"--lsm-mount-context", o.LSMMountContext},
	} {
		if v.value != "" {
			args = append(args, v.name, v.value)
		}
	}
	args = appendFlags(args, []flag{
		{"--tcp-established", o.TCPEstablished},
		{"--ext-unix-sk", o.ExtUnixSk},
		{"--shell-job", o.ShellJob},
		{"--file-locks", o.FileLocks},
		{"--no-pivot", o.NoPivot},
		{"--no-subreaper", o.NoSubreaper},
		{"--auto-dedup", o.ConsumeImages},
	})
	return append(args, o.ID)
}

// KeepsCgroup tells that the runtime restores into the cgroup of the dump, whatever the new one is,
// unless CRIU's configuration says where to. That one may be gone, or another container's.
func (r Runtime) KeepsCgroup() bool {
	version, err := CgroupVersion()
	return r.kind.keepsCgroup && err == nil && version == "v2"
}

// Restore makes the runtime restore a container and gives the pid of its first
// process, which is a child of this process or of its subreaper. The runtime works
// in a private mount namespace, so that a killed restore leaves no mounts that a
// later delete would walk through. Whatever it fails at, nothing of the ID is left in
// the runtime.
func (r Runtime) Restore(ctx context.Context, o RestoreOptions) (int, error) {
	if !r.CanRestore() {
		return 0, fmt.Errorf("%s cannot restore: use --engine direct, or --runtime runc", r.Name)
	}
	if err := r.CheckFree(o.ID); err != nil {
		return 0, err
	}
	pidFile := filepath.Join(o.WorkDir, "pid")
	stderr, err := os.OpenFile(filepath.Join(o.WorkDir, "runtime.log"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer stderr.Close() //nolint:errcheck // a log
	o.ConsumeImages = o.ConsumeImages && r.RestoreTakes("auto-dedup")
	cmd := r.command(ctx, append([]string{"--log", stderr.Name()}, o.args(pidFile)...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = fileReader(o.Stdin), fileWriter(o.Stdout), fileWriter(o.Stderr)
	if len(o.Inherited) > 0 {
		// The place of CRIU's connection is the runtime's own to use.
		cmd.ExtraFiles = append([]*os.File{stderr}, o.Inherited...)
	}
	// Go makes the mounts of the new namespace private.
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS | ownNamespaces(o.Spec)
	if o.CRIUConfig != "" {
		cmd.Env = append(cmd.Env, "CRIU_CONFIG_FILE="+o.CRIUConfig)
	}
	usePath(cmd, o.CRIUPath)
	return r.restored(ctx, cmd, o.ID, stderr.Name(), pidFile)
}

// ownNamespaces are those of a container that are not its host's, as flags. CRIU, which the runtime starts,
// leaves tasks in its own where the images say so: a container of a pod in its host's network has the
// host's name.
func ownNamespaces(spec *specs.Spec) uintptr {
	flags := uintptr(0)
	if spec == nil || spec.Linux == nil {
		return flags
	}
	for _, ns := range spec.Linux.Namespaces {
		switch ns.Type {
		case specs.IPCNamespace:
			flags |= syscall.CLONE_NEWIPC
		case specs.UTSNamespace:
			flags |= syscall.CLONE_NEWUTS
		}
	}
	return flags
}

// restored runs the restore command and gives the pid that it wrote. log is where it says why it failed.
func (r Runtime) restored(ctx context.Context, cmd *exec.Cmd, id, log, pidFile string) (int, error) {
	// What the runtime leaves, the container first of all, is then our child.
	if err := subreap(); err != nil {
		return 0, err
	}
	if err := runAll(cmd); err != nil {
		said, _ := os.ReadFile(log) // the error stands without it
		err = r.failure(ctx, "restore", err, said)
		return 0, errors.Join(err, r.Discard(ctx, id))
	}
	pid, err := readPID(pidFile)
	if err != nil {
		return 0, errors.Join(err, r.Discard(ctx, id))
	}
	return pid, nil
}

// CheckFree tells whether a container could be made under the ID: an [ErrExists] if not, an [fs.ErrPermission] where
// the caller may not see it.
func (r Runtime) CheckFree(id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(r.Root, id)); errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("look for a container %q of %s: %w", id, r.Name, err)
	}
	if r.knows(id) {
		return fmt.Errorf("%w: %s has a container %q in %s", ErrExists, r.Name, id, r.Root)
	}
	if r.kind.sandbox {
		return r.checkApart(id)
	}
	return nil
}

// Discard removes what a failed or killed restore left of the ID in the runtime. Nothing
// there is no error.
func (r Runtime) Discard(ctx context.Context, id string) error {
	if !r.knows(id) {
		return nil
	}
	_, err := r.run(context.WithoutCancel(ctx), "delete", "--force", id)
	return err
}

func readPID(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("%q holds no pid", path)
	}
	return pid, nil
}
