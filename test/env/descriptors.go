package env

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// CloseOnExec keeps the descriptors that this process got from whoever started it out of the programs that it starts from now on,
// for tests of limits: a shell or a build server may leave any number open.
func CloseOnExec(tb testing.TB) {
	tb.Helper()
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		tb.Fatalf("keep descriptors: %v", err)
	}
}
