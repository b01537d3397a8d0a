package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// checkCmd tells what this host can do, what stands in the way of one container's dump, or of a
// checkpoint's restore here.
type checkCmd struct {
	Target string `arg:"" optional:"" name:"container|src" predictor:"any" help:"Container to look at, by ID, prefix or name, or checkpoint; without it, this host is checked."`
	targetFlags
	restoreFlags
	acceptFlags
}

// Help is the long help text.
func (checkCmd) Help() string {
	return `Of a container it tells, without freezing it, what CRIU cannot dump and which option of export helps, how much memory is written and how long CRIU is expected to hold the processes. Of a checkpoint it tells whether restore with the same flags would work here; only the metadata and two or three small images are read, of a registry less than 1 MB, and nothing is kept. A word without / : @ is a container if there is one, else a name of the local store. A blocker gives exit status 5.`
}

// finding is one line of check.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // without it nothing works
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Run implements the command.
func (c *checkCmd) Run(ctx context.Context, a *app) error {
	if c.Target != "" {
		return c.target(ctx, a)
	}
	all := []finding{a.checkUser()}
	all = append(all, a.checkCRIU(ctx)...)
	all = append(all, a.checkRuntimes(ctx), a.checkHost(), a.checkStore(), checkLandlock())
	if absent := criu.Programs(); len(absent) > 0 {
		all = append(all, finding{"programs", false, false, "CRIU cannot run " + strings.Join(absent, ", "), "install them: CRIU needs them for tmpfs and networks"})
	} else {
		all = append(all, finding{"programs", true, false, "all that CRIU runs are installed", ""})
	}
	missing := []string{}
	for _, f := range all {
		if f.Needed && !f.OK {
			missing = append(missing, f.Name)
		}
	}
	if err := a.printFindings(all); err != nil {
		return err
	}
	if len(missing) > 0 {
		return &environmentError{fmt.Errorf("containers cannot be dumped or restored here like this: see %s", strings.Join(missing, ", "))}
	}
	return nil
}

// target tells a container from a checkpoint.
func (c *checkCmd) target(ctx context.Context, a *app) error {
	loc, err := parseLocation(c.Target)
	bare := !strings.ContainsAny(c.Target, "/:@.") && c.Target != "-" || loc.kind == locationName && !strings.ContainsAny(c.Target, "/:@")
	if !bare {
		if err != nil {
			return err
		}
		return c.source(ctx, a, loc)
	}
	found := isRoot()
	var containerErr error
	if found {
		if containerErr = c.container(ctx, a); !errors.Is(containerErr, runtime.ErrNotFound) {
			return containerErr
		}
	}
	if err == nil && a.has(ctx, loc) {
		return c.source(ctx, a, loc)
	}
	if found {
		return containerErr
	}
	return c.container(ctx, a) // says what it needs
}

// has tells whether there is a file, or a name in the local store.
func (a *app) has(ctx context.Context, loc location) bool {
	if loc.kind != locationName {
		return true
	}
	store, err := a.openStore(ctx, false)
	if err != nil {
		return false
	}
	_, err = store.Resolve(ctx, loc.storeName())
	return err == nil
}

func (a *app) printFindings(all []finding) error {
	if a.cli.JSON {
		return a.printJSON(all)
	}
	return a.columns(func(w io.Writer) {
		for _, f := range all {
			state := "ok"
			switch {
			case !f.OK && f.Needed:
				state = "MISSING"
			case !f.OK:
				state = "limited"
			}
			text := f.Text
			if f.Remedy != "" {
				text += "; " + f.Remedy
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", state, f.Name, oneLine(text))
		}
	})
}

func (a *app) checkUser() finding {
	if isRoot() {
		return finding{"user", true, true, "root", ""}
	}
	return finding{"user", false, true, fmt.Sprintf("uid %d", os.Getuid()), "dump and restore need root; the other commands do not"}
}

func (a *app) checkCRIU(ctx context.Context) []finding {
	b, err := a.locateCRIU()
	if err != nil {
		return []finding{{"criu", false, true, err.Error(), "install CRIU 4.1 or later, or name it with --criu"}}
	}
	v, err := b.Version(ctx)
	if err != nil {
		return []finding{{"criu", false, true, err.Error(), "this CRIU does not run here: a newer one may"}}
	}
	all := []finding{{"criu", true, true, v.String() + " (" + b.Path + ")", ""}}
	if !isRoot() {
		return all
	}
	if err := b.Check(ctx); err != nil {
		return append(all, finding{"kernel", false, true, err.Error(), "see what criu check --all says"})
	}
	all = append(all, finding{"kernel", true, true, "has what CRIU needs", ""})
	features, err := b.Features(ctx)
	if err != nil {
		return append(all, finding{"features", false, false, err.Error(), ""})
	}
	return append(all,
		feature("soft-dirty", features.MemTrack, "memory tracking", "pre-dump is not possible on this kernel; plain dumps are"),
		feature("userfaultfd", features.LazyPages, "lazy restore", "memory is always restored at once"))
}

func feature(name string, ok bool, what, without string) finding {
	if ok {
		return finding{name, true, false, what + " is possible", ""}
	}
	return finding{name, false, false, "no " + what, without}
}

func (a *app) checkRuntimes(ctx context.Context) finding {
	found := []string{}
	for _, name := range runtime.Names() {
		r, err := runtime.Lookup(name, "")
		if err != nil || name == runtime.Direct {
			continue
		}
		if v, err := r.Version(ctx); err == nil {
			found = append(found, v)
		}
	}
	if len(found) == 0 {
		return finding{"runtime", false, false, "no OCI runtime", "install runc; restoring with --engine direct works without"}
	}
	return finding{"runtime", true, false, strings.Join(found, ", "), ""}
}

func (a *app) checkHost() finding {
	h, err := runtime.ThisHost()
	if err != nil {
		return finding{"host", false, true, err.Error(), ""}
	}
	return finding{"host", true, true, fmt.Sprintf("%s, Linux %s, cgroups %s, %s %s", h.Architecture, h.Kernel, h.CgroupVersion, h.Distribution, h.Version), ""}
}

func (a *app) checkStore() finding {
	free, err := freeSpaceBelow(a.cli.Root)
	if err != nil {
		return finding{"store", false, false, err.Error(), "choose another place with --root"}
	}
	return finding{"store", true, false, fmt.Sprintf("%s: %s free", a.cli.Root, units.BytesSize(float64(free))), ""}
}

// freeSpaceBelow is the room, in bytes, for a directory that may have to be made first.
func freeSpaceBelow(dir string) (int64, error) {
	for {
		free, err := archive.FreeSpace(dir)
		if !errors.Is(err, os.ErrNotExist) || dir == "/" {
			return free, err
		}
		dir = filepath.Dir(dir)
	}
}
