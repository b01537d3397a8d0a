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

// MemoryUsage is the memory that a dump of the container writes, in bytes, as its cgroup
// counts it: anonymous and shared memory, without the page cache.
func (c *Container) MemoryUsage() (int64, error) {
	paths, err := processCgroups(c.PID)
	if err != nil {
		return 0, err
	}
	mounts, err := hierarchies()
	if err != nil {
		return 0, err
	}
	for _, v := range []struct{ controller, anonymous, shared string }{
		{"memory", "total_rss", "total_shmem"},
		{"", "anon", "shmem"},
	} {
		mount, path := mounts[v.controller], paths[v.controller]
		if mount == "" || path == "" || path == "/" {
			continue
		}
		stat := keyValues(filepath.Join(mount, path, "memory.stat"), " ")
		if stat[v.anonymous] == "" {
			continue
		}
		return parseBytes(stat[v.anonymous], stat[v.shared])
	}
	return 0, errors.New("the container has no memory cgroup of its own")
}

// AvailableMemory is what the kernel thinks it can give without swapping, in bytes.
func AvailableMemory() (int64, error) {
	kib, err := parseBytes(strings.TrimSuffix(strings.TrimSpace(keyValues("/proc/meminfo", ":")["MemAvailable"]), " kB"))
	if err != nil {
		return 0, fmt.Errorf("read the available memory: %w", err)
	}
	return kib << 10, nil
}

// parseBytes adds numbers; an empty one is nothing.
func parseBytes(numbers ...string) (int64, error) {
	sum := int64(0)
	for _, s := range numbers {
		if s == "" {
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
