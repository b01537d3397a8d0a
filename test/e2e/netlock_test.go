package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

// locks are the packet filter rules in the network namespace of a process that are CRIU's, by its
// names or its mark.
func locks(t *testing.T, pid int) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(command(t, "nsenter", "-t", strconv.Itoa(pid), "-n", "nft", "-s", "list", "ruleset")) {
		if strings.Contains(line, "CRIU") || strings.Contains(line, "c114") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return strings.Join(found, "\n")
}

// criuOf gives the CRIU that a process started, or 0.
func criuOf(parent int) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent)) // the pattern is well-formed
	var b []byte
	for _, list := range lists {
		children, _ := os.ReadFile(list) // a thread may have ended
		b = append(b, children...)
	}
	for field := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(comm)) == "criu" {
			return pid
		}
	}
	return 0
}

// killCRIU runs an export and kills its CRIU when the network is locked, and before that ckarchive
// itself, if both are to die.
func (h *host) killCRIU(both bool, args ...string) (int, string) {
	h.t.Helper()
	cmd := h.command(append([]string{"--progress", "json", "export"}, args...)...)
	stderr, err := cmd.StderrPipe()
	must(h.t, err)
	must(h.t, cmd.Start())
	var said strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		var e struct{ Event, Task string }
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event == "begin" && e.Task == "root file system" {
			criu := criuOf(cmd.Process.Pid)
			if criu == 0 {
				h.t.Fatal("no CRIU is at work")
			}
			if both {
				must(h.t, cmd.Process.Kill())
			}
			must(h.t, syscall.Kill(criu, syscall.SIGKILL))
			break
		}
	}
	rest, err := io.ReadAll(stderr)
	must(h.t, err)
	said.Write(rest)
	_ = cmd.Wait() // the status tells
	return statusOf(cmd.ProcessState), said.String()
}

// A CRIU that is killed leaves the container's connections locked. Whoever is left unlocks them: ckarchive,
// or, if it was killed too, the process that waits for that.
func TestNetworkLockOfKilledCRIU(t *testing.T) {
	for _, network := range []string{"own", "host", "shared"} {
		for _, lock := range []string{"iptables", "nftables"} {
			t.Run(network+" "+lock, func(t *testing.T) { killLocked(t, network, lock) })
		}
	}
}

func killLocked(t *testing.T, network, lock string) {
	env.Leaks(t, "CRIU")
	h := newHost(t, "iptables", "nft", "nsenter")
	opts := counts("--tcp", "--memory", "96") // which takes a while to archive
	switch network {
	case "host":
		opts.HostNetwork = true
	case "shared":
		opts.NetworkPath = h.sharedNetwork()
	}
	c := h.start("c", opts)
	before := locks(t, c.pid)
	for _, both := range []bool{false, true} {
		status, said := h.killCRIU(both, "--tcp-established", "--network-lock", lock, "--base", h.built.base, c.id, h.path("c.tar"))
		switch {
		case both && status == 128+int(syscall.SIGKILL), !both && status == 6:
		case !both && status == 10: // the archive was complete before the death was seen
			h.ok("verify", h.path("c.tar"))
			must(t, os.Remove(h.path("c.tar")))
		default:
			t.Fatalf("both killed: %v: status %d: %s", both, status, said)
		}
		if !both && !strings.Contains(said, "keeps running") {
			t.Errorf("standard error does not say that the container keeps running: %s", said)
		}
		if !within(t.Context(), patience, func() bool {
			return locks(t, c.pid) == before && len(entries(t, filepath.Join(h.root, "spool"))) == 0
		}) {
			t.Fatalf("both killed: %v: left in the network namespace:\n%s\nbefore:\n%s", both, locks(t, c.pid), before)
		}
		c.unharmed()
		noFiles(t, h.tmp)
		if exists(t, h.path("c.tar")) {
			t.Error("a file was left")
		}
	}
	for range 2 {
		h.ok("recover").want(0, "nothing to recover")
	}
}

// sharedNetwork makes a network namespace with lo in it, as a pod has it, and gives its path.
func (h *host) sharedNetwork() string {
	h.t.Helper()
	holder := exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat")
	in, err := holder.StdinPipe()
	must(h.t, err)
	out, err := holder.StdoutPipe()
	must(h.t, err)
	must(h.t, holder.Start())
	h.t.Cleanup(func() {
		_ = in.Close() // ends it
		_ = holder.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
}

// withoutIPTables lets a command run where no iptables is installed.
func withoutIPTables(cmd *exec.Cmd) *exec.Cmd {
	const hide = `mount -t tmpfs none /mnt && mkdir /mnt/none && for f in /usr/sbin/*tables*; do mknod "/mnt/none/${f##*/}" c 0 0; done &&
mount -t overlay overlay -o lowerdir=/mnt/none:/usr/sbin /usr/sbin && ! command -v iptables-restore && exec "$@"`
	hidden := exec.Command("unshare", append([]string{"--mount", "sh", "-c", hide, "sh", cmd.Path}, cmd.Args[1:]...)...)
	hidden.Env, hidden.Dir = cmd.Env, cmd.Dir
	return hidden
}

// TestNetworkLockOfAnotherHost: CRIU locks the network of a container that is restored as it did at the dump. A host without
// iptables locks it with nftables.
func TestNetworkLockOfAnotherHost(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	path := c.export("c.tar.zst", "--base", h.built.base)
	r := &container{t: t, h: h, id: h.id("r"), log: h.path("r.log")}
	t.Cleanup(r.remove)
	restore := func(id string, flags ...string) outcome {
		return h.end(withoutIPTables(h.command(append([]string{"--json", "restore", "--detach", "--log", r.log, "--id", id, "--base", h.built.base, path}, flags...)...)), nil)
	}
	said := decode[restored](restore(r.id).want(0, "method nftables"))
	r.pid, r.bundle, r.rootfs = said.PID, said.Bundle, said.Rootfs
	r.wellFrom(c)
	if left := locks(t, r.pid); left != "" {
		t.Errorf("the network is still locked: %s", left)
	}
	// CRIU alone restores the packet filters of the dump, and the lock with them.
	restore(h.id("direct"), "--engine", "direct").want(8, "which only the method of the dump removes", "--engine runtime")
	wantNothing(h, "direct")
	r = h.restore("skipped", path, "--base", h.built.base, "--network-lock", "skip")
	r.wellFrom(c)
	h.restoreRefused("unknown", []string{"--base", h.built.base, "--network-lock", "ufw", path}, 2, "iptables, nftables, skip")
}
