package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/criu"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// TestDumpFlags gives each flag alone and wants it in the request of the dump, in what a runtime is asked for and
// in what the archive keeps.
func TestDumpFlags(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "criu.conf")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		flag, value string
		taken       func(criu.DumpOptions) bool
		kept        bool // in the archive
	}{
		{"tcp-established", "", func(o criu.DumpOptions) bool { return o.TCPEstablished }, true},
		{"tcp-close", "", func(o criu.DumpOptions) bool { return o.TCPClose }, true},
		{"tcp-skip-in-flight", "", func(o criu.DumpOptions) bool { return o.TCPSkipInFlight }, true},
		{"file-locks", "", func(o criu.DumpOptions) bool { return o.FileLocks }, true},
		{"ext-unix-sk", "", func(o criu.DumpOptions) bool { return o.ExtUnixSk }, true},
		{"shell-job", "", func(o criu.DumpOptions) bool { return o.ShellJob }, true},
		{"link-remap", "", func(o criu.DumpOptions) bool { return o.LinkRemap }, true},
		{"ghost-limit", "2MiB", func(o criu.DumpOptions) bool { return o.GhostLimit == 2<<20 }, true},
		{"external", "unix[7]", func(o criu.DumpOptions) bool { return slices.Equal(o.External, []string{"unix[7]"}) }, true},
		{"external", "/run/x,y", func(o criu.DumpOptions) bool { return slices.Equal(o.ExternalSockets, []string{"/run/x,y"}) }, true},
		{"external", "@x", func(o criu.DumpOptions) bool { return slices.Equal(o.ExternalSockets, []string{"@x"}) }, true},
		{"force-irmap", "", func(o criu.DumpOptions) bool { return o.ForceIrmap }, true},
		{"irmap-path", "/srv", func(o criu.DumpOptions) bool { return slices.Equal(o.IrmapPaths, []string{"/srv"}) }, true},
		{"network-lock", "skip", func(o criu.DumpOptions) bool { return o.NetworkLock == "skip" }, true},
		{"manage-cgroups-mode", "strict", func(o criu.DumpOptions) bool { return o.CgroupMode == "strict" }, true},
		{"empty-ns", "network", func(o criu.DumpOptions) bool { return o.EmptyNetNS }, true},
		{"skip-file-rwx-check", "", func(o criu.DumpOptions) bool { return o.SkipRWXCheck }, true},
		{"mntns-compat-mode", "", func(o criu.DumpOptions) bool { return o.MountCompat }, true},
		{"criu-config", file, func(o criu.DumpOptions) bool { return o.ConfigFile == file }, false},
		{"freeze-timeout", "3s", func(o criu.DumpOptions) bool { return o.FreezeTimeout.Seconds() == 3 }, false},
		{"work-path", dir, func(o criu.DumpOptions) bool { return o.WorkDir == dir }, false},
		{"parent", dir, func(o criu.DumpOptions) bool { return o.Parent == dir }, false},
		{"auto-dedup", "", func(o criu.DumpOptions) bool { return o.AutoDedup }, false},
		{"page-server", "127.0.0.1:1", func(o criu.DumpOptions) bool { return o.PageServer == "127.0.0.1:1" }, false},
		{"pre-dump", "", nil, false},
		{"lazy-pages", "", nil, true},
	} {
		arg, want := "--"+tt.flag, "true"
		if tt.value != "" {
			arg, want = arg+"="+tt.value, tt.value
		}
		c, err := parseExport(t, t.TempDir(), arg)
		if err != nil {
			t.Errorf("%s: %v", arg, err)
			continue
		}
		x := &export{cmd: c, ctr: &runtime.Container{}}
		if x.ghostLimit, err = ghostLimit(c.GhostLimit); err != nil {
			t.Fatal(err)
		}
		if tt.taken != nil && !tt.taken(x.dumpOptions("images", "work")) {
			t.Errorf("%s: not in the options of the dump", arg)
		}
		if got := c.given(); got[tt.flag] != want || len(got) != 1 {
			t.Errorf("%s: given is %v", arg, got)
		}
		if got, ok := c.options()[tt.flag]; ok != tt.kept || ok && got != want {
			t.Errorf("%s: the archive keeps %v", arg, c.options())
		}
	}
	c, err := parseExport(t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got := c.given(); len(got) > 0 {
		t.Errorf("without flags %v is given", got)
	}
	if got := c.options(); !maps.Equal(got, map[string]string{"engine": "direct"}) {
		t.Errorf("without flags the archive keeps %v", got)
	}
}

// TestExportRules are the command lines that cannot be meant, and those beside them that can.
func TestExportRules(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ dest, args, says string }{
		{"-", "", "--leave-running"},
		{"-", "--leave-paused", "--leave-running"},
		{"-", "--leave-running", ""},
		{"oci-archive:x.tar", "", "oci-archive"},
		{"x.tar", "--leave-running --leave-paused", "exclude"},
		{"x.tar", "--leave-running --delete", "exclude"},
		{"x.tar", "--leave-paused --delete", "exclude"},
		{"x.tar", "--tcp-established --tcp-close", "exclude"},
		{"dir:x", "--auto-dedup", "--parent"},
		{"dir:x", "--auto-dedup --parent " + dir, ""},
		{"x.tar", "--pre-dump", "pre-dump"},
		{"dir:x", "--pre-dump", ""},
		{"dir:x", "--pre-dump --delete", "pre-dump"},
		{"dir:x", "--pre-dump --leave-running", "pre-dump"},
		{"x.tar", "--parent " + dir, "--parent"},
		{"dir:x", "--parent " + dir, ""},
		{"dir:x", "--parent " + dir + "/absent", "--parent"},
		{"x.tar", "--page-server 127.0.0.1:1", "page-server"},
		{"oci:x", "--page-server 127.0.0.1:1", "page-server"},
		{"dir:x", "--page-server 127.0.0.1:1", ""},
		{"dir:x", "--page-server localhost:1", "IP address"},
		{"dir:x", "--page-server 127.0.0.1", "ADDRESS:PORT"},
		{"dir:x", "--lazy-pages", "--page-server"},
		{"dir:x", "--lazy-pages --page-server 127.0.0.1:1", ""},
		{"dir:x", "--lazy-pages --page-server 127.0.0.1:1 --leave-running", "go on"},
		{"dir:x", "--lazy-pages --page-server 127.0.0.1:1 --leave-paused", "go on"},
		{"dir:x", "--lazy-pages --page-server 127.0.0.1:1 --parent " + dir, "--parent"},
		{"dir:x", "--lazy-pages --page-server 127.0.0.1:1 --engine runtime", "runtime"},
		{"dir:x", "--status-fd 3", "--lazy-pages"},
		{"x.tar", "--freeze-timeout 900ms", "seconds"},
		{"x.tar", "--freeze-timeout=-1s", "seconds"},
		{"x.tar", "--engine runtime --tcp-established", "--engine direct"},
		{"x.tar", "--engine runtime --tcp-established --leave-running", ""},
		{"x.tar", "--criu-config " + dir + "/absent", "--criu-config"},
	} {
		c, err := parseExport(t, t.TempDir(), strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		dest, err := parseLocation(tt.dest)
		if err != nil {
			t.Fatal(err)
		}
		err = c.checkFlags(dest)
		var usage *usageError
		switch {
		case tt.says == "" && err != nil:
			t.Errorf("%s %s: %v", tt.dest, tt.args, err)
		case tt.says != "" && (!errors.As(err, &usage) || !strings.Contains(usage.Error()+" "+usage.hint, tt.says)):
			t.Errorf("%s %s: %v, want a usage error that says %q", tt.dest, tt.args, err, tt.says)
		}
	}
}
