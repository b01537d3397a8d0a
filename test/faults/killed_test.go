package faults

import (
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// full tells whether the long form of the suite runs, as `make faults` does.
func full() bool { return os.Getenv("CKARCHIVE_FAULTS_FULL") != "" }

// victim is a command that is killed, in a directory with the archive c.tar.zst, the key k.pem and a store with the
// names x:1 and y:1 and garbage. HOST in it is a registry that has good:1, and TO a name there that nothing has.
type victim struct {
	name, line string
	to         string // what TO is
	file       string // that it writes, or empty
	signs      bool   // file is a signature
}

var victims = []victim{
	{name: "convert", line: "convert --to universal ./c.tar.zst ./out.tar", file: "out.tar"},
	{name: "convert to a layout", line: "convert --to image ./c.tar.zst oci:layout:1"},
	{name: "import", line: "import ./c.tar.zst new:1"},
	{name: "tag", line: "tag x:1 new:1"},
	{name: "rm", line: "rm x:1"},
	{name: "gc", line: "gc"},
	{name: "flatten", line: "flatten x:1 new:1"},
	{name: "push", line: "push --plain-http x:1 TO"},
	{name: "push of a file", line: "push --plain-http ./c.tar.zst TO"},
	{name: "pull", line: "pull --plain-http HOST/good:1"},
	{name: "pull to a file", line: "pull --plain-http HOST/good:1 ./out.tar", file: "out.tar"},
	{name: "sign", line: "sign --local --key k.pem x:1"},
	{name: "sign a file", line: "sign --key k.pem ./c.tar.zst", file: "c.tar.zst.sig", signs: true},
	{name: "sign in a registry", line: "sign --plain-http --key k.pem HOST/good:1"},
}

// Killed at any of its steps, a command leaves nothing half written under a name, nothing that a second run or gc does
// not clean up, and everything that was there before.
func TestKilledAtEveryStep(t *testing.T) {
	env.Require(t, "openssl")
	registry := env.Registry(t, env.RegistryOptions{})
	before := place(t)
	for _, line := range []string{
		"openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out k.pem", "openssl ec -in k.pem -pubout -out k.pub",
		`"$CKARCHIVE" import ./c.tar.zst x:1`, `"$CKARCHIVE" import --to image ./c.tar.zst z:1`, `"$CKARCHIVE" tag x:1 y:1`, `"$CKARCHIVE" rm z:1`,
		`"$CKARCHIVE" push --plain-http x:1 ` + registry.Host + `/good:1`,
	} {
		if said, err := shell(t, before, line, false); err != nil {
			t.Fatalf("%s: %v: %s", line, err, said)
		}
	}
	for _, v := range victims {
		t.Run(v.name, func(t *testing.T) {
			kills := 0
			for n := range steps() {
				dir := copyOf(t, before)
				now := v // a push goes to a new name each time
				now.to = fmt.Sprintf("%s/%s-%d:1", registry.Host, strings.ReplaceAll(v.name, " ", "-"), n)
				now.line = strings.NewReplacer("HOST", registry.Host, "TO", now.to).Replace(v.line)
				killed := now.kill(t, dir, n)
				now.check(t, fmt.Sprintf("killed at step %d", n), dir)
				must(t, os.RemoveAll(dir))
				if !killed {
					break // it has no such step
				}
				kills++
			}
			t.Logf("killed at %d steps", kills)
			if kills == 0 {
				t.Error("it has no such step")
			}
		})
	}
}

// kill runs the command to its n-th step, and tells whether it has one.
func (v victim) kill(t *testing.T, dir string, n int) bool {
	t.Helper()
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	must(t, err)
	defer output.Close() //nolint:errcheck // for messages only
	killed, status := env.KillAt(t, n, dir, environ(dir), output, append([]string{filepath.Join(dir, "ckarchive")}, strings.Fields(v.line)...)...)
	if !killed && status.ExitStatus() != 0 {
		said, _ := os.ReadFile(output.Name())
		t.Fatalf("it was not killed and fails: %s", said)
	}
	return killed
}

// steps are all numbers from 1 on, or in the short form one of them.
func steps() iter.Seq[int] {
	return func(yield func(int) bool) {
		if !full() {
			yield(6)
			return
		}
		for n := 1; yield(n); n++ {
		}
	}
}

func copyOf(t *testing.T, from string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "place")
	if said, err := exec.CommandContext(t.Context(), "cp", "-a", from, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return dir
}

// check holds what is there against what may be there, and runs the command again.
func (v victim) check(t *testing.T, when, dir string) {
	t.Helper()
	ok := func(line string) string {
		t.Helper()
		said, err := shell(t, dir, `"$CKARCHIVE" `+line, false)
		if err != nil {
			t.Errorf("%s: then %s: %v: %s", when, line, err, said)
		}
		return said
	}
	whole := func() {
		t.Helper()
		for _, name := range names(t, ok("--json list")) {
			ok("verify " + name)
		}
		_, err := os.Stat(filepath.Join(dir, v.file))
		switch {
		case v.file == "" || err != nil:
		case v.signs:
			ok("verify --key k.pub ./c.tar.zst")
		default:
			ok("verify ./" + v.file)
		}
		if _, err := os.Stat(filepath.Join(dir, "layout")); err == nil && v.name == "convert to a layout" {
			if said, err := shell(t, dir, `"$CKARCHIVE" verify oci:layout:1`, false); err != nil && !strings.Contains(said, "not found") {
				t.Errorf("%s: %s", when, said)
			}
		}
	}
	whole()
	if strings.HasPrefix(v.name, "push") {
		if said, err := shell(t, dir, `"$CKARCHIVE" verify --plain-http --pull always `+v.to, false); err != nil && !strings.Contains(said, "status 404") {
			t.Errorf("%s: the registry has something else: %s", when, said)
		}
	}
	again, err := shell(t, dir, `"$CKARCHIVE" `+v.line, false)
	done := v.file != "" && strings.Contains(again, "exists") || v.name == "rm" && strings.Contains(again, "not found")
	if err != nil && !done {
		t.Errorf("%s: once more: %v: %s", when, err, again)
	}
	ok("gc")
	if said := ok("gc"); !strings.Contains(said, "in 0 blobs and 0 unfinished files") {
		t.Errorf("%s: gc is not done at once: %s", when, said)
	}
	whole()
	ok("verify y:1")
	for _, left := range strayFiles(t, dir) {
		t.Errorf("%s: left behind: %s", when, left)
	}
}

func names(t *testing.T, list string) []string {
	t.Helper()
	var rows []struct{ Name string }
	if err := json.Unmarshal([]byte(list), &rows); err != nil {
		t.Fatalf("%v: %s", err, list)
	}
	var all []string
	for _, row := range rows {
		all = append(all, row.Name)
	}
	return all
}

// strayFiles are those that nobody asked for.
func strayFiles(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path) // both are absolute
		if err == nil && !d.IsDir() && strings.HasPrefix(d.Name(), ".") && !strings.HasSuffix(d.Name(), ".lock") {
			left = append(left, rel)
		}
		return err
	}))
	entries, err := os.ReadDir(filepath.Join(dir, "root", "spool"))
	if err == nil && len(entries) > 0 {
		left = append(left, "spool/"+entries[0].Name())
	}
	return left
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
