package main

import (
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// inheritance is the syntax of --inherit-fd, which is CRIU's.
var inheritance = regexp.MustCompile(`^fd\[([0-9]{1,6})\]:(\S+)$`)

// bareInode is what CRIU's help calls pipes and sockets; it knows them as the kernel does.
var bareInode = regexp.MustCompile(`^(pipe|socket)(\[[0-9]+\])$`)

// inherited reads --inherit-fd: descriptors of this process, by CRIU's key of what they become in
// the container. They stay the caller's.
func (f *restoreFlags) inherited() (map[string]int, error) {
	fds := map[string]int{}
	for _, text := range f.InheritFD {
		parts := inheritance.FindStringSubmatch(text)
		if parts == nil {
			return nil, usagef("--inherit-fd %s: want fd[N]:KEY, as fd[3]:socket:[77]", text)
		}
		fd, err := strconv.Atoi(parts[1])
		if err != nil {
			return nil, usagef("--inherit-fd %s: %v", text, err)
		}
		// Go closes what it opens for itself when a program is started; the caller's stays open.
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			return nil, usagef("--inherit-fd %s: ckarchive was started without a descriptor %d", text, fd)
		}
		key := bareInode.ReplaceAllString(parts[2], "$1:$2")
		if _, twice := fds[key]; twice {
			return nil, usagef("--inherit-fd %s: %s was given twice", text, key)
		}
		fds[key] = fd
	}
	return fds, nil
}

// inheritedFiles are the descriptors of --inherit-fd as files, which must not be closed.
func (f *restoreFlags) inheritedFiles() (map[string]*os.File, error) {
	fds, err := f.inherited()
	if err != nil {
		return nil, err
	}
	files := map[string]*os.File{}
	for key, fd := range fds {
		// A copy: the end of an os.File closes its descriptor.
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		files[key] = os.NewFile(uintptr(own), key)
	}
	return files, nil
}
