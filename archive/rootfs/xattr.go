package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// paxXattr begins the PAX records that carry extended attributes.
const paxXattr = "SCHILY.xattr."

// The prefixes of overlay's marks: one needs CAP_SYS_ADMIN, the other is used by
// mounts with the option userxattr.
const (
	trustedMarks = "trusted.overlay."
	userMarks    = "user.overlay."
)

// carriedXattr tells whether an extended attribute belongs to the container
// rather than to the host, its security module or the storage driver.
func carriedXattr(name string) bool {
	switch {
	case name == "security.selinux", name == "security.evm", strings.HasPrefix(name, "security.SMACK64"):
		return false
	case strings.HasPrefix(name, userMarks):
		return false
	case name == "system.posix_acl_access", name == "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "user.")
}

// procPath leads to the very file that a descriptor stands for, O_PATH and links
// included: the xattr calls take no such descriptors.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrNames lists the extended attributes to carry, in order.
func xattrNames(fd int) ([]string, error) {
	buf := make([]byte, 1024)
	for {
		n, err := unix.Listxattr(procPath(fd), buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			buf = make([]byte, 2*len(buf))
			continue
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("list extended attributes: %w", err)
		}
		var names []string
		for raw := range bytes.SplitSeq(buf[:n], []byte{0}) {
			if name := string(raw); carriedXattr(name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names, nil
	}
}

// readXattr reads one extended attribute; ok is false when it is not there.
func readXattr(fd int, name string) (value string, ok bool, err error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Getxattr(procPath(fd), name, buf)
		switch {
		case errors.Is(err, unix.ERANGE) && len(buf) <= MaxXattrBytes:
			buf = make([]byte, 2*MaxXattrBytes)
			continue
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
			return "", false, nil
		case err != nil:
			return "", false, fmt.Errorf("read extended attribute %s: %w", archive.QuoteName(name), err)
		}
		return string(buf[:n]), true, nil
	}
}

// readXattrs reads the extended attributes to carry.
func readXattrs(fd int) (map[string]string, error) {
	names, err := xattrNames(fd)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	xattrs := make(map[string]string, len(names))
	for _, name := range names {
		value, ok, err := readXattr(fd, name)
		if err != nil {
			return nil, err
		}
		if ok {
			xattrs[name] = value
		}
	}
	return xattrs, checkXattrs(xattrs)
}

// checkXattrs holds extended attributes against the limits and against what a
// PAX record can name.
func checkXattrs(xattrs map[string]string) error {
	if len(xattrs) > MaxXattrs {
		return rejectf("%d extended attributes, the limit is %d", len(xattrs), MaxXattrs)
	}
	total := 0
	for name, value := range xattrs {
		if strings.Contains(name, "=") {
			return rejectf("extended attribute %s: no tar header can name it, remove it", archive.QuoteName(name))
		}
		if len(name) > MaxComponentBytes || len(value) > MaxXattrBytes {
			return rejectf("extended attribute %s of %d bytes, the limit is %d",
				archive.QuoteName(name), len(value), MaxXattrBytes)
		}
		total += len(name) + len(value)
	}
	if total > MaxXattrsBytes {
		return rejectf("extended attributes of %d bytes, the limit is %d", total, MaxXattrsBytes)
	}
	return nil
}

// writeXattrs makes the carried extended attributes of a file exactly those given.
func writeXattrs(fd int, want map[string]string) error {
	have, err := xattrNames(fd)
	if err != nil {
		return err
	}
	for _, name := range have {
		if _, ok := want[name]; ok {
			continue
		}
		err := unix.Removexattr(procPath(fd), name)
		if err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove extended attribute %s: %w", archive.QuoteName(name), err)
		}
	}
	for name, value := range want {
		err := unix.Setxattr(procPath(fd), name, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set extended attribute %s: %w: use a file system that has them", archive.QuoteName(name), err)
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %s: %w", archive.QuoteName(name), err)
		}
	}
	return nil
}
