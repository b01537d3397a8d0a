package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestCountRules: flags that are for one container are refused before the archive is opened.
func TestCountRules(t *testing.T) {
	config := filepath.Join(t.TempDir(), "criu.conf")
	if err := os.WriteFile(config, []byte("# why\n  auto-dedup\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"foreground":     {"--count", "2"},
		"negative":       {"--count=-1", "--detach"},
		"pid file":       {"--count", "2", "--detach", "--pid-file", "/p"},
		"log":            {"--count", "2", "--detach", "--log", "/l"},
		"console socket": {"--count", "2", "--detach", "--console-socket", "/s"},
		"bundle":         {"--count", "2", "--detach", "--bundle", "/b"},
		"rootfs":         {"--count", "2", "--detach", "--rootfs", "/r"},
		"cgroup":         {"--count", "2", "--detach", "--cgroup-path", "/c"},
		"veth":           {"--count", "2", "--detach", "--veth", "eth0=host0"},
		"tcp":            {"--count", "2", "--detach", "--tcp-established"},
		"descriptor":     {"--count", "2", "--detach", "--inherit-fd", "fd[3]:socket:[7]"},
		"frees images":   {"--count", "2", "--detach", "--criu-config", config},
		"podman":         {"--count", "2", "--detach", "--into", "podman"},
	} {
		t.Run(name, func(t *testing.T) {
			var usage *usageError
			if err := parseRestore(t, flags...).cmd.check(); !errors.As(err, &usage) {
				t.Errorf("%q: error %v, want one of usage", flags, err)
			}
		})
	}
	for _, flags := range [][]string{{"--count", "2", "--detach"}, {"--count", "2", "--dry-run"}, {"--count", "1", "-d", "--tcp-close"}, {"--pid-file", "/p"}} {
		if err := parseRestore(t, flags...).cmd.check(); err != nil {
			t.Errorf("%q: %v", flags, err)
		}
	}
}
