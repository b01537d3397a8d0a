package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// ThisHost describes this machine for an archive's metadata.
func ThisHost() (archive.Host, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return archive.Host{}, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	version, err := CgroupVersion()
	if err != nil {
		return archive.Host{}, err
	}
	osRelease := keyValues("/etc/os-release", "=")
	return archive.Host{
		Architecture:  goruntime.GOARCH,
		Kernel:        unix.ByteSliceToString(uts.Release[:]),
		CgroupVersion: version,
		CPU:           keyValues("/proc/cpuinfo", ":")["model name"],
		Distribution:  osRelease["ID"],
		Version:       osRelease["VERSION_ID"],
	}, nil
}

// keyValues reads the first value of each key of a file such as /etc/os-release. What
// cannot be read is empty: it describes, and decides nothing.
func keyValues(path, separator string) map[string]string {
	values := map[string]string{}
	f, err := os.Open(path)
	if err != nil {
		return values
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), separator)
		if key = strings.TrimSpace(key); ok && values[key] == "" {
			values[key] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return values
}

// MemoryUsage is the memory that the container's cgroup is charged for, in bytes: an upper
// bound of what a dump writes, page cache included.
func (c *Container) MemoryUsage() (int64, error) {
	paths, err := processCgroups(c.PID)
	if err != nil {
		return 0, err
	}
	mounts, err := hierarchies()
	if err != nil {
		return 0, err
	}
	for _, v := range []struct{ controller, file string }{
		{"memory", "memory.usage_in_bytes"},
		{"", "memory.current"},
	} {
		mount, path := mounts[v.controller], paths[v.controller]
		if mount == "" || path == "" || path == "/" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(mount, path, v.file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	return 0, errors.New("the container has no memory cgroup of its own")
}
