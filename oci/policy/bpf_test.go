package policy

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is what the kernel shows a filter.
type call struct {
	arch   uint32
	number uint32
	args   [6]uint64
}

// judge runs a filter as the kernel does.
func judge(t *testing.T, program []byte, c call) uint32 {
	t.Helper()
	data := make([]byte, offsetArgs+6*argBytes)
	binary.LittleEndian.PutUint32(data[offsetNumber:], c.number)
	binary.LittleEndian.PutUint32(data[offsetArch:], c.arch)
	for i, a := range c.args {
		binary.LittleEndian.PutUint64(data[offsetArgs+i*argBytes:], a)
	}
	var a uint32
	for pc := 0; ; pc++ {
		i := program[pc*8 : pc*8+8]
		code, jt, jf, k := binary.NativeEndian.Uint16(i), int(i[2]), int(i[3]), binary.NativeEndian.Uint32(i[4:])
		holds := false
		switch code {
		case load:
			a = binary.LittleEndian.Uint32(data[k:])
			continue
		case and:
			a &= k
			continue
		case ret:
			return k
		case jump:
			pc += int(k)
			continue
		case jumpEqual:
			holds = a == k
		case jumpGreater:
			holds = a > k
		case jumpNotBelow:
			holds = a >= k
		default:
			t.Fatalf("instruction %d has the code %#x", pc, code)
		}
		if holds {
			pc += jt
		} else {
			pc += jf
		}
	}
}

const (
	permit = uint32(unix.SECCOMP_RET_ALLOW)
	eperm  = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	enosys = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
)

// The numbers of amd64 and 386 by name are those of the kernel's headers.
func TestDefaultFilter(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("system calls are given for amd64")
	}
	const native, compat = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	for _, tt := range []struct {
		name  string
		grant string
		call  call
		want  uint32
	}{
		{"read", "", call{native, unix.SYS_READ, [6]uint64{}}, permit},
		{"last before a gap", "", call{native, unix.SYS_STATX, [6]uint64{}}, permit},
		{"mount", "", call{native, unix.SYS_MOUNT, [6]uint64{}}, eperm},
		{"mount granted", "SYS_ADMIN", call{native, unix.SYS_MOUNT, [6]uint64{}}, permit},
		{"kexec", "", call{native, unix.SYS_KEXEC_LOAD, [6]uint64{}}, eperm},
		{"bpf", "", call{native, unix.SYS_BPF, [6]uint64{}}, eperm},
		{"keyctl", "", call{native, unix.SYS_KEYCTL, [6]uint64{}}, eperm},
		{"clone of a process", "", call{native, unix.SYS_CLONE, [6]uint64{uint64(unix.SIGCHLD)}}, permit},
		{"clone of a user namespace", "", call{native, unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWUSER}}, eperm},
		{"clone3", "", call{native, unix.SYS_CLONE3, [6]uint64{}}, enosys},
		{"personality of Linux", "", call{native, unix.SYS_PERSONALITY, [6]uint64{0}}, permit},
		{"personality asked", "", call{native, unix.SYS_PERSONALITY, [6]uint64{0xffffffff}}, permit},
		{"personality of others", "", call{native, unix.SYS_PERSONALITY, [6]uint64{1}}, eperm},
		{"personality in the high word", "", call{native, unix.SYS_PERSONALITY, [6]uint64{1 << 32}}, eperm},
		{"socket", "", call{native, unix.SYS_SOCKET, [6]uint64{unix.AF_INET}}, permit},
		{"socket to the machine's host", "", call{native, unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK}}, eperm},
		{"behind the last", "", call{native, 100000, [6]uint64{}}, eperm},
		{"x32", "", call{native, 0x40000000, [6]uint64{}}, eperm},
		{"read of 32 bits", "", call{compat, 3, [6]uint64{}}, permit},
		{"mount of 32 bits", "", call{compat, 21, [6]uint64{}}, eperm},
		{"read of another architecture", "", call{unix.AUDIT_ARCH_AARCH64, 63, [6]uint64{}}, eperm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := plain()
			var grants Grants
			if tt.grant != "" {
				s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_"+tt.grant)
				must(t, grants.Add("cap:"+tt.grant))
			}
			res, err := Rebuild(s, Options{Grants: grants})
			must(t, err)
			program, err := Compile(res.Spec.Linux.Seccomp)
			must(t, err)
			if got := judge(t, program, tt.call); got != tt.want {
				t.Errorf("returns %#x, want %#x", got, tt.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	values := []uint64{0, 1, 7, 8, 9, 1<<32 - 1, 1 << 32, 1<<32 + 8, 1<<32 + 9, 5 << 32, ^uint64(0)}
	for op, holds := range map[specs.LinuxSeccompOperator]func(a, b uint64) bool{
		specs.OpEqualTo:      func(a, b uint64) bool { return a == b },
		specs.OpNotEqual:     func(a, b uint64) bool { return a != b },
		specs.OpLessThan:     func(a, b uint64) bool { return a < b },
		specs.OpLessEqual:    func(a, b uint64) bool { return a <= b },
		specs.OpGreaterThan:  func(a, b uint64) bool { return a > b },
		specs.OpGreaterEqual: func(a, b uint64) bool { return a >= b },
		specs.OpMaskedEqual:  func(a, b uint64) bool { return a&b == 8 },
	} {
		for _, b := range values {
			arg := specs.LinuxSeccompArg{Index: 2, Value: b, ValueTwo: 8, Op: op}
			program, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
				// Both must hold, and the second always does.
				{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg, {Index: 1, Value: 3, Op: specs.OpLessThan}}},
				{Names: []string{"read"}, Action: specs.ActKillProcess, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 77, Op: specs.OpEqualTo}}},
			}})
			must(t, err)
			for _, a := range values {
				native := abis(runtime.GOARCH)[0].audit
				want := eperm
				if holds(a, b) {
					want = permit
				}
				if got := judge(t, program, call{native, unix.SYS_READ, [6]uint64{1, 2, a}}); got != want {
					t.Errorf("%#x %s %#x: returns %#x, want %#x", a, op, b, got, want)
				}
				if got := judge(t, program, call{native, unix.SYS_READ, [6]uint64{77, 3, a}}); got != unix.SECCOMP_RET_KILL_PROCESS {
					t.Errorf("the second rule returns %#x", got)
				}
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, profile := range map[string]*specs.LinuxSeccomp{
		"action":     {DefaultAction: specs.ActNotify},
		"rule":       {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActTrace}}},
		"comparison": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "like"}}}}},
		"argument":   {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
	} {
		if _, err := Compile(profile); err == nil {
			t.Errorf("%s: it was compiled", name)
		}
	}
}
