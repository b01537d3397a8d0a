package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// RestoreOptions say what is restored and how. Spec, Rootfs, ImagesDir, WorkDir
// and CgroupPath are needed.
type RestoreOptions struct {
	Flags
	Spec       *specs.Spec
	Rootfs     string // root file system on this host; missing mount points are made in it
	ImagesDir  string
	WorkDir    string // for the log and statistics
	CgroupPath string // the container's cgroup in every hierarchy, new: "/ckarchive/web"
	// Stdin, Stdout and Stderr become the container's. nil: /dev/null.
	Stdin, Stdout, Stderr *os.File
	// ConsoleSocket takes the terminal of a container that has one.
	ConsoleSocket string
	PIDFile       string            // gets the PID of the first process; empty: none
	MountMap      map[string]string // sources of external mounts by mount point, before the spec's
	EmptyDir      string            // an empty directory of this host, to hide directories with
	// Files supplies further external files and sockets by CRIU's key ("file[1b:3]", "socket:[77]").
	Files map[string]*os.File
	// External are further external objects in CRIU's notation, as "veth[eth0]:host0@bridge".
	External []string
	// Veth gives the outer ends of pairs of virtual interfaces by the name of the inner end, as
	// "host0" or "host0@bridge". They are made and set up in the caller's network namespace.
	Veth        map[string]string
	WeakSysctls bool // leave out sysctls that this kernel lacks
	// ConsumeImages frees the memory in the images as it is restored: a restore takes the room of
	// the memory once and not twice. The images are worthless afterwards.
	ConsumeImages bool
	// Own is that of [CheckOptions]: the images were made on this host.
	Own bool
	// OnSetupNamespaces runs when the namespaces are there and the tasks are not
	// yet, with the PID of the first process: the time to set up its network.
	OnSetupNamespaces func(ctx context.Context, pid int) error
	LSMProfile        string // "apparmor:NAME" or "selinux:LABEL"; empty: as dumped
	LSMMountContext   string // SELinux context of mounts; empty: as dumped
}

// Restored is a container that is alive again.
type Restored struct {
	PID        int    `json:"pid"`       // of its first process, a child of this process
	StartTime  uint64 `json:"startTime"` // of that process, in clock ticks since boot
	CgroupPath string `json:"cgroupPath"`
	LogPath    string `json:"log"`
}

// Restore brings a container back to life without a runtime. Its first process
// is a child of this one: see [Wait]; it lives on when this process ends. On an
// error nothing is left of it.
func Restore(ctx context.Context, b Binary, opts RestoreOptions) (_ Restored, err error) {
	r := &restore{opts: opts}
	defer r.closeFiles()
	if err := r.prepare(ctx); err != nil {
		return Restored{}, fmt.Errorf("prepare restore: %w", err)
	}
	root, err := os.MkdirTemp(r.opts.WorkDir, "root-")
	if err != nil {
		return Restored{}, fmt.Errorf("prepare restore: %w", err)
	}
	defer os.Remove(root) //nolint:errcheck // an empty directory: the mount on it is in CRIU's namespace only
	dirs, err := openDirs(r.opts.ImagesDir, r.opts.WorkDir)
	if err != nil {
		return Restored{}, fmt.Errorf("prepare restore: %w", err)
	}
	defer dirs.close()
	o := dirs.options(RestoreLog)
	if r.cgroups, err = newCgroups(opts.CgroupPath, resources(opts.Spec)); err != nil {
		return Restored{}, fmt.Errorf("prepare restore: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo())
		}
	}()
	if err := r.request(o, root); err != nil {
		return Restored{}, fmt.Errorf("prepare restore: %w", err)
	}
	s := session{
		bin: b.Path, logPath: filepath.Join(r.opts.WorkDir, RestoreLog), privateMounts: true,
		namespaces: ownNamespaces(r.opts.Spec),
		stdin:      opts.Stdin, stdout: opts.Stdout, stderr: opts.Stderr, extra: r.extra,
		keepSession: opts.ShellJob, notify: r.notify,
		prepare: func() error { return errors.Join(bindRoot(r.opts.Rootfs, root), r.openWork()) },
		started: func(pid int, req *rpc.CriuReq) error {
			req.Opts.WorkDirFd = proto.Int32(int32(r.work.Fd())) //nolint:gosec // a descriptor
			return r.cgroups.join(pid)
		},
	}
	resp, err := s.run(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_RESTORE.Enum(), Opts: o})
	if err != nil {
		return Restored{}, r.failure(s.logPath, err)
	}
	r.pid = int(resp.GetRestore().GetPid())
	return r.finish(s.logPath)
}

// restore is a restore at work.
type restore struct {
	opts    RestoreOptions
	cgroups *cgroups
	work    *os.File   // the work directory, as CRIU sees it
	extra   []*os.File // descriptors 4, 5, ... of CRIU
	opened  []*os.File // those of extra that are ours to close
	pid     int        // first process of the container, once it is known
	hook    error      // what a notification was refused with
}

func (r *restore) prepare(ctx context.Context) error {
	o := &r.opts
	if o.Spec == nil || o.Rootfs == "" || o.ImagesDir == "" || o.WorkDir == "" || o.CgroupPath == "" {
		return errors.New("a spec, a root file system, an image directory, a work directory and a cgroup are needed")
	}
	var err error
	if o.WorkDir, err = makeDir(o.WorkDir); err != nil {
		return err
	}
	if o.ImagesDir, err = filepath.Abs(o.ImagesDir); err != nil {
		return err
	}
	if o.Rootfs, err = filepath.EvalSymlinks(o.Rootfs); err != nil {
		return fmt.Errorf("find root file system: %w", err)
	}
	if o.Rootfs, err = filepath.Abs(o.Rootfs); err != nil {
		return err
	}
	// CRIU trusts images; see Check.
	if _, err := Check(ctx, o.ImagesDir, CheckOptions{Spec: o.Spec, Own: o.Own}); err != nil {
		return err
	}
	return ShareImages(o.ImagesDir, o.Spec)
}

// ShareImages lets the root user of the container's user namespace read and free the images: the
// tasks open some of them when they are in it already, and some, by a race in CRIU, as a root
// that is not mapped yet and has no more than the rights of the owner. So the owner stays and the
// group gets the same. Without a user namespace nothing is changed.
func ShareImages(dir string, spec *specs.Spec) error {
	if !hasNamespace(spec, specs.UserNamespace) || spec.Linux == nil {
		return nil
	}
	gid, ok := hostID(spec.Linux.GIDMappings)
	if !ok {
		return errors.New("the user namespace of the spec has no mapping for its root group")
	}
	names, err := listImages(dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // read side
	for _, name := range append(names, ".") {
		mode := os.FileMode(0o660)
		if name == "." {
			mode = 0o770
		}
		if err := errors.Join(root.Lchown(name, -1, gid), root.Chmod(name, mode)); err != nil {
			return fmt.Errorf("let the container's root user read image %q: %w", name, err)
		}
	}
	return nil
}

func hostID(mappings []specs.LinuxIDMapping) (int, bool) {
	for _, m := range mappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID), true
		}
	}
	return 0, false
}

func resources(spec *specs.Spec) *specs.LinuxResources {
	if spec == nil || spec.Linux == nil {
		return nil
	}
	return spec.Linux.Resources
}

// openWork opens the work directory in CRIU's mount namespace: CRIU mounts its view of the cgroups in
// it, which it cannot do in another namespace's.
func (r *restore) openWork() (err error) {
	if r.work, err = os.Open(r.opts.WorkDir); err != nil {
		return fmt.Errorf("open work directory: %w", err)
	}
	r.opened = append(r.opened, r.work)
	return nil
}

// bindRoot makes the root file system a mount point, which CRIU wants it to be.
func bindRoot(rootfs, root string) error {
	if err := unix.Mount(rootfs, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind root file system %q: %w", rootfs, err)
	}
	return nil
}

func (r *restore) notify(ctx context.Context, n notification) (*rpc.CriuOpts, error) {
	switch n.script {
	case noteSetupNS:
		r.pid = n.pid
		r.hook = r.setupNamespaces(ctx)
	case noteOrphanPTS:
		switch {
		case len(n.files) == 0:
			r.hook = errors.New("criu sent no terminal")
		case r.opts.ConsoleSocket == "":
			r.hook = errNoConsole
		default:
			r.hook = SendConsole(ctx, r.opts.ConsoleSocket, n.files[0])
		}
	case notePostSetupNS:
		r.hook = r.raiseVeth()
	case notePostRestore:
		r.pid = n.pid
	}
	return nil, r.hook
}

func (r *restore) setupNamespaces(ctx context.Context) error {
	if p, ok := namespacePath(r.opts.Spec, specs.NetworkNamespace); ok && p == "" {
		if err := RaiseLoopback(r.pid); err != nil {
			return err
		}
	}
	if r.opts.OnSetupNamespaces == nil {
		return nil
	}
	return r.opts.OnSetupNamespaces(ctx, r.pid)
}

// raiseVeth sets the outer ends of virtual interfaces up, which CRIU has made.
func (r *restore) raiseVeth() error {
	for _, outer := range r.opts.Veth {
		name, _, _ := strings.Cut(outer, "@")
		if err := bringUp(name); err != nil {
			return fmt.Errorf("set up interface %q: %w", name, err)
		}
	}
	return nil
}

func (r *restore) finish(logPath string) (Restored, error) {
	res := Restored{PID: r.pid, CgroupPath: r.cgroups.path, LogPath: logPath}
	var err error
	if res.StartTime, err = startTime(r.pid); err != nil {
		return Restored{}, err
	}
	if r.opts.PIDFile != "" {
		if err := writePIDFile(r.opts.PIDFile, r.pid); err != nil {
			return Restored{}, err
		}
	}
	return res, nil
}

// writePIDFile writes a PID file that is never seen half written.
func writePIDFile(path string, pid int) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("write PID file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write PID file: %w", err)
	}
	return nil
}

// undo ends what a failed restore made. Tasks that were restored half do not end with CRIU.
func (r *restore) undo() error {
	if r.pid > 0 {
		unix.Kill(r.pid, unix.SIGKILL) //nolint:errcheck // it may have ended
	}
	r.cgroups.killAll()
	if r.pid > 0 {
		unix.Wait4(r.pid, nil, 0, nil) //nolint:errcheck // CRIU may have reaped it
	}
	return r.cgroups.remove()
}

func (r *restore) closeFiles() {
	closeAll(r.opened)
}

func (r *restore) failure(logPath string, err error) error {
	if r.hook != nil {
		return &Error{Op: "restore", LogPath: logPath, Err: r.hook}
	}
	return newError("restore", logPath, err)
}

// inheritedKeys gives what has to be supplied from outside, by descriptors.json.
func inheritedKeys(dir string) (map[int]string, error) {
	desc, err := ReadDescriptors(dir)
	if err != nil {
		return nil, err
	}
	keys := map[int]string{}
	for fd, d := range desc {
		if fd >= stdioCount || !inherits(d) {
			continue
		}
		if len(d) > archive.MaxNameBytes {
			return nil, fmt.Errorf("%w: %s: key of %d bytes", archive.ErrRejected, archive.Descriptors, len(d))
		}
		keys[fd] = d
	}
	return keys, nil
}
