package criu

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// cpuidWords name the bits of the feature words of an x86 CPU as cpuinfo.img holds them: CRIU's
// enum cpuid_leafs (compel/arch/x86/src/lib/include/uapi/asm/cpu.h) with the names of
// /proc/cpuinfo. A number is the bit of the name behind it. Names in capitals are what a program can
// execute or has in its registers; without them it may not go on. The others are of the kernel,
// or tell what is fast: ERMS and FSRM change no result, and HLE is ignored where it is unknown.
//
//nolint:gochecknoglobals // a constant table
var cpuidWords = []string{
	0: "FPU vme de pse TSC msr pae mce CX8 apic 11 SEP mtrr pge mca CMOV pat pse36 pn CLFLUSH 21 dts acpi MMX FXSR SSE SSE2 ss ht tm ia64 pbe",
	1: "11 SYSCALL 19 mp nx 22 MMXEXT 25 fxsr_opt pdpe1gb RDTSCP 29 lm 3DNOWEXT 3DNOW",
	2: "recovery longrun 3 lrti",
	3: "cxmmx k6_mtrr cyrix_arr centaur_mcr k8 k7 p3 p4 constant_tsc up art arch_perfmon pebs bts syscall32 sysenter32 rep_good mfence_rdtsc " +
		"lfence_rdtsc acc_power NOPL always xtopology tsc_reliable nonstop_tsc cpuid extd_apicid amd_dcm aperfmperf 30 nonstop_tsc_s3 tsc_known_freq",
	4: "SSE3 PCLMULQDQ dtes64 monitor ds_cpl vmx smx est tm2 SSSE3 cid sdbg FMA CX16 xtpr pdcm 17 pcid dca SSE4_1 SSE4_2 x2apic MOVBE POPCNT " +
		"tsc_deadline_timer AES XSAVE OSXSAVE AVX F16C RDRAND hypervisor",
	5: "2 rng rng_en 6 ace ace_en ace2 ace2_en phe phe_en pmm pmm_en",
	6: "LAHF_LM cmp_legacy svm extapic cr8_legacy ABM SSE4A MISALIGNSSE 3DNOWPREFETCH osvw ibs XOP skinit wdt 15 lwp FMA4 tce 19 nodeid_msr " +
		"21 TBM topoext perfctr_core perfctr_nb 26 bpext ptsc perfctr_llc MWAITX",
	9: "FSGSBASE tsc_adjust 3 BMI1 hle AVX2 7 smep BMI2 erms invpcid RTM cqm 14 MPX rdt_a AVX512F AVX512DQ RDSEED ADX smap AVX512IFMA " +
		"23 CLFLUSHOPT CLWB intel_pt AVX512PF AVX512ER AVX512CD SHA_NI AVX512BW AVX512VL",
	10: "XSAVEOPT XSAVEC XGETBV1 XSAVES",
	11: "prefetchwt1 AVX512VBMI umip pku OSPKE WAITPKG AVX512_VBMI2 shstk GFNI VAES VPCLMULQDQ AVX512_VNNI AVX512_BITALG tme AVX512_VPOPCNTDQ " +
		"16 la57 22 RDPID 25 cldemote 27 MOVDIRI MOVDIR64B",
	12: "cqm_occup_llc cqm_mbm_total cqm_mbm_local",
	13: "CLZERO irperf xsaveerptr 4 RDPRU 9 wbnoinvd 12 ibpb 14 ibrs stibp",
	14: "dtherm ida arat 4 pln 6 pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req 13 hdc",
	15: "npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists 10 pausefilter 12 pfthreshold avic 15 v_vmsave_vmload vgif",
	16: "1 cqm_llc",
	17: "overflow_recov succor 3 smca",
	18: "2 AVX512_4VNNIW AVX512_4FMAPS fsrm 8 AVX512_VP2INTERSECT 14 SERIALIZE 16 TSXLDTRK 18 pconfig 22 AMX_BF16 AVX512_FP16 AMX_TILE AMX_INT8 " +
		"spec_ctrl intel_stibp 29 arch_capabilities 31 spec_ctrl_ssbd",
}

// xstateNames name the parts of the register state of an x86 CPU, by the bits of XCR0.
const xstateNames = "x87 sse avx bndregs bndcsr opmask zmm_hi256 hi16_zmm pt pkru pasid cet_u cet_s hdc uintr lbr hwp xtilecfg xtiledata"

// cpuFeature is one bit.
type cpuFeature struct {
	name string // in small letters
	used bool   // by programs
}

const wordBits = 32

//nolint:gochecknoglobals // the table above, parsed once
var cpuFeatures = sync.OnceValue(func() map[int]cpuFeature {
	all := map[int]cpuFeature{}
	for word, names := range cpuidWords {
		bit := 0
		for name := range strings.FieldsSeq(names) {
			if n, err := strconv.Atoi(name); err == nil {
				bit = n
				continue
			}
			all[word*wordBits+bit] = cpuFeature{strings.ToLower(name), name == strings.ToUpper(name)}
			bit++
		}
	}
	return all
})

// featureOf gives a bit of a word; what has no name is nothing that programs use.
func featureOf(word, bit int) cpuFeature {
	if f, ok := cpuFeatures()[word*wordBits+bit]; ok {
		return f
	}
	return cpuFeature{name: fmt.Sprintf("feature %d:%d", word, bit)}
}
