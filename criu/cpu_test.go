package criu

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cpuinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// x86 is a CPU with the features, named as in cpuidWords.
func x86(t *testing.T, features string) *cpuinfo.CpuinfoX86Entry {
	t.Helper()
	e := &cpuinfo.CpuinfoX86Entry{
		VendorId: cpuinfo.CpuinfoX86Entry_AMD.Enum(), CpuFamily: proto.Uint32(25), Model: proto.Uint32(1), Stepping: proto.Uint32(0),
		CapabilityVer: proto.Uint32(2), Capability: make([]uint32, len(cpuidWords)), XfeaturesMask: proto.Uint64(7), XsaveSize: proto.Uint32(832),
	}
	for want := range strings.FieldsSeq(features) {
		found := false
		for n, f := range cpuFeatures() {
			if f.name == want {
				e.Capability[n/wordBits] |= 1 << (n % wordBits)
				found = true
			}
		}
		if !found {
			t.Fatalf("no feature is called %q", want)
		}
	}
	return e
}

func TestCompareCPU(t *testing.T) {
	for _, tt := range []struct {
		name               string
		edit               func(dumped, here *cpuinfo.CpuinfoX86Entry)
		code               string // of the finding
		compatible, strict Severity
	}{
		{"the same", func(_, _ *cpuinfo.CpuinfoX86Entry) {}, "cpu", Info, Info},
		{"instruction", func(_, here *cpuinfo.CpuinfoX86Entry) { here.Capability = x86(t, "sse2 erms").GetCapability() }, "cpu-features", Blocker, Blocker},
		{"hint", func(_, here *cpuinfo.CpuinfoX86Entry) { here.Capability = x86(t, "sse2 avx2").GetCapability() }, "cpu-features-kernel", "", Blocker},
		{"unnamed bit", func(dumped, _ *cpuinfo.CpuinfoX86Entry) { dumped.Capability[8] = 1 << 31 }, "cpu-features-kernel", "", Blocker},
		{"more here", func(_, here *cpuinfo.CpuinfoX86Entry) {
			here.Capability = x86(t, "sse2 avx2 erms avx512f").GetCapability()
		}, "cpu", Info, Info},
		{"fewer words in the record", func(dumped, _ *cpuinfo.CpuinfoX86Entry) { dumped.Capability = dumped.GetCapability()[:12] }, "cpu", Info, Info},
		{"vendor", func(_, here *cpuinfo.CpuinfoX86Entry) { here.VendorId = cpuinfo.CpuinfoX86Entry_INTEL.Enum() }, "cpu-vendor", Warning, Blocker},
		{"registers", func(_, here *cpuinfo.CpuinfoX86Entry) { here.XfeaturesMask = proto.Uint64(3) }, "cpu-state", Blocker, Blocker},
		{"smaller state", func(_, here *cpuinfo.CpuinfoX86Entry) { here.XsaveSize = proto.Uint32(576) }, "cpu-state-size", Blocker, Blocker},
		{"larger state", func(_, here *cpuinfo.CpuinfoX86Entry) { here.XsaveSize = proto.Uint32(2696) }, "cpu-state-size", Warning, Blocker},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for mode, want := range map[CPUMode]Severity{CPUCompatible: tt.compatible, CPUStrict: tt.strict} {
				dumped, here := x86(t, "sse2 avx2 erms"), x86(t, "sse2 avx2 erms")
				tt.edit(dumped, here)
				found, err := compareCPU(&cpuinfo.CpuinfoEntry{X86Entry: []*cpuinfo.CpuinfoX86Entry{dumped}}, &cpuinfo.CpuinfoEntry{X86Entry: []*cpuinfo.CpuinfoX86Entry{here}}, mode)
				if err != nil || len(found) != 1 {
					t.Fatalf("%s: %+v, %v, want one finding", mode, found, err)
				}
				if want == "" {
					if found[0].Severity != Info {
						t.Errorf("%s: %+v, want nothing wrong", mode, found[0])
					}
					continue
				}
				if found[0].Code != tt.code || found[0].Severity != want {
					t.Errorf("%s: %+v, want a %s called %s", mode, found[0], want, tt.code)
				}
			}
		})
	}
}

func TestCompareOtherCPUs(t *testing.T) {
	amd := &cpuinfo.CpuinfoEntry{X86Entry: []*cpuinfo.CpuinfoX86Entry{x86(t, "sse2")}}
	power := func(words ...uint64) *cpuinfo.CpuinfoEntry {
		return &cpuinfo.CpuinfoEntry{Ppc64Entry: []*cpuinfo.CpuinfoPpc64Entry{{Hwcap: words}}}
	}
	if found, err := compareCPU(power(3), amd, CPUCompatible); err != nil || found[0].Severity != Blocker {
		t.Errorf("another architecture: %+v, %v", found, err)
	}
	if found, err := compareCPU(power(3, 4), power(1, 4), CPUCompatible); err != nil || found[0].Subject != "hwcap 0:1" {
		t.Errorf("a missing bit: %+v, %v", found, err)
	}
	if found, err := compareCPU(power(1), power(3), CPUStrict); err != nil || found[0].Severity != Info {
		t.Errorf("more here: %+v, %v", found, err)
	}
	if _, err := compareCPU(&cpuinfo.CpuinfoEntry{}, amd, CPUCompatible); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("an empty record: %v, want ErrRejected", err)
	}
}

// The bits of this machine's record have the names that the kernel gives them.
func TestCPUFeatureNames(t *testing.T) {
	b := requireReal(t)
	dir := t.TempDir()
	must(t, b.CPUInfo(t.Context(), dir))
	record, err := readEntry[cpuinfo.CpuinfoEntry](dir, archive.CPUInfo, magicCPUInfo)
	must(t, err)
	if len(record.GetX86Entry()) == 0 {
		t.Skip("the names are those of x86")
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	must(t, err)
	flags := map[string]bool{"pni": true}
	for line := range strings.Lines(string(text)) {
		if name, list, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			for f := range strings.FieldsSeq(list) {
				flags[f] = true
			}
		}
	}
	// What the kernel does not show, calls otherwise, or does not trust (RDSEED of Zen 5).
	hidden := map[string]bool{"sse3": flags["pni"], "osxsave": true, "movdiri": true, "rdseed": true, "always": true, "mfence_rdtsc": true, "lfence_rdtsc": true, "syscall32": true, "sysenter32": true}
	used, rest := missingFeatures(record.GetX86Entry()[0].GetCapability(), nil)
	for _, name := range used {
		if !flags[name] && !hidden[name] {
			t.Errorf("this CPU has %s, by its record; the kernel does not say so", name)
		}
	}
	t.Logf("of no use to programs: %q", rest)
	for _, name := range []string{"sse2", "avx2", "aes", "popcnt", "avx512f", "sha_ni", "rdpid"} {
		if there := strings.Contains(" "+strings.Join(used, " ")+" ", " "+name+" "); there != flags[name] {
			t.Errorf("%s: in the record %v, in /proc/cpuinfo %v", name, there, flags[name])
		}
	}
}

func TestFitVersion(t *testing.T) {
	here := Version{Major: 4, Minor: 2}
	for dumpedBy, want := range map[string]string{"": "criu", "4.2.1": "criu", "3.19": "criu", "4.3": "criu-older", "5.0.1": "criu-older", "unknown": "criu"} {
		if f := fitVersion(here, dumpedBy); f.Code != want {
			t.Errorf("dumped by %q: %+v, want %s", dumpedBy, f, want)
		}
	}
}

func TestFitModule(t *testing.T) {
	none, armor, linux := inventory.Lsmtype_NO_LSM, inventory.Lsmtype_APPARMOR, inventory.Lsmtype_SELINUX
	for _, tt := range []struct {
		dumped, here inventory.Lsmtype
		confined     bool
		want         Severity
	}{
		{none, armor, true, Info}, {armor, armor, true, Info}, {armor, none, false, Info}, {armor, none, true, Blocker}, {linux, armor, true, Blocker},
	} {
		if f := fitModule(tt.dumped, tt.here, tt.confined); f.Severity != tt.want {
			t.Errorf("%v: %+v", tt, f)
		}
	}
	root := t.TempDir() + "/"
	if got := securityModule(root); got != none {
		t.Errorf("an empty host has %v", got)
	}
	must(t, os.MkdirAll(root+"sys/fs/selinux/enforce", 0o755))
	if got := securityModule(root); got != linux {
		t.Errorf("a host with SELinux has %v", got)
	}
	must(t, os.MkdirAll(root+"sys/kernel/security/apparmor", 0o755))
	if got := securityModule(root); got != armor {
		t.Errorf("a host with AppArmor has %v", got)
	}
}
