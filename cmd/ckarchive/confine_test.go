package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// probeName is the argv[0] under which the test binary confines itself and tries what it may not.
const probeName = "ckarchive-probe"

// probe reads what it gets at "in/file" and "in/dir", and is outside at everything else. It prints a line for each attempt,
// and waits for the end of its input.
func probe() {
	dir, address, network := os.Args[1], os.Args[2], os.Args[3] == "network"
	in := func(name string) string { return filepath.Join(dir, "in", name) }
	out := func(name string) string { return filepath.Join(dir, "out", name) }
	b := boundary{reads: []string{in("file"), in("absent"), "/dev/fd/0"}, writes: []string{in("dir")}, network: network}
	if err := confine(b); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	open := func(path string, flags int) error {
		f, err := os.OpenFile(path, flags, 0o600)
		if err == nil {
			err = f.Close()
		}
		return err
	}
	list := func(path string) error { _, err := os.ReadDir(path); return err }
	dial := func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	run := func() error { return exec.Command("/bin/true").Run() }
	for _, try := range []struct {
		what string
		err  error
	}{
		{"read inside", open(in("file"), os.O_RDONLY)},
		{"make inside", open(in("dir/new"), os.O_WRONLY|os.O_CREATE|os.O_EXCL)},
		{"mkdir inside", os.Mkdir(in("dir/sub"), 0o700)},
		{"rename inside", os.Rename(in("dir/new"), in("dir/sub/new"))},
		{"truncate inside", os.Truncate(in("dir/sub/new"), 10)},
		{"list inside", list(in("dir"))},
		{"remove inside", os.RemoveAll(in("dir/sub"))},
		{"write what is read", open(in("file"), os.O_WRONLY)},
		{"read beside", open(in("beside"), os.O_RDONLY)},
		{"read outside", open(out("file"), os.O_RDONLY)},
		{"read through a link", open(in("dir/link"), os.O_RDONLY)},
		{"write outside", open(out("file"), os.O_WRONLY)},
		{"truncate outside", os.Truncate(out("file"), 0)},
		{"make outside", open(out("new"), os.O_WRONLY|os.O_CREATE)},
		{"remove outside", os.Remove(out("file"))},
		{"list outside", list(out(""))},
		{"link inside", os.Symlink("/", in("dir/new"))},
		{"device inside", unix.Mknod(in("dir/new"), unix.S_IFCHR, int(unix.Mkdev(1, 3)))},
		{"run", run()},
		{"connect", dial()},
	} {
		verdict := "done"
		if try.err != nil {
			verdict = "denied"
		}
		fmt.Printf("%s: %s\n", try.what, verdict)
	}
	for name, resource := range map[string]int{"files": unix.RLIMIT_NOFILE, "core": unix.RLIMIT_CORE} {
		var is unix.Rlimit
		if err := unix.Getrlimit(resource, &is); err != nil {
			fmt.Println(err)
		}
		fmt.Printf("limit of %s: %d %d\n", name, is.Cur, is.Max)
	}
	_, err := unix.Mmap(-1, 0, 1<<46, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	fmt.Printf("64 TiB of addresses: %v\n", err)
	fmt.Println("end")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// confined starts the probe, and gives what it said and how the kernel describes each of its threads.
func confined(t *testing.T, dir, address, network string) (said map[string]string, threads []map[string]string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Cmd{Path: self, Args: []string{probeName, dir, address, network}, Stderr: os.Stderr}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said = map[string]string{}
	for lines := bufio.NewScanner(stdout); lines.Scan() && lines.Text() != "end"; {
		what, how, _ := strings.Cut(lines.Text(), ": ")
		said[what] = how
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		status := map[string]string{}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, ":")
			status[key] = strings.TrimSpace(value)
		}
		threads = append(threads, status)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v", err, said)
	}
	return said, threads
}

// What is inside the boundary works, and nothing else does, in any thread.
func TestConfine(t *testing.T) {
	abi, err := llsys.LandlockGetABIVersion()
	if err != nil || abi < 2 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this kernel has version %d of Landlock: %v", abi, err)
		}
		t.Skipf("this kernel has version %d of Landlock: %v", abi, err)
	}
	dir := t.TempDir()
	for _, d := range []string{"in/dir", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"in/file", "in/beside", "out/file"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../out/file", filepath.Join(dir, "in/dir/link")); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	inside := []string{"read inside", "make inside", "mkdir inside", "rename inside", "truncate inside", "list inside", "remove inside"}
	for _, network := range []string{"network", "none"} {
		said, threads := confined(t, dir, listener.Addr().String(), network)
		want := map[string]string{
			"limit of files": fmt.Sprintf("%d %[1]d", maxOpenFiles), "limit of core": "0 0",
			"64 TiB of addresses": syscall.ENOMEM.Error(),
		}
		for what := range said {
			if _, told := want[what]; !told {
				want[what] = "denied"
			}
			if slices.Contains(inside, what) || what == "connect" && network == "network" {
				want[what] = "done"
			}
		}
		if abi < 3 {
			want["truncate outside"] = "done"
		}
		if abi < 4 {
			want["connect"] = "done"
		}
		if len(said) != 23 {
			t.Errorf("%d attempts: %v", len(said), said)
		}
		if !maps.Equal(said, want) {
			t.Errorf("%s: %v, want %v", network, said, want)
		}
		if len(threads) < 2 {
			t.Errorf("%d threads", len(threads))
		}
		for _, is := range threads {
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
				if strings.Trim(is[set], "0") != "" {
					t.Errorf("thread %s has %s %s", is["Pid"], set, is[set])
				}
			}
			if is["NoNewPrivs"] != "1" {
				t.Errorf("thread %s may get new privileges", is["Pid"])
			}
		}
	}
}

// A verb gets the directories that its command line names, and the local store only if it has to do with it.
func TestBound(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root, out, layout := filepath.Join(dir, "root"), filepath.Join(dir, "out"), filepath.Join(dir, "layout")
	for _, d := range []string{root, out, layout} {
		must(os.Mkdir(d, 0o700))
	}
	file := filepath.Join(dir, "x.tar")
	must(os.WriteFile(file, nil, 0o600))
	for _, tt := range []struct {
		line    string
		writes  []string
		network bool
	}{
		{"inspect FILE", nil, false},
		{"verify FILE", nil, false},
		{"verify oci:LAYOUT:1", []string{layout}, false},
		{"diff FILE x:1", []string{root}, false},
		{"convert FILE OUT/y.tar", []string{out}, false},
		{"convert --to ctr FILE OUT/y.tar", []string{out, root}, false},
		{"import FILE", []string{root}, false},
		{"push FILE oci:OUT/new/layout", []string{out, root}, false},
		{"push FILE example.com/x:1", []string{root}, true},
		{"pull example.com/x:1 OUT/y.tar", []string{out, root}, true},
		{"inspect example.com/x:1", []string{root}, true},
		{"sign --key k FILE", []string{dir}, false},
		{"list", []string{root}, false},
		{"rm x:1", []string{root}, false},
	} {
		line := strings.NewReplacer("FILE", file, "LAYOUT", layout, "OUT", out).Replace(tt.line)
		var got boundary
		a := &app{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }, confine: func(b boundary) error {
			got = b
			return errDiffer // before it does anything
		}}
		a.main(t.Context(), append([]string{"--root", root}, strings.Fields(line)...))
		writes := slices.DeleteFunc(got.writes, func(d string) bool { return d == os.TempDir() })
		slices.Sort(writes)
		slices.Sort(tt.writes)
		if !slices.Equal(writes, tt.writes) || got.network != tt.network {
			t.Errorf("%s: writes to %q, network %t, want %q, %t", tt.line, writes, got.network, tt.writes, tt.network)
		}
		if !slices.Contains(got.reads, file) && strings.Contains(tt.line, "FILE") {
			t.Errorf("%s: it may not read the file", tt.line)
		}
	}
}
