package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// CheckPaths proves that every path in the images is one of the container. CRIU opens the files of the tasks, makes
// deleted ones again and binds parts of file systems by their paths, as root, partly in a mount namespace with
// the host's files, and follows links: a link of the container to /etc would lead to the host's, and one to a descriptor
// in /proc to a file that CRIU has open. A path that was dumped has no links in it, so none may be on
// its way: not in rootfs, which is complete by now, nor in what is mounted over it. sources are the paths of this
// host for the mounts that are supplied, by mount point, before those of the spec. What is wrong is an
// [archive.ErrRejected].
func CheckPaths(ctx context.Context, imagesDir string, spec *specs.Spec, rootfs string, sources map[string]string) error {
	mounts, err := mountEntries(imagesDir)
	if err != nil {
		return err
	}
	c := pathChecker{dir: imagesDir, spec: spec, rootfs: rootfs, sources: sources, mounts: mounts, links: map[string]map[string]bool{}}
	for _, m := range mounts {
		if isExternal(m) || path.Clean(m.GetRoot()) == "/" || imagePath(m.GetMountpoint()) == "/" {
			continue
		}
		if err := c.below(ctx, m, "", false); err != nil {
			return imageError("mountpoints", "mount point %s: %w", archive.QuoteName(m.GetMountpoint()), err)
		}
	}
	names, err := openedNames(imagesDir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n.bad() {
			return imageError(FilesImage, "name %s leads out of the container", archive.QuoteName(n.name))
		}
		if err := c.path(ctx, n); err != nil {
			return imageError(FilesImage, "%w", err)
		}
	}
	return nil
}

// pathChecker follows paths through the mounts of the images.
type pathChecker struct {
	dir     string
	spec    *specs.Spec
	rootfs  string
	sources map[string]string
	mounts  []*mnt.MntEntry
	links   map[string]map[string]bool // the symbolic links in an image of a temporary file system
}

// path checks a name in every file system that it could be in: which mount is on top is for the images to say.
func (c pathChecker) path(ctx context.Context, n fileName) error {
	for _, m := range c.mounts {
		point := imagePath(m.GetMountpoint())
		if !isBelow(path.Clean(n.path()), point) {
			continue
		}
		rel := strings.Trim(strings.TrimPrefix(path.Clean(n.path()), point), "/")
		if err := c.below(ctx, m, rel, n.replaced); err != nil {
			return fmt.Errorf("open file %s: %w", archive.QuoteName(n.name), err)
		}
	}
	return nil
}

// below checks a relative path in what a mount shows. last tells that its last component may be a link, which is not
// followed there.
func (c pathChecker) below(ctx context.Context, m *mnt.MntEntry, rel string, last bool) error {
	switch {
	case isExternal(m):
		source, ok := c.sources[imagePath(m.GetMountpoint())]
		if !ok {
			source, ok = specBind(c.spec, imagePath(m.GetMountpoint()))
		}
		if !ok || rel == "" {
			return nil // the operator's own path, or a node of this host
		}
		return withoutLinks(source, rel, last)
	case imagePath(m.GetMountpoint()) == "/":
		return withoutLinks(c.rootfs, rel, last)
	}
	at := path.Join("/", m.GetRoot(), rel)
	switch fstype(m) {
	case mnt.Fstype_PROC:
		if leadsAway(at) {
			return fmt.Errorf("%s is what a process has open, whoever's it is", archive.QuoteName(at))
		}
	case mnt.Fstype_TMPFS:
		if err := c.withoutPackedLinks(ctx, m, strings.TrimPrefix(at, "/"), last); err != nil {
			return err
		}
	}
	// Whatever its type says: the root file system may be a temporary one as well.
	for _, g := range c.mounts {
		if g == m || !isExternal(g) && imagePath(g.GetMountpoint()) != "/" || !bindsFrom(m, g) {
			continue
		}
		inside := strings.Trim(strings.TrimPrefix(path.Clean(m.GetRoot()), path.Clean(g.GetRoot())), "/")
		if err := c.below(ctx, g, path.Join(inside, rel), last); err != nil {
			return err
		}
	}
	return nil
}

// leadsAway tells whether a path in proc goes through a link to what a process has open or is in.
func leadsAway(at string) bool {
	if !magicLink.MatchString(at) {
		return false
	}
	words := strings.Split(strings.Trim(at, "/"), "/")
	if words[0] == "self" || words[0] == "thread-self" {
		return true // links themselves: no path that was dumped has them
	}
	for i, w := range words[1:] {
		follows := i+2 < len(words)
		if slices.Contains([]string{"cwd", "root", "exe"}, w) || follows && slices.Contains([]string{"fd", "map_files", "ns"}, w) {
			return true
		}
	}
	return false
}

// withoutLinks rejects a path below a directory of this host that has a symbolic link on its way. What is not there
// leads nowhere.
func withoutLinks(dir, rel string, last bool) error {
	if rel == "" {
		return nil
	}
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil // a file, with nothing below
	}
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // read side
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if last {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(int(d.Fd()), rel, &how)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return errThroughLink
	}
	return &os.PathError{Op: "find", Path: filepath.Join(dir, rel), Err: err}
}

var errThroughLink = errors.New("a symbolic link is on its way in the new container, and none was when it was dumped")

// withoutPackedLinks is withoutLinks for the content of a temporary file system, which is unpacked by CRIU.
func (c pathChecker) withoutPackedLinks(ctx context.Context, m *mnt.MntEntry, at string, last bool) error {
	for _, image := range []string{tmpfsImage("dev-", m.GetRootDev()), tmpfsImage("", m.GetMntId())} {
		links, ok := c.links[image]
		if !ok {
			var err error
			if links, err = packedLinks(ctx, c.dir, image); err != nil {
				return err
			}
			c.links[image] = links
		}
		if last {
			at = path.Dir(at)
		}
		for up := at; up != "." && up != "/"; up = path.Dir(up) {
			if links[up] {
				return errThroughLink
			}
		}
	}
	return nil
}

// tmpfsImage is the image of the content of a temporary file system.
func tmpfsImage(kind string, id uint32) string { return fmt.Sprintf("tmpfs-%s%d.tar.gz.img", kind, id) }
