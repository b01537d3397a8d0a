package env

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// NetNS makes a network namespace with nothing but lo, and gives the path of its file. It goes with the test.
func NetNS(tb testing.TB, name string) string {
	tb.Helper()
	ip := Program(tb, "ip")
	run := func(args ...string) {
		if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
			tb.Errorf("ip %q: %v: %s", args, err, out)
		}
	}
	run("netns", "add", name)
	tb.Cleanup(func() { run("netns", "delete", name) })
	run("-netns", name, "link", "set", "lo", "up")
	return filepath.Join("/run/netns", name)
}
