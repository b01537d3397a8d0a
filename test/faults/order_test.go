package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// A file has its name only when all of it is on the disk: write, fsync, rename, fsync of the directory,
// in this order, as the kernel sees it.
func TestOrderOfSystemCalls(t *testing.T) {
	env.Require(t, "strace")
	dir := place(t)
	trace := filepath.Join(dir, "trace")
	if said, err := shell(t, dir, `strace -f -y -e signal=none -o trace -e trace=write,pwrite64,fsync,renameat2,renameat,rename "$CKARCHIVE" convert --to universal ./c.tar.zst ./copy.tar`, false); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	rename := regexp.MustCompile(`rename\w*\(.*"([^"]+)", .*"(?:[^"]*/)?copy\.tar"`).FindStringSubmatch(string(b))
	if rename == nil {
		t.Fatalf("no rename to copy.tar:\n%s", b)
	}
	temp, folder := filepath.Base(rename[1]), filepath.Base(dir)
	var order []string
	for line := range strings.Lines(string(b)) {
		_, call, _ := strings.Cut(line, " ")
		call = strings.TrimSpace(call)
		name, _, _ := strings.Cut(call, "(")
		step := ""
		switch {
		case strings.Contains(call, "resumed>"):
		case strings.HasPrefix(name, "rename") && strings.Contains(call, temp):
			step = "rename"
		case name == "fsync" && strings.Contains(call, "/"+folder+">"):
			step = "fsync directory"
		case strings.Contains(call, temp+">"):
			step = strings.TrimPrefix(strings.TrimSuffix(name, "64"), "p")
		}
		if step != "" && (len(order) == 0 || order[len(order)-1] != step) {
			order = append(order, step)
		}
	}
	if got, want := strings.Join(order, ", "), "write, fsync, rename, fsync directory"; got != want {
		t.Errorf("order %q, want %q:\n%s", got, want, b)
	}
}
