package policy

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestRealTime: only an archive of this host keeps the right to go before all other processes.
func TestRealTime(t *testing.T) {
	for own, want := range map[bool]int{true: 2, false: 1} {
		s := plain()
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 5}, {Type: "RLIMIT_RTPRIO", Hard: 99}}
		got, err := Rebuild(s, Options{Rootfs: "/r", Own: own})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got.Spec.Process.Rlimits); n != want || slices.Contains(got.Dropped, "scheduling") == own {
			t.Errorf("own %v: %d limits, want %d; dropped %q", own, n, want, got.Dropped)
		}
	}
}
