package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// host compares this host with that of the dump.
func (s *sourceCheck) host() {
	here, err := runtime.ThisHost()
	if err != nil {
		s.refused("host", err)
		return
	}
	was := s.meta.Host
	if was.Kernel != "" {
		s.add(fitKernel(was.Kernel, here.Kernel))
	}
	if was.CgroupVersion != "" {
		s.add(fitCgroups(was.CgroupVersion, here.CgroupVersion, s.meta.Externals))
	}
}

// fitKernel compares releases such as 6.1.0-13-amd64: a newer kernel has what an older one had.
func fitKernel(was, here string) reason {
	r := reason{Code: "kernel", Verdict: verdictOK, Text: "Linux " + here}
	var wasMajor, wasMinor, major, minor int
	_, err1 := fmt.Sscanf(was, "%d.%d", &wasMajor, &wasMinor)
	_, err2 := fmt.Sscanf(here, "%d.%d", &major, &minor)
	if err1 == nil && err2 == nil && (major < wasMajor || major == wasMajor && minor < wasMinor) {
		r.Code, r.Verdict = "kernel-older", verdictWarning
		r.Text = fmt.Sprintf("it was dumped on Linux %s, and Linux %s is older: what programs use of the kernel may be missing", was, here)
		r.Remedy = "restore it on a host with that kernel or a later one"
	}
	return r
}

// fitCgroups compares the versions. A container that sees the hierarchies of v1 cannot get them
// from a host that has none.
func fitCgroups(was, here string, externals []archive.External) reason {
	r := reason{Code: "cgroups", Verdict: verdictOK, Text: "cgroups " + here}
	if (was == "v2") == (here == "v2") {
		return r
	}
	r.Code, r.Verdict = "cgroup-version", verdictWarning
	r.Text = fmt.Sprintf("it was dumped with cgroups %s, this host has %s: its limits are made anew, and programs that read them may be surprised", was, here)
	r.Remedy = "restore it on a host with cgroups " + was
	for _, e := range externals {
		if here == "v2" && strings.HasPrefix(e.Path, "/sys/fs/cgroup/") {
			r.Verdict = verdictBlocker
			r.Text = fmt.Sprintf("the container has the cgroup hierarchy %s mounted, and cgroups %s have none", e.Path, here)
			break
		}
	}
	return r
}

// network tells of ports that are taken, and of connections whose addresses have to be there.
func (s *sourceCheck) network(ctx context.Context, dir string) error {
	if flags := s.flags(); flags.TCPEstablished {
		s.add(reason{
			Code: "tcp-established", Verdict: verdictWarning, Text: "established connections come back only where their addresses exist",
			Remedy: "bring up the addresses first, or give the connections up with --tcp-close",
		})
	}
	if hasNetwork(s.spec) {
		s.add(reason{Code: "network", Verdict: verdictOK, Text: "a network namespace that is not the host's"})
		return nil
	}
	listening, err := criu.Listening(dir)
	if err != nil {
		return err
	}
	taken := 0
	for _, address := range listening {
		var config net.ListenConfig
		l, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			taken++
			s.add(reason{
				Code: "port-taken", Verdict: verdictBlocker, Text: fmt.Sprintf("it listens on %s of the host: %v", address, err),
				Remedy: "end what has the port, or restore it where it is free",
			})
			continue
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	if taken == 0 {
		s.add(reason{Code: "network", Verdict: verdictOK, Text: fmt.Sprintf("that of the host; %d ports that it listens on are free", len(listening))})
	}
	return nil
}

// checkFree tells whether a container may have the ID.
func (r *restore) checkFree(ctx context.Context) (string, error) {
	if r.id == "" || r.runtime.Name == "" {
		return "", nil
	}
	free := fmt.Sprintf("%q is free", r.id)
	if r.runtime.Name != runtime.Direct {
		err := r.runtime.CheckFree(r.id)
		if errors.Is(err, fs.ErrPermission) && !isRoot() {
			return "", nil // check says by itself that only root restores
		}
		return free, err
	}
	_, err := r.runtime.Container(ctx, r.id)
	switch {
	case err == nil:
		return "", fmt.Errorf("%w: %q was restored directly", runtime.ErrExists, r.id)
	case !errors.Is(err, runtime.ErrNotFound):
		return "", err
	}
	return free, nil
}
