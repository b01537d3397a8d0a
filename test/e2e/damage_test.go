package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestDamagedArchives(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	good := readFile(t, c.export("c.tar", "--leave-running", "--base", h.built.base))
	packed := readFile(t, c.export("c.tar.zst", "--leave-running", "--base", h.built.base))
	page := bytes.LastIndex([]byte(good), []byte("of the"))
	for _, tt := range []struct {
		name, content string
		status        int
	}{
		{"empty", "", 3},
		{"text", "this is no archive\n" + strings.Repeat("x", 4096), 3},
		{"zeros", strings.Repeat("\x00", 1<<16), 3},
		{"bit in the middle", flip(good, len(good)/2), 3},
		{"bit in memory", flip(good, max(page, len(good)*3/4)), 3},
		{"bit in the first header", flip(good, 10), 3},
		{"bit in the metadata", flip(good, 600), 3},
		{"bit in zstd", flip(packed, len(packed)/2), 3},
		{"half", good[:len(good)/2], 3},
		{"without end", good[:len(good)-1024], 3},
		{"cut in a header", good[:512+100], 3},
		{"half of zstd", packed[:len(packed)/2], 3},
		{"zstd without end", packed[:len(packed)-3], 3},
		{"rubbish behind", good + "rubbish", 3},
	} {
		path := h.path(strings.ReplaceAll(tt.name, " ", "-"))
		writeFile(t, path, tt.content)
		for _, engine := range []string{"runtime", "direct"} {
			h.restoreRefused("no", []string{"--engine", engine, "--base", h.built.base, path}, tt.status)
			noFiles(t, filepath.Join(h.root, "containers"))
		}
		if o := h.run("verify", path); o.status != tt.status {
			t.Errorf("%s: verify ends with %d, want %d: %s", tt.name, o.status, tt.status, o)
		}
	}
	h.restoreRefused("no", []string{h.path("absent.tar")}, 4, "absent.tar")
	h.restoreRefused("no", []string{h.path("c.tar")}, 5, "--base", "--rootfs")
	h.restoreRefused("no", []string{"--base", h.path("absent"), h.path("c.tar")}, 4, h.path("absent"))
	noFiles(t, filepath.Join(h.root, "containers"))
	c.unharmed()
}

// flip turns one bit.
func flip(s string, at int) string {
	b := []byte(s)
	b[at] ^= 0x10
	return string(b)
}

var logPath = regexp.MustCompile(`/\S*restore\.log`)

// A restore that CRIU refuses leaves nothing but its log.
func TestRestoreFails(t *testing.T) {
	h := newHost(t)
	opts := counts()
	// A file that is open, and of which the archive holds nothing: it is as in the base.
	opts.Args = []string{"/bin/sh", "-c", "exec 9</etc/open; exec /bin/workload --tick 10ms"}
	base := h.copyBase(h.path("base"))
	writeFile(t, filepath.Join(base, "etc/open"), "as long as this\n")
	opts.Rootfs = h.path("rootfs")
	command(t, "cp", "-a", base, opts.Rootfs)
	c := h.start("c", opts)
	path := c.export("c.tar.zst", "--base", base)
	other := h.path("other")
	command(t, "cp", "-a", base, other)
	writeFile(t, filepath.Join(other, "etc/open"), "shorter\n")
	for _, engine := range []string{"runtime", "direct"} {
		o := h.restoreRefused("no-"+engine, []string{"--engine", engine, "--base", other, path}, 8, "bad size", "etc/open")
		log := logPath.FindString(o.stderr)
		if log == "" {
			t.Fatalf("no log is named: %s", o)
		}
		if got := readFile(t, log); !strings.Contains(got, "bad size") {
			t.Errorf("the log %s does not hold the reason", log)
		}
		// In a root file system of the operator's: it stays.
		place := h.path("place-" + engine)
		command(t, "cp", "-a", other, place)
		h.restoreRefused("place-"+engine, []string{"--engine", engine, "--rootfs", place, path}, 8, "bad size")
		if _, err := os.Stat(filepath.Join(place, "etc/open")); err != nil {
			t.Error(err)
		}
		h.restore("yes-"+engine, path, "--engine", engine, "--base", base).wellFrom(c)
	}
}
