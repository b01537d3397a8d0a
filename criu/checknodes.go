package criu

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ghost_file "github.com/checkpoint-restore/go-criu/v8/crit/images/ghost-file"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// node is a device by its numbers.
type node struct {
	char         bool
	major, minor int64
}

// usualNodes are the devices that runtimes put into the /dev of every container: null, zero, full, random, urandom,
// tty, console and ptmx.
func usualNodes() []node {
	return []node{
		{true, 1, 3},
		{true, 1, 5},
		{true, 1, 7},
		{true, 1, 8},
		{true, 1, 9},
		{true, 5, 0},
		{true, 5, 1},
		{true, 5, 2},
	}
}

// permitsNode tells whether a container may have a device node.
func permitsNode(n node, spec *specs.Spec) bool {
	if spec == nil || slices.Contains(usualNodes(), n) || n.char && n.major == 136 { // pseudo terminals
		return true
	}
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Devices, func(d specs.LinuxDevice) bool {
		return n == node{d.Type != "b", d.Major, d.Minor}
	})
}

// checkNodes checks everything that CRIU makes device nodes of: the content of temporary file
// systems, which it unpacks as root with tar, and deleted files.
func checkNodes(ctx context.Context, dir string, names []string, spec *specs.Spec) error {
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		switch {
		case strings.HasPrefix(name, "tmpfs-") && strings.HasSuffix(name, ".img"):
			err = checkTmpfs(ctx, dir, name, spec)
		case strings.HasPrefix(name, "ghost-file-") && strings.HasSuffix(name, ".img"):
			err = checkGhost(dir, name, spec)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errEnough ends a walk through an image early.
var errEnough = errors.New("enough")

// checkGhost checks a deleted file, whose content follows its one entry.
func checkGhost(dir, name string, spec *specs.Spec) error {
	f, size, err := openImage(dir, name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read side
	var e ghost_file.GhostFileEntry
	err = walkImage(f, name, size, magicGhost, func(b []byte) error {
		if err := proto.Unmarshal(b, &e); err != nil {
			return imageError(name, "%w", err)
		}
		return errEnough
	})
	switch {
	case err == nil:
		return imageError(name, "empty image")
	case !errors.Is(err, errEnough):
		return err
	}
	kind := e.GetMode() & unix.S_IFMT
	if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return nil
	}
	// CRIU writes device numbers as the kernel has them: 12 bits of major, 20 of minor.
	n := node{kind == unix.S_IFCHR, int64(unix.Major(uint64(e.GetRdev()))), int64(unix.Minor(uint64(e.GetRdev())))}
	if !permitsNode(n, spec) {
		return imageError(name, "device node %d:%d, which the spec does not grant", n.major, n.minor)
	}
	return nil
}

// Limits of the content of a temporary file system.
const (
	maxTmpfsEntries = 1 << 20
	maxTmpfsBytes   = 64 << 30
)

// checkTmpfs checks the content of a temporary file system, a packed tar: every entry must
// stay where it is unpacked, without help from what an earlier one put there.
func checkTmpfs(ctx context.Context, dir, name string, spec *specs.Spec) error {
	kinds := map[string]byte{}
	return walkTmpfs(ctx, dir, name, func(h *tar.Header) error {
		if len(kinds) == maxTmpfsEntries {
			return fmt.Errorf("more than %d entries", maxTmpfsEntries)
		}
		return checkTmpfsEntry(h, kinds, spec)
	})
}

// packedLinks gives the symbolic links in the content of a temporary file system, by clean names. An image that is
// not there has none.
func packedLinks(ctx context.Context, dir, name string) (map[string]bool, error) {
	links := map[string]bool{}
	err := walkTmpfs(ctx, dir, name, func(h *tar.Header) error {
		if h.Typeflag == tar.TypeSymlink {
			links[path.Clean(h.Name)] = true
		}
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return links, err
}

// walkTmpfs gives the entries of the content of a temporary file system to f. tar(1), which unpacks it, must
// read the same entries: a header that the two would understand in different ways is an error.
func walkTmpfs(ctx context.Context, dir, name string, f func(*tar.Header) error) error {
	image, size, err := openImage(dir, name)
	if err != nil {
		return err
	}
	defer image.Close() //nolint:errcheck // read side
	if size == 0 {
		return nil // nothing was in it
	}
	// The end of ctx ends the reading with an error too.
	rejected := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return imageError(name, "%w", err)
	}
	content, _, err := archive.Decompress(image)
	if err != nil {
		return rejected(err)
	}
	defer content.Close() //nolint:errcheck // read side
	limited := &io.LimitedReader{R: archive.ContextReader(ctx, content), N: maxTmpfsBytes}
	tr := tar.NewReader(limited)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if limited.N == 0 {
			return imageError(name, "more than %d bytes", int64(maxTmpfsBytes))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return rejected(err)
		}
		err = plainHeader(h)
		if err == nil {
			err = f(h)
		}
		if err != nil {
			return imageError(name, "%s: %w", archive.QuoteName(h.Name), err)
		}
	}
}

// plainHeader rejects what archive/tar and tar(1) read differently: content of what has none, which only one of them
// skips, and two names of one entry.
func plainHeader(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		if h.Size != 0 {
			return errors.New("an entry without content that has a size")
		}
	}
	for key, value := range map[string]string{"path": h.Name, "linkpath": h.Linkname} {
		if other, ok := h.PAXRecords[key]; ok && other != value {
			return fmt.Errorf("also called %s", archive.QuoteName(other))
		}
	}
	return nil
}

// checkTmpfsEntry checks one entry; kinds are the types of those before it.
func checkTmpfsEntry(h *tar.Header, kinds map[string]byte, spec *specs.Spec) error {
	at, ok := localName(h.Name)
	if !ok {
		return errors.New("its name leads out")
	}
	if _, dup := kinds[at]; dup {
		return errors.New("there twice")
	}
	for up := path.Dir(at); up != "."; up = path.Dir(up) {
		if kind, ok := kinds[up]; ok && kind != tar.TypeDir {
			return errors.New("in what is no directory")
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeFifo:
	case tar.TypeLink:
		to, ok := localName(h.Linkname)
		if kind, there := kinds[to]; !ok || !there || kind == tar.TypeDir || kind == tar.TypeSymlink {
			return errors.New("a link to what is not in there")
		}
	case tar.TypeChar, tar.TypeBlock:
		if n := (node{h.Typeflag == tar.TypeChar, h.Devmajor, h.Devminor}); !permitsNode(n, spec) {
			return fmt.Errorf("device node %d:%d, which the spec does not grant", n.major, n.minor)
		}
	default:
		return fmt.Errorf("entry of type %q", h.Typeflag)
	}
	if at == "." && h.Typeflag != tar.TypeDir {
		return errors.New("no directory")
	}
	kinds[at] = h.Typeflag
	return nil
}

// localName cleans a name that stays below the directory it is read in.
func localName(name string) (string, bool) {
	if name == "" || path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", false
	}
	return path.Clean(name), filepath.IsLocal(name)
}

// deviceLine is a line of devices.list: type, numbers, access.
var deviceLine = regexp.MustCompile(`^([abc]) ([0-9]+|\*):([0-9]+|\*) [rwm]+$`)

// checkDeviceList rejects the use of devices that the spec denies: CRIU writes the list of the
// image to the cgroup.
func checkDeviceList(list string, spec *specs.Spec) error {
	if !deniesDevices(spec) {
		return nil
	}
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		m := deviceLine.FindStringSubmatch(line)
		if m == nil || !permitsUse(m[1], m[2], m[3], strings.HasSuffix(line, " m"), spec) {
			return imageError(cgroupImage, "use of the device %s, which the spec does not grant", archive.QuoteName(line))
		}
	}
	return nil
}

// deniesDevices tells whether a spec denies all devices but those that it names.
func deniesDevices(spec *specs.Spec) bool {
	if spec == nil || spec.Linux == nil || spec.Linux.Resources == nil {
		return false
	}
	return slices.ContainsFunc(spec.Linux.Resources.Devices, func(r specs.LinuxDeviceCgroup) bool {
		return !r.Allow && (r.Type == "" || r.Type == "a") && r.Major == nil && r.Minor == nil
	})
}

// permitsUse tells whether a container may use a device: those that all may, the node of a tunnel
// among them, and those of the spec's rules. Making nodes alone opens none.
func permitsUse(kind, major, minor string, onlyMake bool, spec *specs.Spec) bool {
	if onlyMake && kind != "a" {
		return true
	}
	same := func(s string, n *int64) bool {
		return n == nil || *n == -1 || s == strconv.FormatInt(*n, 10)
	}
	if slices.ContainsFunc(spec.Linux.Resources.Devices, func(r specs.LinuxDeviceCgroup) bool {
		return r.Allow && (r.Type == "" || r.Type == "a" || r.Type == kind) && same(major, r.Major) && same(minor, r.Minor)
	}) {
		return true
	}
	maj, err := strconv.ParseInt(major, 10, 32)
	if err != nil {
		return false
	}
	n := node{kind == "c", maj, -1}
	if minor == "*" {
		return n.char && n.major == 136
	}
	if n.minor, err = strconv.ParseInt(minor, 10, 32); err != nil {
		return false
	}
	return permitsNode(n, spec) || n == node{true, 10, 200}
}
