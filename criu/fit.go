package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	criu_core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
)

// FitOptions say what is known of the images beside themselves.
type FitOptions struct {
	// DumpedBy is the version of CRIU that made them, as "4.2.1"; empty: not known.
	DumpedBy string
	// CPU says how much of the CPU is compared; empty means CPUCompatible.
	CPU CPUMode
	// Confined tells that the processes had a profile or label of a security module.
	Confined bool
	// TCPClose is [Flags].TCPClose of the restore.
	TCPClose bool
	// Scratch is a directory for what is needed for a moment; empty: the one for temporary files.
	Scratch string
}

// Fit tells whether this host and CRIU can restore the images in dir. It reads inventory.img and
// cpuinfo.img, and the architecture of what core images there are; no image but the first need be there. What stands in the way is a Blocker;
// what is right is an Info. Images that are damaged are an [archive.ErrRejected].
func (b Binary) Fit(ctx context.Context, dir string, opts FitOptions) ([]Finding, error) {
	inv, err := readInventory(dir)
	if errors.Is(err, errImageVersion) {
		return []Finding{{Code: "image-version", Severity: Blocker, Text: err.Error(), Remedy: "install a CRIU and a ckarchive as new as those of the dump"}}, nil
	}
	if err != nil {
		return nil, err
	}
	version, err := b.Version(ctx)
	if err != nil {
		return nil, err
	}
	found, err := fitArchitecture(dir)
	if err != nil {
		return nil, err
	}
	found = append(found, fitVersion(version, opts.DumpedBy))
	cpu, err := b.CheckCPU(ctx, dir, opts.Scratch, cmp.Or(opts.CPU, CPUCompatible))
	if err != nil {
		return nil, err
	}
	found = append(found, cpu...)
	found = append(found, fitModule(inv.GetLsmtype(), securityModule("/"), opts.Confined))
	if inv.GetTcpClose() && !opts.TCPClose {
		found = append(found, Finding{
			Code: "tcp-close", Severity: Blocker, Option: "tcp-close",
			Text: "the images were dumped with the tcp-close option, without which CRIU refuses them", Remedy: "use the tcp-close option",
		})
	}
	if plugins := inv.GetPluginsEntry().GetPlugins(); len(plugins) > 0 {
		found = append(found, Finding{
			Code: "plugins", Severity: Warning, Count: len(plugins), Subject: strings.Join(plugins, ", "),
			Text: "plugins of CRIU took part in the dump", Remedy: "install the same plugins, and the devices that they are for",
		})
	}
	return found, nil
}

// fitArchitecture judges by whatever core images are there.
func fitArchitecture(dir string) ([]Finding, error) {
	names, err := listImages(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "core-") {
			continue
		}
		core, err := readEntry[criu_core.CoreEntry](dir, name, magicCore)
		if err != nil {
			return nil, err
		}
		if arch, _ := architecture(core.GetMtype()); arch != runtime.GOARCH {
			return []Finding{{
				Code: "image-architecture", Severity: Blocker, Subject: name, Text: fmt.Sprintf("it is of architecture %s, this host is %s", arch, runtime.GOARCH),
				Remedy: "restore it on a host of that architecture",
			}}, nil
		}
	}
	return nil, nil
}

// fitVersion compares CRIU here with the one that dumped: a newer one reads all older images.
func fitVersion(here Version, dumpedBy string) Finding {
	f := Finding{Code: "criu", Severity: Info, Text: "CRIU " + here.String()}
	major, minor, ok := parseVersion(dumpedBy)
	if ok && !here.AtLeast(major, minor) {
		f.Code, f.Severity = "criu-older", Warning
		f.Text = fmt.Sprintf("CRIU %s dumped it, and %s is older: it may not know all that is in the images", dumpedBy, here)
		f.Remedy = "install CRIU " + dumpedBy + " or later"
	}
	return f
}

// parseVersion reads the first two numbers of a version.
func parseVersion(s string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(s, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, err1 == nil && err2 == nil
}

// fitModule compares the security modules: CRIU gives a process its label back, or refuses.
func fitModule(dumped, here inventory.Lsmtype, confined bool) Finding {
	f := Finding{Code: "lsm", Severity: Info, Text: moduleName(here)}
	if dumped == here || dumped == inventory.Lsmtype_NO_LSM {
		return f
	}
	f.Text = fmt.Sprintf("the dump was made under %s, this host has %s", moduleName(dumped), moduleName(here))
	if confined {
		f.Code, f.Severity, f.Remedy = "lsm-mismatch", Blocker, "restore it on a host with "+moduleName(dumped)
	}
	return f
}

func moduleName(t inventory.Lsmtype) string {
	switch t {
	case inventory.Lsmtype_APPARMOR:
		return "AppArmor"
	case inventory.Lsmtype_SELINUX:
		return "SELinux"
	default:
		return "no security module"
	}
}

// securityModule finds the module as CRIU does (criu/lsm.c), on the host whose root directory is given.
func securityModule(root string) inventory.Lsmtype {
	there := func(path string) bool {
		_, err := os.Stat(root + path)
		return err == nil
	}
	switch {
	case there("sys/kernel/security/apparmor"):
		return inventory.Lsmtype_APPARMOR
	case there("sys/fs/selinux/enforce"):
		return inventory.Lsmtype_SELINUX
	}
	return inventory.Lsmtype_NO_LSM
}
