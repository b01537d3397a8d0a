package criu

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/cpuinfo"

	"github.com/ckarchive/ckarchive/archive"
)

// CPUMode says how much of the CPU of a dump has to be there at the restore.
type CPUMode string

// The modes.
const (
	// CPUStrict wants the same vendor, every feature, and register state of the same size.
	CPUStrict CPUMode = "strict"
	// CPUCompatible, the default, wants the instructions and the register state that programs
	// can use.
	CPUCompatible CPUMode = "compatible"
	// CPUIgnore compares nothing.
	CPUIgnore CPUMode = "ignore"
)

// CheckCPU holds the CPU that cpuinfo.img in dir records against that of this host. A record that
// is not there, as runc and Podman leave none, is a Warning. CRIU itself does not compare at a
// restore unless it is told to, and then refuses more than has to be. For a moment it needs a directory in scratch; empty
// means the one for temporary files.
func (b Binary) CheckCPU(ctx context.Context, dir, scratch string, mode CPUMode) (_ []Finding, err error) {
	if mode == CPUIgnore {
		return []Finding{{Code: "cpu-ignored", Severity: Warning, Text: "the CPUs are not compared", Remedy: "leave out the cpu option to compare them"}}, nil
	}
	dumped, err := readEntry[cpuinfo.CpuinfoEntry](dir, archive.CPUInfo, magicCPUInfo)
	if errors.Is(err, os.ErrNotExist) {
		return []Finding{{
			Code: "cpu-unknown", Severity: Warning, Text: "the images have no record of the CPU of the dump: they may need features that this one lacks",
			Remedy: "restore it on the same kind of CPU, or dump it again with ckarchive",
		}}, nil
	}
	if err != nil {
		return nil, err
	}
	scratch, remove, err := archive.Scratch(scratch)
	if err != nil {
		return nil, fmt.Errorf("compare the CPU: %w", err)
	}
	defer remove() //nolint:errcheck // the answer is known
	if err := b.CPUInfo(ctx, scratch); err != nil {
		return nil, err
	}
	here, err := readEntry[cpuinfo.CpuinfoEntry](scratch, archive.CPUInfo, magicCPUInfo)
	if err != nil {
		return nil, err
	}
	return compareCPU(dumped, here, mode)
}

// compareCPU gives what is missing here, or one Info.
func compareCPU(dumped, here *cpuinfo.CpuinfoEntry, mode CPUMode) ([]Finding, error) {
	var found []Finding
	switch {
	case len(dumped.GetX86Entry()) == 1 && len(here.GetX86Entry()) == 1:
		found = compareX86(dumped.GetX86Entry()[0], here.GetX86Entry()[0], mode)
	case len(dumped.GetPpc64Entry()) > 0 && len(here.GetPpc64Entry()) > 0:
		found = compareHWCAP(dumped.GetPpc64Entry()[0].GetHwcap(), here.GetPpc64Entry()[0].GetHwcap())
	case len(dumped.GetS390Entry()) > 0 && len(here.GetS390Entry()) > 0:
		found = compareHWCAP(dumped.GetS390Entry()[0].GetHwcap(), here.GetS390Entry()[0].GetHwcap())
	case len(dumped.GetX86Entry())+len(dumped.GetPpc64Entry())+len(dumped.GetS390Entry()) != 1:
		return nil, imageError(archive.CPUInfo, "it does not hold one CPU")
	default:
		found = []Finding{{Code: "cpu-features", Severity: Blocker, Text: "the CPU of the dump is of another architecture", Remedy: otherCPU}}
	}
	if len(found) == 0 {
		found = append(found, Finding{Code: "cpu", Severity: Info, Text: "this CPU has what that of the dump had"})
	}
	return found, nil
}

// otherCPU is the remedy where the CPU does not fit.
const otherCPU = "restore it on a CPU like that of the dump; the cpu option says how much is compared"

func compareX86(dumped, here *cpuinfo.CpuinfoX86Entry, mode CPUMode) []Finding {
	var found []Finding
	strict := Warning
	if mode == CPUStrict {
		strict = Blocker
	}
	add := func(severity Severity, code, text string, subjects []string) {
		found = append(found, Finding{
			Code: code, Severity: severity, Count: len(subjects), Subject: strings.Join(subjects, ", "), Text: text, Remedy: otherCPU, Option: "cpu",
		})
	}
	used, rest := missingFeatures(dumped.GetCapability(), here.GetCapability())
	if len(used) > 0 {
		add(Blocker, "cpu-features", "this CPU lacks instructions that the one of the dump had", used)
	}
	if len(rest) > 0 && mode == CPUStrict {
		add(Blocker, "cpu-features-kernel", "this CPU lacks features that the one of the dump had", rest)
	}
	if state := missingState(dumped, here); len(state) > 0 {
		add(Blocker, "cpu-state", "this CPU lacks registers that the one of the dump had", state)
	}
	if dumped.GetVendorId() != here.GetVendorId() {
		add(strict, "cpu-vendor", "the CPU of the dump was made by another vendor", []string{dumped.GetVendorId().String(), here.GetVendorId().String()})
	}
	// Programs learn the size when they start, and some save all registers there are.
	switch was, is := dumped.GetXsaveSize(), here.GetXsaveSize(); {
	case was == 0 || was == is: // old images do not tell
	case was > is:
		add(Blocker, "cpu-state-size", "this CPU saves less register state", []string{fmt.Sprintf("%d bytes here, %d at the dump", is, was)})
	default:
		add(strict, "cpu-state-size", "this CPU saves more register state than programs made room for", []string{fmt.Sprintf("%d bytes here, %d at the dump", is, was)})
	}
	return found
}

// missingFeatures gives the names of features that are only in dumped: those that programs use,
// and the rest.
func missingFeatures(dumped, here []uint32) (used, rest []string) {
	for word, w := range dumped {
		if word < len(here) {
			w &^= here[word]
		} // a later version of the record has more words
		for ; w != 0; w &= w - 1 {
			if f := featureOf(word, bits.TrailingZeros32(w)); f.used {
				used = append(used, f.name)
			} else {
				rest = append(rest, f.name)
			}
		}
	}
	return used, rest
}

func missingState(dumped, here *cpuinfo.CpuinfoX86Entry) []string {
	if here.XfeaturesMask == nil {
		return nil
	}
	var missing []string
	names := strings.Fields(xstateNames)
	for w := dumped.GetXfeaturesMask() &^ here.GetXfeaturesMask(); w != 0; w &= w - 1 {
		name := fmt.Sprintf("state %d", bits.TrailingZeros64(w))
		if n := bits.TrailingZeros64(w); n < len(names) {
			name = names[n]
		}
		missing = append(missing, name)
	}
	return missing
}

// compareHWCAP compares the words of AT_HWCAP, in which every bit is for programs.
func compareHWCAP(dumped, here []uint64) []Finding {
	var missing []string
	for i, w := range dumped {
		if i < len(here) {
			w &^= here[i]
		}
		for ; w != 0; w &= w - 1 {
			missing = append(missing, fmt.Sprintf("hwcap %d:%d", i, bits.TrailingZeros64(w)))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []Finding{{
		Code: "cpu-features", Severity: Blocker, Count: len(missing), Subject: strings.Join(missing, ", "),
		Text: "this CPU lacks features that the one of the dump had", Remedy: otherCPU, Option: "cpu",
	}}
}
