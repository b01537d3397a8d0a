package rootfs

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
)

// The names that mean deletions in an OCI layer.
const (
	whiteoutPrefix = ".wh."
	opaqueMark     = ".wh..wh..opq"
)

// rejectf makes an error that is an [archive.ErrRejected].
func rejectf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", archive.ErrRejected, fmt.Errorf(format, args...))
}

// cleanName makes the one form of a name: relative to the root, shortest, ""
// for the root itself. Engines write names with "/", with "./" and without;
// what climbs is rejected rather than clipped.
func cleanName(name string) (string, error) {
	if len(name) > MaxNameBytes {
		return "", rejectf("name of %d bytes, the limit is %d", len(name), MaxNameBytes)
	}
	if strings.ContainsRune(name, 0) {
		return "", rejectf("name holds a NUL")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", rejectf("name climbs with \"..\"")
		case len(part) > MaxComponentBytes:
			return "", rejectf("name component of %d bytes, the limit is %d", len(part), MaxComponentBytes)
		}
		parts = append(parts, part)
	}
	if len(parts) > MaxDepth {
		return "", rejectf("name of %d components, the limit is %d", len(parts), MaxDepth)
	}
	return strings.Join(parts, "/"), nil
}

// splitName separates a clean name into its directory, "" for the root, and its last component.
func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

// joinName is the clean name of base in the directory dir.
func joinName(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// hasWhiteoutPart tells whether a component of a name would be read as a deletion.
func hasWhiteoutPart(name string) bool {
	return strings.HasPrefix(name, whiteoutPrefix) || strings.Contains(name, "/"+whiteoutPrefix)
}

// compareNames orders names as a walk meets them: a directory, then what is in
// it, then its next sibling.
func compareNames(a, b string) int {
	for {
		ha, ta, moreA := strings.Cut(a, "/")
		hb, tb, moreB := strings.Cut(b, "/")
		if c := strings.Compare(ha, hb); c != 0 {
			return c
		}
		if !moreA || !moreB {
			return cmp.Compare(len(a), len(b))
		}
		a, b = ta, tb
	}
}

// containerPath shows a clean name as a path in the container.
func containerPath(name string) string { return path.Join("/", name) }
