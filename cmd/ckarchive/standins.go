package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/rootfs"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// A stand-in is what a restored container gets in place of a file or directory that its engine made
// for it and bound into it: a private one in the container's home. Podman, CRI-O and
// containerd give every container some of them, and no archive says what was in most.
type standIn struct {
	dest string // in the container
	name string // below the home
	// content is a file's; a nil one makes a directory.
	content func(spec *specs.Spec) []byte
	// tar is the member with the content of a directory; empty if there is none.
	tar  string
	mode os.FileMode
}

const standInsDir = "mounts"

// engineMounts are the mounts that engines make of their own accord.
func engineMounts() []standIn {
	const file, shared = 0o644, 0o777 | os.ModeSticky
	return []standIn{
		{dest: "/etc/hosts", content: hostsFile, mode: file},
		{dest: "/etc/hostname", content: func(s *specs.Spec) []byte { return []byte(s.Hostname + "\n") }, mode: file},
		{dest: "/etc/resolv.conf", content: resolverFile, mode: file},
		{dest: "/run/.containerenv", content: func(*specs.Spec) []byte { return []byte{} }, mode: file},
		{dest: "/run/secrets", mode: 0o755},
		{dest: devShm, tar: archive.DevShmTar, mode: shared},
	}
}

func hostsFile(s *specs.Spec) []byte {
	return fmt.Appendf(nil, "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t%s\n", s.Hostname)
}

// resolverFile is this host's: what the container had names servers of another one.
func resolverFile(*specs.Spec) []byte {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return []byte{}
	}
	return b
}

// namedVolume is one of Podman's, in config.dump. Its content is a member of the archive.
type namedVolume struct {
	Name string `json:"volumeName"`
	Dest string `json:"dest"`
}

// standIns are those that the archive's configuration needs and --map-mount does not name.
func (r *restore) standIns() []standIn {
	if r.ownBundle() {
		return nil // its config.json says where they come from
	}
	candidates := engineMounts()
	for i, v := range r.config.NamedVolumes {
		candidates = append(candidates, standIn{
			dest: v.Dest, name: fmt.Sprintf("volume-%d", i), mode: 0o755, tar: archive.VolumesDir + "/" + v.Name + ".tar",
		})
	}
	needed := []standIn{}
	for _, c := range candidates {
		bound := func(m specs.Mount) bool { return m.Destination == c.dest && archive.IsBind(m) }
		if _, mapped := r.cmd.MapMount[c.dest]; mapped || !slices.ContainsFunc(r.spec.Mounts, bound) {
			continue
		}
		if c.name == "" {
			c.name = strings.ReplaceAll(strings.Trim(c.dest, "/"), "/", "-")
		}
		needed = append(needed, c)
	}
	return needed
}

// standInPath is where a stand-in is on this host.
func (r *restore) standInPath(s standIn) string { return filepath.Join(r.home, standInsDir, s.name) }

// mountSources are the paths of this host for the container's bind mounts: those of --map-mount,
// and the stand-ins.
func (r *restore) mountSources() map[string]string {
	sources := map[string]string{}
	maps.Copy(sources, r.cmd.MapMount)
	for _, s := range r.standIns() {
		sources[s.dest] = r.standInPath(s)
	}
	return sources
}

// fixRoot gives the root directory the permissions that it had, unless it is the operator's own.
func (r *restore) fixRoot(images string) error {
	mode, known, err := criu.RootMode(images)
	if err != nil || !known || r.ownBundle() {
		return err
	}
	return os.Chmod(r.rootfs, mode)
}

// fitNetworkLock has the network locked by what this host has, while the container is restored.
func (r *restore) fitNetworkLock(images string) error {
	if r.sandboxed() {
		return nil
	}
	method, err := r.criu.FitNetworkLock(images, r.lockOptions())
	if errors.Is(err, criu.ErrLocked) {
		return withHint(&environmentError{err}, "restore it with --engine runtime, or where that packet filter is installed")
	}
	if err == nil && method != "" {
		r.app.say("the network is locked by the method %s, and not as at the dump", method)
	}
	return err
}

func (r *restore) lockOptions() criu.NetworkLockOptions {
	return criu.NetworkLockOptions{
		Method: r.options.values["network-lock"], Connections: r.options.on("tcp-established"),
		Filters: r.runtime.Name == runtime.Direct, // the runtimes leave the network namespace empty
	}
}

// makeStandIns makes them, with what the unpacked archive has of their content.
func (r *restore) makeStandIns(ctx context.Context, unpacked string) error {
	for _, s := range r.standIns() {
		if err := r.makeStandIn(ctx, s, unpacked); err != nil {
			return fmt.Errorf("make %s of the container: %w", archive.QuoteName(s.dest), err)
		}
		r.app.say("%s is a new one of this container's own", archive.QuoteName(s.dest))
	}
	return nil
}

func (r *restore) makeStandIn(ctx context.Context, s standIn, unpacked string) error {
	path := r.standInPath(s)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	if s.content != nil {
		return errors.Join(os.WriteFile(path, s.content(r.spec), s.mode), os.Chmod(path, s.mode))
	}
	if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, s.mode)); err != nil {
		return err
	}
	if s.tar == "" {
		return nil
	}
	name, err := archive.CleanName(s.tar)
	if err != nil || name != s.tar {
		return fmt.Errorf("%w: %s is no name of a volume", archive.ErrRejected, archive.QuoteName(s.tar))
	}
	f, err := os.Open(filepath.Join(unpacked, s.tar))
	if errors.Is(err, os.ErrNotExist) {
		if strings.HasPrefix(s.tar, archive.VolumesDir+"/") {
			return withHint(&environmentError{fmt.Errorf("the archive has no content of this volume")}, "name a directory with it: --map-mount "+s.dest+"=DIR")
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	return rootfs.ApplyChecked(ctx, path, f, nil, rootfs.ApplyOptions{})
}
