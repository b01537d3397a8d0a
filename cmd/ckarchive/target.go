package main

import (
	"maps"
	"strings"

	"github.com/ckarchive/ckarchive/oci/runtime"
)

// targetFlags say as what and where a checkpoint is restored. restore and check have them in
// common, so that one does what the other foretold.
type targetFlags struct {
	ID string `name:"id" help:"ID of the restored container; by default that of the dumped one." placeholder:"ID"`
	runtimeFlags
	Engine        string            `help:"Who restores: an OCI runtime, which then manages the container, or ckarchive directly through CRIU." enum:"runtime,direct" default:"runtime" env:"CKARCHIVE_ENGINE"`
	Bundle        string            `help:"Bundle to restore in: its config.json is used as it is, if there is one; else it is made there." type:"path" placeholder:"DIR"`
	Rootfs        string            `help:"Root file system to restore in, changed in place: a copy of the base." type:"path" placeholder:"DIR"`
	Base          string            `help:"Pristine base root file system, of which the container gets a copy: a directory, or the image as HOST/REPO:TAG[@DIGEST], oci:DIR[:TAG] or oci-archive:FILE[:TAG]." placeholder:"DIR|IMAGE"`
	RuntimeFlag   []string          `help:"Global flag of runsc for the new sandbox, as network=host; may be repeated." sep:"none" placeholder:"NAME=VALUE"`
	ConsoleSocket string            `help:"Unix socket that takes the terminal of a container that has one." type:"path" placeholder:"SOCKET"`
	MapMount      map[string]string `help:"Host path for a bind mount of the container; may be repeated." placeholder:"DEST=SOURCE" mapsep:"none"`
	CPU           string            `name:"cpu" help:"How much of the CPU of the dump has to be here: all of it (strict), what programs can use (compatible), or nothing (ignore)." enum:"strict,compatible,ignore" default:"compatible" env:"CKARCHIVE_CPU"`
	Pull          string            `help:"When a registry is asked: ${enum}." enum:"missing,always,never" default:"missing"`
	grantFlags
	remoteFlags
}

// cutMounts lets a DEST of --map-mount have a = in it: every SOURCE begins with a slash then.
func (f *targetFlags) cutMounts() {
	for dest, source := range maps.Clone(f.MapMount) {
		before, after, found := strings.Cut(source, "=/")
		if found && !strings.HasPrefix(source, "/") {
			delete(f.MapMount, dest)
			f.MapMount[dest+"="+before] = "/" + after
		}
	}
}

// check refuses flags that exclude each other.
func (f *targetFlags) check() error {
	f.cutMounts()
	switch {
	case f.Rootfs != "" && f.Base != "":
		return usagef("--rootfs and --base exclude each other: one is changed in place, the other copied")
	case f.Engine == "direct" && f.Runtime != "" && f.Runtime != runtime.Direct:
		return usagef("--engine direct restores without a runtime: leave out --runtime %s", f.Runtime)
	}
	if _, err := f.grants(); err != nil {
		return err
	}
	if f.ID != "" {
		if err := runtime.CheckID(f.ID); err != nil {
			return &usageError{err: err}
		}
	}
	return nil
}
