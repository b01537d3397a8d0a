package criu

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// firstExtraFD is the number in CRIU of the first descriptor after the standard
// ones and the connection.
const firstExtraFD = 4

// request fills in the options of a restore and opens what CRIU inherits.
func (r *restore) request(o *rpc.CriuOpts, root string) error {
	if err := r.opts.Flags.apply(o); err != nil {
		return err
	}
	mode, err := cgroupMode(r.opts.CgroupMode, defaultCgroupMode(r.opts.Spec))
	if err != nil {
		return err
	}
	o.ManageCgroups = proto.Bool(true)
	o.ManageCgroupsMode = mode.Enum()
	if mode != rpc.CriuCgMode_IGNORE {
		o.CgRoot = r.cgroups.roots()
	}
	o.Root = proto.String(root)
	o.NotifyScripts = proto.Bool(true)
	o.RstSibling = proto.Bool(true)
	o.EvasiveDevices = proto.Bool(true)
	o.OrphanPtsMaster = proto.Bool(true)
	o.External = slices.Clone(r.opts.External)
	for _, inner := range slices.Sorted(maps.Keys(r.opts.Veth)) {
		o.External = append(o.External, fmt.Sprintf("veth[%s]:%s", inner, r.opts.Veth[inner]))
	}
	o.AutoDedup = proto.Bool(r.opts.ConsumeImages)
	if r.opts.WeakSysctls {
		o.WeakSysctls = proto.Bool(true)
	}
	if r.opts.LSMProfile != "" {
		o.LsmProfile = proto.String(r.opts.LSMProfile)
	}
	if r.opts.LSMMountContext != "" {
		o.LsmMountContext = proto.String(r.opts.LSMMountContext)
	}
	if err := r.mounts(o); err != nil {
		return err
	}
	if err := r.inherit(o); err != nil {
		return err
	}
	if err := r.namespaces(o); err != nil {
		return err
	}
	empty, err := emptyNetwork(r.opts.ImagesDir, r.opts.Spec)
	if err != nil {
		return err
	}
	if empty {
		o.EmptyNs = proto.Uint32(unix.CLONE_NEWNET)
	}
	return nil
}

// defaultCgroupMode is ignore: the tasks stay where CRIU is, in cgroups that were made for them.
// The images of a hybrid host may hold the cgroups of others. A cgroup namespace of the
// container's own is made by CRIU, and only where it deals with cgroups.
func defaultCgroupMode(spec *specs.Spec) rpc.CriuCgMode {
	if path, ok := namespacePath(spec, specs.CgroupNamespace); ok && path == "" {
		return rpc.CriuCgMode_SOFT
	}
	return rpc.CriuCgMode_IGNORE
}

// mounts maps the external mounts and makes missing mount points.
func (r *restore) mounts(o *rpc.CriuOpts) error {
	mounts, err := ExternalMounts(r.opts.ImagesDir)
	if err != nil {
		return err
	}
	m := mapper{spec: r.opts.Spec, mountMap: r.opts.MountMap, emptyDir: r.opts.EmptyDir, cgroup: r.cgroups.source}
	mapped, err := m.mapAll(mounts)
	if err != nil {
		return err
	}
	sources := make(map[string]string, len(mapped))
	for _, k := range mapped {
		if _, err := os.Stat(k.path); err != nil {
			return fmt.Errorf("find source of mount %q: %w", k.key, err)
		}
		o.ExtMnt = append(o.ExtMnt, &rpc.ExtMountMap{Key: proto.String(k.key), Val: proto.String(k.path)})
		sources[k.key] = k.path
	}
	return PrepareMountpoints(r.opts.Rootfs, r.opts.ImagesDir, sources)
}

// inherit gives CRIU the outer ends of the standard descriptors and of further files.
func (r *restore) inherit(o *rpc.CriuOpts) error {
	keys, err := inheritedKeys(r.opts.ImagesDir)
	if err != nil {
		return err
	}
	given := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(r.opts.Files)) {
		r.pass(o, key, r.opts.Files[key])
		given[key] = true
	}
	for _, fd := range slices.Sorted(maps.Keys(keys)) {
		if !given[keys[fd]] {
			o.InheritFd = append(o.InheritFd, &rpc.InheritFd{Key: proto.String(keys[fd]), Fd: proto.Int32(int32(fd))}) //nolint:gosec // 0 to 2
		}
	}
	return nil
}

// pass makes a file one of CRIU's descriptors and the object of a key.
func (r *restore) pass(o *rpc.CriuOpts, key string, f *os.File) {
	fd := firstExtraFD + len(r.extra)
	r.extra = append(r.extra, f)
	o.InheritFd = append(o.InheritFd, &rpc.InheritFd{Key: proto.String(key), Fd: proto.Int32(int32(fd))}) //nolint:gosec // a descriptor
}

// namespaces joins those namespaces of the spec that have a path.
func (r *restore) namespaces(o *rpc.CriuOpts) error {
	if r.opts.Spec.Linux == nil {
		return errors.New("the spec has no linux section")
	}
	joined, err := joinedNamespaces(r.opts.ImagesDir, r.opts.Spec)
	if err != nil {
		return err
	}
	for _, n := range joined {
		if n.key == "" {
			o.JoinNs = append(o.JoinNs, &rpc.JoinNamespace{Ns: proto.String(n.name), NsFile: proto.String(n.path)})
			continue
		}
		f, err := os.Open(n.path)
		if err != nil {
			return fmt.Errorf("open %s namespace: %w", n.name, err)
		}
		r.opened = append(r.opened, f)
		r.pass(o, n.key, f)
	}
	return nil
}

// emptyNetwork tells whether the images are of a network namespace without
// content: dumped that way by a runtime, or by us when others set up its interfaces.
func emptyNetwork(dir string, spec *specs.Spec) (bool, error) {
	if p, ok := namespacePath(spec, specs.NetworkNamespace); !ok || p != "" {
		return false, nil
	}
	names, err := listImages(dir)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "netdev-") }), nil
}
