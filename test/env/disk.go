package env

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk is a file system on a disk that can go bad.
type Disk struct {
	Dir string // where it is mounted

	tb     testing.TB
	image  string
	device string
}

// diskBlock is the size of a block of a [Disk].
const diskBlock = 4096

// NewDisk makes a disk of that many MiB and mounts it. It is gone when the test ends.
func NewDisk(tb testing.TB, size int) *Disk {
	tb.Helper()
	Require(tb, "root", "losetup", "mkfs.ext4", "debugfs")
	d := emptyDisk(tb, size)
	// Without a journal no error stops the rest of the file system.
	d.run("mkfs.ext4", "-q", "-b", strconv.Itoa(diskBlock), "-O", "^has_journal", "-m", "0", d.image)
	d.device = strings.TrimSpace(d.run("losetup", "--find", "--show", d.image))
	tb.Cleanup(func() {
		_ = exec.Command("umount", "--lazy", d.Dir).Run() // a test may have done it
		d.run("losetup", "--detach", d.device)
	})
	d.run("mount", "-t", "ext4", "-o", "errors=continue", d.device, d.Dir)
	return d
}

// emptyDisk makes the image of a disk of that many MiB, and where to mount it.
func emptyDisk(tb testing.TB, size int) *Disk {
	tb.Helper()
	dir := tb.TempDir()
	d := &Disk{Dir: filepath.Join(dir, "disk"), tb: tb, image: filepath.Join(dir, "image")}
	if err := os.Mkdir(d.Dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(d.image, int64(size)<<20); err != nil {
		tb.Fatal(err)
	}
	return d
}

func (d *Disk) run(argv ...string) string {
	d.tb.Helper()
	out, err := exec.Command(Program(d.tb, argv[0]), argv[1:]...).CombinedOutput()
	if err != nil {
		d.tb.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// Break lets every access to the disk fail with EIO that is not before the file: to the file, and to most of what is
// written from now on.
func (d *Disk) Break(name string) {
	d.tb.Helper()
	d.forget(name)
	listed := d.run("sh", "-c", "debugfs -R 'blocks /"+name+"' "+d.device+" 2>/dev/null")
	first, _, _ := strings.Cut(strings.TrimSpace(listed), " ")
	block, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		d.tb.Fatalf("find the blocks of %s: %v: %s", name, err, listed)
	}
	// What is not beyond the end but only across it would be read as zeros.
	if err := os.Truncate(d.image, block*diskBlock); err != nil {
		d.tb.Fatal(err)
	}
	d.run("losetup", "--set-capacity", d.device)
	if _, err := os.ReadFile(filepath.Join(d.Dir, name)); err == nil {
		d.tb.Fatalf("block %d of %s is read as before", block, name)
	}
}

// forget writes the disk and has the kernel read the file from it again. To unmount it would not do: whoever made
// a mount namespace meanwhile keeps the file system mounted, and all that is cached of it.
func (d *Disk) forget(name string) {
	d.tb.Helper()
	f, err := os.Open(filepath.Join(d.Dir, name))
	if err != nil {
		d.tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		d.tb.Fatalf("write the disk: %v", err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		d.tb.Fatalf("forget %s: %v", name, err)
	}
}

// Reflinks mounts a file system where files can share blocks, and gives its directory. It is gone when the test ends.
func Reflinks(tb testing.TB) string {
	tb.Helper()
	Require(tb, "root", "mkfs.xfs", "mount")
	d := emptyDisk(tb, 320) // the least that XFS wants is 300 MiB
	d.run("mkfs.xfs", "-q", "-m", "reflink=1", d.image)
	d.run("mount", "-t", "xfs", "-o", "loop", d.image, d.Dir)
	tb.Cleanup(func() { d.run("umount", "--lazy", d.Dir) })
	return d.Dir
}
