package policy

import (
	_ "embed" // the table of system calls
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate sh -c "go run ./gensyscalls $(go list -m -f {{.Dir}} golang.org/x/sys)/unix > syscalls.txt"

// syscallTable has the numbers of the system calls by name: amd64, 386, arm64.
//
//go:embed syscalls.txt
var syscallTable string

// abi is one way in which a program calls the kernel.
type abi struct {
	audit  uint32 // AUDIT_ARCH_*
	column int    // of the table
}

// abis are those of this host's architecture. 32-bit programs of ARM are not among them.
func abis(arch string) []abi {
	switch arch {
	case "amd64":
		return []abi{{unix.AUDIT_ARCH_X86_64, 0}, {unix.AUDIT_ARCH_I386, 1}}
	case "arm64":
		return []abi{{unix.AUDIT_ARCH_AARCH64, 2}}
	}
	return nil
}

// The parts of struct seccomp_data, in bytes; the low word of an argument comes first.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
	argBytes     = 8
)

const (
	load         = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and          = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	ret          = unix.BPF_RET | unix.BPF_K
	jump         = unix.BPF_JMP | unix.BPF_JA
	jumpEqual    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpGreater  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpNotBelow = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// Compile makes of a profile the program for this host's architecture that seccomp(2) takes, in
// the form of the kernel's struct sock_filter. Calls of other architectures, of the x32 ABI, and calls that
// the table does not know get the profile's default action.
func Compile(profile *specs.LinuxSeccomp) ([]byte, error) {
	known := abis(runtime.GOARCH)
	if known == nil {
		return nil, fmt.Errorf("no system call filter can be made for %s", runtime.GOARCH)
	}
	other, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	prog := []unix.SockFilter{{Code: load, K: offsetArch}}
	for _, a := range known {
		body, err := compileABI(profile, a, other)
		if err != nil {
			return nil, err
		}
		prog = append(prog,
			unix.SockFilter{Code: jumpEqual, K: a.audit, Jt: 1},
			unix.SockFilter{Code: jump, K: uint32(len(body))}) //nolint:gosec // the kernel's limit is below
		prog = append(prog, body...)
	}
	prog = append(prog, unix.SockFilter{Code: ret, K: other})
	if len(prog) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("system call filter of %d instructions, the kernel takes %d", len(prog), unix.BPF_MAXINSNS)
	}
	var b []byte
	for _, i := range prog {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b, nil
}

// span is a run of system calls that are judged alike.
type span struct {
	first, last uint32
	verdict     []unix.SockFilter // ends with a return
}

// compileABI judges the calls of one ABI. Spans ascend, so that each needs two comparisons.
func compileABI(profile *specs.LinuxSeccomp, a abi, other uint32) ([]unix.SockFilter, error) {
	spans, err := spansOf(profile, a, other)
	if err != nil {
		return nil, err
	}
	prog := []unix.SockFilter{{Code: load, K: offsetNumber}}
	for _, s := range spans {
		skip := 2 + len(s.verdict)
		if skip > 255 {
			return nil, fmt.Errorf("too many rules for the system call %d", s.first)
		}
		prog = append(prog,
			unix.SockFilter{Code: jumpGreater, K: s.last, Jt: uint8(skip)},
			unix.SockFilter{Code: jumpNotBelow, K: s.first, Jt: 1},
			unix.SockFilter{Code: ret, K: other})
		prog = append(prog, s.verdict...)
	}
	return append(prog, unix.SockFilter{Code: ret, K: other}), nil
}

// spansOf gives the calls that the profile names, in the order of their numbers.
func spansOf(profile *specs.LinuxSeccomp, a abi, other uint32) ([]span, error) {
	numbers, err := syscallNumbers(a.column)
	if err != nil {
		return nil, err
	}
	verdicts := map[uint32][]unix.SockFilter{}
	final := map[uint32]bool{} // calls for which nothing depends on arguments any more
	for _, rule := range profile.Syscalls {
		then, err := action(rule.Action, rule.ErrnoRet)
		if err != nil {
			return nil, err
		}
		code, err := conditional(rule.Args, then)
		if err != nil {
			return nil, err
		}
		for _, name := range rule.Names {
			n, ok := numbers[name]
			if !ok || final[n] {
				continue
			}
			verdicts[n] = append(verdicts[n], code...)
			final[n] = len(rule.Args) == 0
		}
	}
	var spans []span
	for n, verdict := range verdicts {
		if !final[n] {
			verdict = append(verdict, unix.SockFilter{Code: ret, K: other})
		}
		spans = append(spans, span{n, n, verdict})
	}
	slices.SortFunc(spans, func(x, y span) int { return int(x.first) - int(y.first) })
	return merged(spans), nil
}

// merged joins neighbours that are judged alike.
func merged(spans []span) []span {
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && out[n-1].last+1 == s.first && slices.Equal(out[n-1].verdict, s.verdict) {
			out[n-1].last = s.last
			continue
		}
		out = append(out, s)
	}
	return out
}

func syscallNumbers(column int) (map[string]uint32, error) {
	numbers := map[string]uint32{}
	for line := range strings.Lines(syscallTable) {
		fields := strings.Fields(line)
		if fields[1+column] == "-" {
			continue
		}
		n, err := strconv.ParseUint(fields[1+column], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("table of system calls: %w", err)
		}
		numbers[fields[0]] = uint32(n)
	}
	return numbers, nil
}

// action is the value that a filter returns.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		n := uint32(unix.EPERM)
		if errno != nil {
			n = uint32(*errno) & unix.SECCOMP_RET_DATA //nolint:gosec // masked
		}
		return unix.SECCOMP_RET_ERRNO | n, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	}
	return 0, fmt.Errorf("action %q of a system call filter is not supported", a)
}

// conditional returns then if all conditions hold, and goes on behind itself otherwise.
func conditional(args []specs.LinuxSeccompArg, then uint32) ([]unix.SockFilter, error) {
	prog := []unix.SockFilter{{Code: ret, K: then}}
	for _, arg := range slices.Backward(args) {
		test, err := condition(arg, len(prog))
		if err != nil {
			return nil, err
		}
		prog = append(test, prog...)
	}
	return prog, nil
}

// condition goes on behind itself if it holds, and past the next instructions otherwise. An argument
// has two words, of which the high one is compared first.
func condition(arg specs.LinuxSeccompArg, next int) ([]unix.SockFilter, error) {
	if arg.Index > 5 || next > 200 {
		return nil, fmt.Errorf("argument %d of a system call filter", arg.Index)
	}
	mask, want := ^uint64(0), arg.Value
	if arg.Op == specs.OpMaskedEqual {
		mask, want = arg.Value, arg.ValueTwo
	}
	low := uint32(offsetArgs + argBytes*arg.Index)
	wantHigh, wantLow := uint32(want>>32), uint32(want) //nolint:gosec // the low word
	const end = 7
	yes, no := end, end+next
	var high, lower unix.SockFilter
	// to makes a jump that is the instruction at; -1 is the next one.
	to := func(at int, code uint16, k uint32, then, otherwise int) unix.SockFilter {
		distance := func(target int) uint8 {
			if target < 0 {
				return 0
			}
			return uint8(target - at - 1) //nolint:gosec // at most end and next
		}
		return unix.SockFilter{Code: code, K: k, Jt: distance(then), Jf: distance(otherwise)}
	}
	switch arg.Op {
	case specs.OpNotEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpEqualTo, specs.OpMaskedEqual:
		high, lower = to(2, jumpEqual, wantHigh, -1, no), to(6, jumpEqual, wantLow, yes, no)
	case specs.OpLessEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpGreaterThan:
		high, lower = to(2, jumpGreater, wantHigh, yes, -1), to(6, jumpGreater, wantLow, yes, no)
	case specs.OpLessThan:
		yes, no = no, yes
		fallthrough
	case specs.OpGreaterEqual:
		high, lower = to(2, jumpGreater, wantHigh, yes, -1), to(6, jumpNotBelow, wantLow, yes, no)
	default:
		return nil, fmt.Errorf("comparison %q of a system call filter is not supported", arg.Op)
	}
	return []unix.SockFilter{
		{Code: load, K: low + argBytes/2},
		{Code: and, K: uint32(mask >> 32)},
		high,
		to(3, jumpEqual, wantHigh, -1, no),
		{Code: load, K: low},
		{Code: and, K: uint32(mask)}, //nolint:gosec // the low word
		lower,
	}, nil
}
