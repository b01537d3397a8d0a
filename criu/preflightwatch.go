package criu

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// irmapHints are the directories that CRIU searches for a watched file when the
// kernel cannot open it by its handle, beside those that it is told.
//
//nolint:gochecknoglobals // a constant table
var irmapHints = []string{
	"/etc", "/var/spool", "/var/log", "/usr/share/dbus-1/services", "/usr/share/dbus-1/system-services",
	"/var/lib/polkit-1/localauthority", "/usr/share/polkit-1/actions", "/lib/udev",
}

// maxIrmapEntries is how many files are looked at in search of a watched one.
const maxIrmapEntries = 1 << 16

// watches finds what is watched with inotify or fanotify and cannot be found
// again: overlay file systems open no handles.
func (p *preflight) watches(ctx context.Context) error {
	for _, t := range p.survey.tasks {
		for i, f := range t.files {
			for _, w := range t.notes[i].watches {
				if err := ctx.Err(); err != nil {
					return err
				}
				if p.opensByHandle(t, w) || w.atRoot(t.pid) || w.findIn(t.pid, irmapHints) {
					continue
				}
				subject := fmt.Sprintf("%s, %s", fileSubject(t, f), w.describe(t))
				key := fmt.Sprintf("%x:%x", w.dev, w.inode)
				if len(p.opts.IrmapPaths) > 0 && w.findIn(t.pid, p.opts.IrmapPaths) {
					p.addAs(Info, "inotify-overlay", key, subject)
					continue
				}
				p.add("inotify-overlay", key, subject)
			}
		}
	}
	return nil
}

// describe tells what is known of a watched file: its number and the file system.
func (w watch) describe(t taskFacts) string {
	for _, m := range t.mounts {
		if unix.Mkdev(uint32(m.Major), uint32(m.Minor)) == w.dev { //nolint:gosec // device numbers
			return fmt.Sprintf("watching inode %d of %s (%s)", w.inode, m.Mountpoint, m.FSType)
		}
	}
	return fmt.Sprintf("watching inode %d of a file system that is not mounted", w.inode)
}

// opensByHandle tells whether a watched file can be opened through a mount of its
// file system, as CRIU does.
func (p *preflight) opensByHandle(t taskFacts, w watch) bool {
	for _, m := range t.mounts {
		dev := unix.Mkdev(uint32(m.Major), uint32(m.Minor)) //nolint:gosec // device numbers
		if dev != w.dev {
			continue
		}
		fd, st, err := openInside(t.pid, m.Mountpoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK)
		if err != nil {
			continue // a file, or mounted over
		}
		if st.Dev != dev {
			unix.Close(fd) //nolint:errcheck // read side
			continue
		}
		file, err := unix.OpenByHandleAt(fd, unix.NewFileHandle(w.handleType, w.handle), unix.O_PATH|unix.O_CLOEXEC)
		unix.Close(fd) //nolint:errcheck // read side
		if err == nil {
			unix.Close(file) //nolint:errcheck // read side
			return true
		}
	}
	return false
}

// is tells whether a file is the watched one.
func (w watch) is(st unix.Stat_t) bool { return st.Dev == w.dev && st.Ino == w.inode }

// atRoot tells whether the root directory is what is watched, which CRIU looks at too.
func (w watch) atRoot(pid int) bool {
	fd, st, err := openInside(pid, "/", unix.O_PATH)
	if err != nil {
		return false
	}
	unix.Close(fd) //nolint:errcheck // read side
	return w.is(st)
}

// findIn searches directories of a process for the watched file.
func (w watch) findIn(pid int, dirs []string) bool {
	root, err := os.OpenRoot(procPath(pid, "root"))
	if err != nil {
		return false
	}
	defer root.Close() //nolint:errcheck // read side
	left := maxIrmapEntries
	for _, dir := range dirs {
		found := false
		visit := func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // a directory that cannot be read holds nothing to find
			}
			if left--; left < 0 {
				return fs.SkipAll
			}
			info, err := d.Info()
			if err != nil {
				return nil //nolint:nilerr // it is gone
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Dev == w.dev && st.Ino == w.inode {
				found = true
				return fs.SkipAll
			}
			return nil
		}
		name := cmp.Or(strings.TrimPrefix(path.Clean("/"+dir), "/"), ".")
		if err := fs.WalkDir(root.FS(), name, visit); err == nil && found {
			return true
		}
	}
	return false
}
