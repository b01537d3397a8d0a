package rootfs_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requireRoot skips tests that mount, make devices and change owners.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root: CI must run it as root")
	}
	t.Skip("needs root: mounts overlays, makes device nodes, changes owners")
}

// snapshot describes every file of a tree in one line, by means of its own.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	groups := map[[2]uint64][]string{} // nlink is no guide: an overlay keeps that of the lower file
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFSOCK {
			return nil
		}
		var b strings.Builder
		fmt.Fprintf(&b, "mode=%o owner=%d:%d mtime=%d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch kind {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " size=%d sha256=%x", len(data), sha256.Sum256(data))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " to=%q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " rdev=%d", st.Rdev)
		}
		if kind != unix.S_IFDIR && st.Nlink > 1 {
			key := [2]uint64{st.Dev, st.Ino}
			groups[key] = append(groups[key], rel)
		}
		b.WriteString(xattrsOf(t, p))
		files[rel] = b.String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range groups {
		for _, name := range names {
			if len(names) > 1 {
				files[name] += fmt.Sprintf(" same-file-as=%q", names[0])
			}
		}
	}
	return files
}

func xattrsOf(t *testing.T, p string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for raw := range bytes.SplitSeq(buf[:n], []byte{0}) {
		name := string(raw)
		if name == "" || strings.HasPrefix(name, "trusted.") || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf(" %s=%x", name, value[:m]))
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// withoutDirTimes drops the times of directories, which appliers of other engines do not keep.
func withoutDirTimes(files map[string]string) map[string]string {
	out := map[string]string{}
	for name, line := range files {
		if strings.HasPrefix(line, "mode=4") {
			fields := strings.Fields(line)
			line = strings.Join(slices.Delete(fields, 2, 3), " ")
		}
		out[name] = line
	}
	return out
}

// compareTrees reports each difference between two snapshots.
func compareTrees(t *testing.T, got, want map[string]string) {
	t.Helper()
	names := maps.Clone(got)
	maps.Copy(names, want)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if got[name] != want[name] {
			t.Errorf("%q:\n got  %s\n want %s", name, got[name], want[name])
		}
	}
}

// mountOverlay mounts lowers, the top one first, with an upper directory unless that is "". The
// returned function unmounts before the end of the test.
func mountOverlay(t *testing.T, target, upper string, lowers []string, extra string) (unmount func()) {
	t.Helper()
	options := "lowerdir=" + strings.Join(lowers, ":")
	if upper != "" {
		work := upper + ".work"
		mkdir(t, work, 0o700)
		options += ",upperdir=" + upper + ",workdir=" + work
	}
	if extra != "" {
		options += "," + extra
	}
	mkdir(t, target, 0o755)
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		t.Fatalf("mount overlay %q: %v", options, err)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount %q: %v", target, err)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// The helpers below end the test when the file system refuses.

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, p string, mode os.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(p, 0o755))
	must(t, os.Chmod(p, mode))
}

func write(t *testing.T, p, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, []byte(content), 0o644))
}

func symlink(t *testing.T, target, p string) {
	t.Helper()
	must(t, os.Symlink(target, p))
}

func setxattr(t *testing.T, p, name, value string) {
	t.Helper()
	must(t, unix.Lsetxattr(p, name, []byte(value), 0))
}

func mknod(t *testing.T, p string, mode uint32, dev uint64) {
	t.Helper()
	must(t, unix.Mknod(p, mode, int(dev)))
}

// age gives everything in a tree one old time, so that changes show.
func age(t *testing.T, root string) {
	t.Helper()
	old := time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC)
	ts, err := unix.TimeToTimespec(old)
	must(t, err)
	must(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}
