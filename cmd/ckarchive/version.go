package main

import (
	"context"
	"runtime/debug"

	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// versionCmd prints versions.
type versionCmd struct{}

// Run implements the command.
func (c *versionCmd) Run(ctx context.Context, a *app) error {
	rows := [][2]string{{"ckarchive", versionString()}}
	if b, err := a.locateCRIU(); err == nil {
		if v, err := b.Version(ctx); err == nil {
			rows = append(rows, [2]string{"criu", v.String() + " (" + b.Path + ")"})
		}
	}
	for _, name := range runtime.Names() {
		r, err := runtime.Lookup(name, "")
		if err != nil || name == runtime.Direct {
			continue
		}
		if v, err := r.Version(ctx); err == nil {
			rows = append(rows, [2]string{name, v + " (" + r.Path + ")"})
		}
	}
	return a.printTable(rows)
}

// versionString is the version of this program.
func versionString() string {
	if version != "dev" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

func (a *app) locateCRIU() (criu.Binary, error) { return criu.Find(a.cli.CRIU, a.getenv("PATH")) }

// findCRIU finds a CRIU that works.
func (a *app) findCRIU(ctx context.Context) (criu.Binary, error) {
	b, err := a.locateCRIU()
	if err != nil {
		return b, withHint(&environmentError{err}, "install CRIU 4.1 or later, or name it with --criu; ckarchive check tells what is missing")
	}
	if _, err := b.Version(ctx); err != nil {
		return b, withHint(&environmentError{err}, "ckarchive check tells what is wrong with this CRIU")
	}
	return b, nil
}
