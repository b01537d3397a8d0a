package criu

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// stdioCount is the number of descriptors that descriptors.json tells about: 0, 1 and 2.
const stdioCount = 3

// devNull is what descriptors.json says for a descriptor without an outside end.
const devNull = "/dev/null"

// openFile is an open file of a task, as /proc shows it.
type openFile struct {
	pid, fd int
	link    string // "pipe:[123]", "/var/log/x"
	stat    unix.Stat_t
	mountID int
	flags   int
}

// openFiles gives the open files of a task, in the order of their numbers.
func openFiles(pid int) ([]openFile, error) {
	entries, err := os.ReadDir(procPath(pid, "fd"))
	if err != nil {
		return nil, fmt.Errorf("list open files of process %d: %w", pid, err)
	}
	var files []openFile
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		f := openFile{pid: pid, fd: fd}
		if f.link, err = os.Readlink(procPath(pid, "fd", e.Name())); err != nil {
			continue // closed meanwhile
		}
		if err := unix.Stat(procPath(pid, "fd", e.Name()), &f.stat); err != nil {
			continue
		}
		info, err := os.ReadFile(procPath(pid, "fdinfo", e.Name()))
		if err != nil {
			continue
		}
		f.mountID, f.flags = parseFdinfo(info)
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b openFile) int { return a.fd - b.fd })
	return files, nil
}

func parseFdinfo(b []byte) (mountID, flags int) {
	mountID = -1
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		key, value, _ := strings.Cut(sc.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "mnt_id":
			if n, err := strconv.Atoi(value); err == nil {
				mountID = n
			}
		case "flags":
			if n, err := strconv.ParseInt(value, 8, 64); err == nil {
				flags = int(n)
			}
		}
	}
	return mountID, flags
}

// externalFile gives CRIU's key of an open file that lives outside of the
// container's mounts, whose IDs are known.
func externalFile(f openFile, known map[int]bool) (archive.External, bool) {
	if known[f.mountID] || f.mountID < 0 || !strings.HasPrefix(f.link, "/") || strings.HasPrefix(f.link, "/memfd:") || strings.HasSuffix(f.link, " (deleted)") {
		return archive.External{}, false
	}
	ext := archive.External{Path: f.link, Flags: f.flags, FD: f.fd, Mode: f.stat.Mode}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		ext.Kind, ext.Size = kindFile, f.stat.Size
		ext.Key = fmt.Sprintf("file[%x:%x]", f.mountID, f.stat.Ino)
	case unix.S_IFCHR:
		if isTTY(f.stat.Rdev) {
			ext.Kind = kindTTY
			ext.Key = fmt.Sprintf("tty[%x:%x]", f.stat.Rdev, f.stat.Dev)
			break
		}
		ext.Kind = kindFile
		ext.Key = fmt.Sprintf("file[%x:%x]", f.mountID, f.stat.Ino)
	case unix.S_IFIFO:
		ext.Kind = kindFile
		ext.Key = fmt.Sprintf("file[%x:%x]", f.mountID, f.stat.Ino)
	default:
		return archive.External{}, false
	}
	return ext, true
}

// isTTY tells whether a device number is a terminal's: a pty, a virtual console or a serial line.
func isTTY(rdev uint64) bool {
	m := unix.Major(rdev)
	return m >= 136 && m <= 143 || m == 4 || m == 204
}

// findExternals gives the open files of all tasks of a container that are
// outside objects, each once. recorded are the descriptors as the runtime
// noted them when it started the container.
func findExternals(pid int, recorded []string) ([]archive.External, error) {
	tasks, err := taskTree(pid)
	if err != nil {
		return nil, err
	}
	var found []archive.External
	seen := map[string]bool{}
	add := func(e archive.External) {
		if !seen[e.Key] {
			seen[e.Key] = true
			found = append(found, e)
		}
	}
	for _, t := range tasks {
		infos, err := readMounts(t)
		if err != nil || len(infos) == 0 {
			continue // a zombie
		}
		known := make(map[int]bool, len(infos))
		for _, m := range infos {
			known[m.ID] = true
		}
		files, err := openFiles(t)
		if err != nil {
			continue
		}
		for _, f := range files {
			if e, ok := externalFile(f, known); ok {
				add(e)
			}
			// A socket that the container was started with has its other end outside.
			if f.stat.Mode&unix.S_IFMT == unix.S_IFSOCK && slices.Contains(recorded, f.link) {
				add(archive.External{Kind: kindUnix, Key: fmt.Sprintf("unix[%d]", f.stat.Ino), FD: f.fd, Flags: f.flags})
			}
		}
	}
	return found, nil
}

// findDescriptors works out what the standard descriptors of a container were
// started with, for want of a record. The first process may have replaced
// them since; then an end of a pipe that no task holds the other end of is taken.
func findDescriptors(pid int) ([]string, error) {
	desc := []string{devNull, devNull, devNull}
	files, err := openFiles(pid)
	if err != nil {
		return nil, err
	}
	missing := map[int]bool{0: true, 1: true, 2: true}
	for _, f := range files {
		if f.fd >= stdioCount {
			continue
		}
		if strings.HasPrefix(f.link, "pipe:") || strings.HasPrefix(f.link, "socket:") {
			desc[f.fd] = f.link
			delete(missing, f.fd)
		}
	}
	if len(missing) == 0 {
		return desc, nil
	}
	tasks, err := taskTree(pid)
	if err != nil {
		return nil, err
	}
	var all []openFile
	for _, t := range tasks {
		if fs, err := openFiles(t); err == nil {
			all = append(all, fs...)
		}
	}
	for fd, link := range oneSidedPipes(all) {
		if missing[fd] {
			desc[fd] = link
		}
	}
	return desc, nil
}

// oneSidedPipes gives, by standard descriptor, the pipes of which the tasks
// hold only one end: a read end can only be 0, a write end 1 or 2.
func oneSidedPipes(files []openFile) map[int]string {
	reads, writes := map[string]bool{}, map[string]bool{}
	at := map[string][]int{} // the numbers under which a pipe is open
	var order []string
	for _, f := range files {
		if !strings.HasPrefix(f.link, "pipe:") {
			continue
		}
		if at[f.link] == nil {
			order = append(order, f.link)
		}
		at[f.link] = append(at[f.link], f.fd)
		switch f.flags & unix.O_ACCMODE {
		case unix.O_RDONLY:
			reads[f.link] = true
		case unix.O_WRONLY:
			writes[f.link] = true
		default:
			reads[f.link], writes[f.link] = true, true
		}
	}
	found := map[int]string{}
	for _, link := range order {
		if reads[link] == writes[link] {
			continue
		}
		for _, fd := range at[link] {
			if fd < stdioCount && (fd == 0) == reads[link] && found[fd] == "" {
				found[fd] = link
			}
		}
	}
	return found
}

// describe replaces those entries of descriptors.json that are external files or
// terminals by their keys. Runtimes act on "pipe:" entries only.
func describe(desc []string, ext []archive.External) []string {
	desc = slices.Clone(desc)
	for len(desc) < stdioCount {
		desc = append(desc, devNull)
	}
	for _, e := range ext {
		if (e.Kind == kindFile || e.Kind == kindTTY) && e.FD < stdioCount && !inherits(desc[e.FD]) {
			for i := range stdioCount {
				if i == e.FD || desc[i] == e.Path {
					desc[i] = e.Key
				}
			}
		}
	}
	return desc
}

// inherits tells whether a restore has to supply this entry of descriptors.json.
func inherits(d string) bool {
	for _, prefix := range []string{"pipe:[", "socket:[", "file[", "tty["} {
		if strings.HasPrefix(d, prefix) {
			return true
		}
	}
	return false
}

func writeDescriptors(dir string, desc []string) error {
	b, err := json.Marshal(desc)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, archive.Descriptors), b, 0o600); err != nil {
		return fmt.Errorf("write descriptors: %w", err)
	}
	return nil
}

// maxDescriptors is how many entries descriptors.json may have.
const maxDescriptors = 1024

// ReadDescriptors reads descriptors.json of a directory of images: what the
// standard descriptors of the first process were. Images without it have none.
func ReadDescriptors(dir string) ([]string, error) {
	b, err := readImageFile(dir, archive.Descriptors)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var desc []string
	if err := archive.DecodeJSON(archive.Image(archive.Descriptors), b, &desc); err != nil {
		return nil, err
	}
	if len(desc) > maxDescriptors {
		return nil, fmt.Errorf("%w: %s lists %d descriptors, the limit is %d", archive.ErrRejected, archive.Descriptors, len(desc), maxDescriptors)
	}
	return desc, nil
}
