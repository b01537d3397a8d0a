package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Layers finds the layers of the overlay that is mounted at path: the upper
// directory, "" for a read-only overlay, and the lower ones, the top one first. pid
// chooses the process whose mounts are looked at, and for which path is
// meant; 0 is the caller. ok is false when no overlay is mounted at exactly that path,
// or one whose layers cannot be found by its options: relative paths, data-only layers,
// a part of an overlay.
//
// The paths are those that whoever mounted it used. Ask for the mount as the host made
// it where there is one: a container that may mount could name paths that mean
// something else outside it.
func Layers(pid int, path string) (upper string, lowers []string, ok bool, err error) {
	mounts, err := readMounts(pid)
	if err != nil {
		return "", nil, false, err
	}
	path = filepath.Clean(path)
	var top *mountinfo.Info
	for _, m := range mounts {
		if m.Mountpoint == path {
			top = m // a later mount hides an earlier one
		}
	}
	if top == nil || top.FSType != "overlay" || top.Root != "/" {
		return "", nil, false, nil
	}
	upper, lowers, ok = parseOverlay(top.VFSOptions)
	return upper, lowers, ok, nil
}

// readMounts reads the mounts of a process, the caller's for 0.
func readMounts(pid int) ([]*mountinfo.Info, error) {
	proc := "/proc/self/mountinfo"
	if pid != 0 {
		proc = "/proc/" + strconv.Itoa(pid) + "/mountinfo"
	}
	f, err := os.Open(proc)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("read mounts from %q: %w", proc, err)
	}
	return mounts, nil
}

// parseOverlay reads the options that overlay shows in mountinfo.
func parseOverlay(options string) (upper string, lowers []string, ok bool) {
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		value = unescapeOctal(value)
		switch key {
		case "upperdir":
			upper = unescapeBackslash(value)
		case "lowerdir":
			for _, dir := range splitLowers(value) {
				lowers = append(lowers, unescapeBackslash(dir))
			}
		case "lowerdir+": // the new mount API takes them one by one and as they are
			lowers = append(lowers, value)
		case "datadir+":
			return "", nil, false
		}
	}
	if len(lowers) == 0 || (upper != "" && !filepath.IsAbs(upper)) {
		return "", nil, false
	}
	for _, dir := range lowers {
		if !filepath.IsAbs(dir) { // also the empty name between "::", before data-only layers
			return "", nil, false
		}
	}
	return upper, lowers, true
}

// splitLowers separates paths at colons that no backslash protects.
func splitLowers(s string) []string {
	var dirs []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ':':
			dirs = append(dirs, s[start:i])
			start = i + 1
		}
	}
	return append(dirs, s[start:])
}

// unescapeOctal undoes what the kernel does to blanks, commas and backslashes in mountinfo.
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unescapeBackslash undoes what the one who mounted did to colons and commas in a path.
func unescapeBackslash(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// procRoot matches the root of another process, whose mounts are not among the caller's.
var procRoot = regexp.MustCompile(`^/proc/([1-9][0-9]*)/root(/|$)`)

// marksPrefix tells which extended attributes the overlay at merged uses for its
// marks, and whether the caller can read them.
func marksPrefix(merged string) (prefix string, readable bool, err error) {
	t, err := openTree(merged)
	if err != nil {
		return "", false, err
	}
	defer t.close()
	pid := 0
	if m := procRoot.FindStringSubmatch(merged); m != nil {
		if pid, err = strconv.Atoi(m[1]); err != nil {
			return "", false, fmt.Errorf("read process of %q: %w", merged, err)
		}
	}
	mounts, err := readMounts(pid)
	if err != nil {
		return "", false, err
	}
	for _, m := range mounts {
		if uint64(m.ID) != t.attr.mount || m.FSType != "overlay" { //nolint:gosec // IDs are positive
			continue
		}
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			if option == "userxattr" {
				return userMarks, true, nil
			}
		}
	}
	admin, err := mayAdminister()
	return trustedMarks, admin, err
}

// mayAdminister tells whether the caller has CAP_SYS_ADMIN, without which trusted.* is invisible.
func mayAdminister() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("read own capabilities: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0, nil
}
