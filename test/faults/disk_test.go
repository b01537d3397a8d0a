package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// storeIn is place with a store in which x:1 and y:1 are, and garbage.
func storeIn(t *testing.T) string {
	t.Helper()
	dir := place(t)
	for _, line := range []string{`import ./c.tar.zst x:1`, `import --to image ./c.tar.zst z:1`, `tag x:1 y:1`, `rm z:1`} {
		if said, err := shell(t, dir, `"$CKARCHIVE" `+line, false); err != nil {
			t.Fatalf("%s: %v: %s", line, err, said)
		}
	}
	return dir
}

// A disk that gives errors is told of, damages nothing that was there, and gets no final names.
func TestFaultyDisk(t *testing.T) {
	d := env.NewDisk(t, 64)
	dir := storeIn(t)
	for _, line := range []string{
		"mv root " + d.Dir + "/root",
		"head -c 8M /dev/urandom >" + d.Dir + "/ballast", `"$CKARCHIVE" convert --to universal ./c.tar.zst ` + d.Dir + `/c.tar`,
	} {
		if said, err := shell(t, dir, line, false); err != nil {
			t.Fatalf("%s: %v: %s", line, err, said)
		}
	}
	d.Break("c.tar")
	for _, line := range []string{
		"verify SRC", "import SRC new:1", "convert --to universal SRC ./out.tar", "push --plain-http SRC 127.0.0.1:1/x:1",
		"convert --to universal ./c.tar.zst DISK/out.tar", "--root DISK/root import ./c.tar.zst new:1",
	} {
		line = strings.NewReplacer("SRC", d.Dir+"/c.tar", "DISK", d.Dir).Replace(line)
		said, err := shell(t, dir, `"$CKARCHIVE" `+line, false)
		if err == nil || !strings.Contains(said, "ckarchive: error: ") || !strings.Contains(said, "input/output error") {
			t.Errorf("%s: %v, want an error that says input/output error: %s", line, err, said)
		}
	}
	for _, name := range []string{d.Dir + "/out.tar", dir + "/out.tar"} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s was left", name)
		}
	}
	if said, err := shell(t, dir, `"$CKARCHIVE" --json list`, false); err != nil || strings.Contains(said, "new:1") {
		t.Errorf("the store: %v: %s", err, said)
	}
}

// With a full disk every verb that writes says so and leaves the store as it was; gc frees, and then all goes on.
func TestFullStore(t *testing.T) {
	env.Require(t, "root")
	registry := env.Registry(t, env.RegistryOptions{})
	before := storeIn(t)
	if said, err := shell(t, before, `"$CKARCHIVE" push --plain-http x:1 `+registry.Host+`/good:1`, false); err != nil {
		t.Fatal(said)
	}
	rooms := []int{0}
	if full() {
		rooms = []int{0, 4, 8, 64, 1024} // KiB
	}
	for _, room := range rooms {
		for _, line := range []string{
			"import --to image ./c.tar.zst new:1", "pull --plain-http HOST/good:1", "flatten x:1 new:1", "tag x:1 new:1", "rm x:1", "gc", "convert --to image ./c.tar.zst oci:root:new",
		} {
			line = strings.ReplaceAll(line, "HOST", registry.Host)
			what := fmt.Sprintf("%s with %d KiB", line, room)
			dir := copyOf(t, before)
			fillStore(t, dir, room)
			said, err := shell(t, dir, `"$CKARCHIVE" `+line, false)
			if err != nil && (!strings.Contains(said, "ckarchive: error: ") || !strings.Contains(said, "no space left on device") || !strings.HasSuffix(err.Error(), " 5")) {
				t.Errorf("%s: %v, want status 5 and the reason: %s", what, err, said)
			}
			for _, then := range []string{`verify y:1`, `gc`} {
				if said, err := shell(t, dir, `"$CKARCHIVE" `+then, false); err != nil {
					t.Errorf("%s: then %s: %v: %s", what, then, err, said)
				}
			}
			must(t, os.Remove(filepath.Join(dir, "root/filler")))
			if err != nil {
				if said, err := shell(t, dir, `"$CKARCHIVE" `+line, false); err != nil {
					t.Errorf("%s: once more: %v: %s", what, err, said)
				}
			}
			for _, left := range strayFiles(t, dir) {
				t.Errorf("%s: left behind: %s", what, left)
			}
			must(t, syscall.Unmount(filepath.Join(dir, "root"), syscall.MNT_DETACH))
		}
	}
}

// fillStore puts the store on a disk of its own with room for so many KiB.
func fillStore(t *testing.T, dir string, room int) {
	t.Helper()
	root := filepath.Join(dir, "root")
	must(t, os.Rename(root, root+".old"))
	must(t, os.Mkdir(root, 0o700))
	must(t, syscall.Mount("tmpfs", root, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { _ = syscall.Unmount(root, syscall.MNT_DETACH) }) // the test may have done it
	line := fmt.Sprintf("cp -a root.old/. root && rm -r root.old && head -c %dk /dev/zero >root/room; cat /dev/zero >root/filler 2>/dev/null; rm root/room", room)
	if said, err := shell(t, dir, line, false); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}

// A store that cannot be written to is read all the same.
func TestReadOnlyStore(t *testing.T) {
	env.Require(t, "root")
	registry := env.Registry(t, env.RegistryOptions{})
	dir := storeIn(t)
	root := filepath.Join(dir, "root")
	must(t, syscall.Mount(root, root, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(root, syscall.MNT_DETACH)) })
	must(t, syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
	for _, line := range []string{"list", "inspect x:1", "verify x:1", "convert --to universal x:1 ./out.tar", "push --plain-http x:1 " + registry.Host + "/x:1"} {
		if said, err := shell(t, dir, `"$CKARCHIVE" `+line, false); err != nil {
			t.Errorf("%s: %v: %s", line, err, said)
		}
	}
	for _, line := range []string{"import ./c.tar.zst new:1", "tag x:1 new:1", "rm x:1", "gc", "flatten x:1 new:1", "pull --plain-http " + registry.Host + "/x:1"} {
		if said, err := shell(t, dir, `"$CKARCHIVE" `+line, false); err == nil || !strings.HasSuffix(err.Error(), " 5") || !strings.Contains(said, "read-only file system") {
			t.Errorf("%s: %v, want status 5 and the reason: %s", line, err, said)
		}
	}
}

// What the disk refuses at the last moment, when a file is synced or named, is an error of every verb that writes:
// nothing new is there afterwards.
func TestFailingSystemCalls(t *testing.T) {
	env.Require(t, "strace", "openssl")
	registry := env.Registry(t, env.RegistryOptions{})
	before := storeIn(t)
	for _, line := range []string{`"$CKARCHIVE" push --plain-http x:1 ` + registry.Host + `/good:1`, "openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out k.pem"} {
		if said, err := shell(t, before, line, false); err != nil {
			t.Fatal(said)
		}
	}
	list, err := shell(t, before, `"$CKARCHIVE" --json list`, false)
	must(t, err)
	faults := []struct{ call, errno, says string }{
		{"fsync", "EIO", "input/output error"}, {"fsync", "EDQUOT", "quota exceeded"}, {"renameat,renameat2", "EIO", "input/output error"},
	}
	if !full() {
		faults = faults[:1]
	}
	for _, fault := range faults {
		for _, v := range victims {
			if v.name == "gc" || strings.HasPrefix(v.name, "push") || strings.Contains(v.name, "registry") {
				continue // they write no file of their own
			}
			dir := copyOf(t, before)
			line := strings.ReplaceAll(v.line, "HOST", registry.Host)
			said, err := shell(t, dir, `strace -f --seccomp-bpf -o /dev/null -e trace=`+fault.call+` -e inject=`+fault.call+`:error=`+fault.errno+` "$CKARCHIVE" `+line, false)
			what := fault.call + " " + fault.errno + ", " + line
			if err == nil || !strings.HasSuffix(err.Error(), " 5") || !strings.Contains(said, fault.says) {
				t.Errorf("%s: %v, want status 5 and the reason: %s", what, err, said)
			}
			if now, err := shell(t, dir, `"$CKARCHIVE" --json list`, false); err != nil || now != list {
				t.Errorf("%s: the store has %s, %v, and had %s", what, now, err, list)
			}
			if _, err := os.Stat(filepath.Join(dir, v.file)); v.file != "" && err == nil {
				t.Errorf("%s: a file was left", what)
			}
			for _, left := range strayFiles(t, dir) {
				t.Errorf("%s: left behind: %s", what, left)
			}
		}
	}
}
