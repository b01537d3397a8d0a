package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// Container is one container on this host.
type Container struct {
	ID      string
	Runtime Runtime
	// Engine is who manages the container: [Podman], [Docker], [Containerd], [CRIO], or empty for a
	// container of the runtime alone.
	Engine string
	// Name is what the engine calls the container; empty if nobody gave it a name.
	Name string
	// Pod is the Kubernetes pod, NAMESPACE/NAME, or empty.
	Pod string
	// Namespace is the one of containerd, or empty.
	Namespace string
	// Image is what the engine's files tell of the base image, or nil.
	Image *archive.Base
	// User is the user in whose runtime directory the container is; 0 is the system.
	User int
	// Status is created, running, paused or stopped, as the OCI runtime spec names them.
	Status string
	PID    int    // of its first process, in the host's pid namespace
	Bundle string // absolute
	Rootfs string // absolute
	// Spec is the config.json that the container was made from.
	Spec *specs.Spec
	// SpecJSON is that file, byte for byte.
	SpecJSON []byte
	// Descriptors are what fd 0 to 2 of the first process were at its start, or nil.
	Descriptors []string
	Created     time.Time
	// Cgroup is the path below the hierarchies; only the direct runtime fills it.
	Cgroup string
	// Sandbox is how runsc set up the sandbox that the container runs in; nil with every other runtime.
	Sandbox *archive.Sandbox
	// Generation counts the dumps the container comes from; only the direct runtime and
	// bundles of ckarchive know it.
	Generation int

	aliases    []string // other names that mean it
	sandboxID  string
	neighbours []string // IDs of other containers in its sandbox
}

// The decisions that callers make on an error of this package.
var (
	// ErrNotFound says that there is no such container.
	ErrNotFound = errors.New("no such container")
	// ErrExists says that an ID is in use.
	ErrExists = errors.New("container exists")
	// ErrNotRunning says that a container has no processes to dump.
	ErrNotRunning = errors.New("container is not running")
	// ErrEnded says that a container went on after it was paused and had ended when it was looked at.
	ErrEnded = errors.New("container ended as soon as it went on")
	// ErrShared says that a container's sandbox is that of others too, so that it cannot be dumped alone.
	ErrShared = errors.New("container shares its sandbox")
)

// The states of a container.
const (
	Created = "created"
	Running = "running"
	Paused  = "paused"
	Stopped = "stopped"
)

// validID is what all runtimes take; it can be neither an option nor a path.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,254}$`)

// CheckID tells why id cannot be a container's ID, or nil.
func CheckID(id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("container ID %q: letters, digits and _ . + - only, beginning with a letter or digit", id)
	}
	return nil
}

// state is the output of a runtime's state command. The fields are those of the
// OCI runtime spec, and runc's and crun's own rootfs and created.
type state struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	PID     int    `json:"pid"`
	Bundle  string `json:"bundle"`
	Created string `json:"created"`
}

// Container asks the runtime for one container.
func (r Runtime) Container(ctx context.Context, id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if r.Name == Direct {
		return r.directContainer(id)
	}
	if !r.knows(id) {
		return nil, fmt.Errorf("%w: %s has no %q in %s", ErrNotFound, r.Name, id, r.Root)
	}
	out, err := r.run(ctx, "state", id)
	if err != nil {
		return nil, err
	}
	var st state
	if err := json.Unmarshal(out, &st); err != nil {
		return nil, fmt.Errorf("%s state %s: %w", r.Name, id, err)
	}
	c := &Container{ID: id, Runtime: r, Status: st.Status, PID: st.PID, Bundle: st.Bundle}
	if t, err := time.Parse(time.RFC3339Nano, st.Created); err == nil {
		c.Created = t
	}
	if err := c.loadBundle(); err != nil {
		return nil, err
	}
	if r.kind.sandbox {
		return c, c.loadSandbox()
	}
	if r.kind.descriptors != nil {
		if c.Descriptors, err = r.kind.descriptors(filepath.Join(r.Root, id)); err != nil {
			return nil, fmt.Errorf("container %q: %w", id, err)
		}
	}
	return c, nil
}

// loadBundle reads config.json and resolves the root directory. A stopped
// container may have lost its bundle.
func (c *Container) loadBundle() error {
	b, err := readState(filepath.Join(c.Bundle, "config.json"))
	if err != nil {
		if c.Status == Stopped {
			return nil
		}
		return fmt.Errorf("container %q: read its config.json: %w", c.ID, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return fmt.Errorf("container %q: %s/config.json: %w", c.ID, c.Bundle, err)
	}
	if spec.Root == nil || spec.Linux == nil || spec.Process == nil {
		return fmt.Errorf("container %q: %s/config.json has no root, linux or process section", c.ID, c.Bundle)
	}
	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(c.Bundle, root)
	}
	if resolved, err := filepath.EvalSymlinks(root); err == nil {
		root = resolved
	}
	c.Spec, c.SpecJSON, c.Rootfs = &spec, b, root
	c.Generation, c.Name = generation(c.Spec), c.Spec.Annotations[AnnotationName]
	return nil
}

// Dumpable tells why the container cannot be dumped in its present state, or nil.
func (c *Container) Dumpable() error {
	if len(c.neighbours) > 0 {
		return fmt.Errorf("%w: %q runs in one of %s with %s", ErrShared, c.ID, c.Runtime.Name, strings.Join(c.neighbours, ", "))
	}
	switch c.Status {
	case Running, Paused:
		return nil
	}
	return fmt.Errorf("%w: %q is %s", ErrNotRunning, c.ID, c.Status)
}

// StartTime is when the process pid began, in clock ticks after boot, field 22 of
// /proc/PID/stat: with the pid it names a process for good. A process that is gone is 0.
func StartTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The command name may hold spaces and parentheses: count from the last one.
	_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	if !ok {
		return 0
	}
	const startTimeField = 22 - 3 // rest begins with field 3
	fields := strings.Fields(rest)
	if len(fields) <= startTimeField {
		return 0
	}
	var t uint64
	if _, err := fmt.Sscan(fields[startTimeField], &t); err != nil {
		return 0
	}
	return t
}

// alive tells whether pid is a process that has not ended.
func alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(b), ')')
	return i > 0 && i+2 < len(b) && b[i+2] != 'Z' && b[i+2] != 'X'
}

// waitGone waits until the process behind pidfd has ended.
func waitGone(ctx context.Context, pidfd int) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		const step = 100                                                                  // milliseconds between looks at ctx
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, step) //nolint:gosec // descriptors fit
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}
