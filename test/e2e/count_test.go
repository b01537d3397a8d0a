package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// copies are the containers that restore --count made.
func (h *host) copies(name string, numbers ...int) []*container {
	h.t.Helper()
	var list []*container
	for _, n := range numbers {
		id := h.id(name) + "-" + strconv.Itoa(n)
		home := filepath.Join(h.root, "containers", id)
		c := &container{t: h.t, h: h, id: id, bundle: filepath.Join(home, "bundle"), rootfs: filepath.Join(home, "bundle/rootfs"), log: filepath.Join(home, "container.log")}
		h.t.Cleanup(c.remove)
		list = append(list, c)
	}
	return list
}

// TestCount makes three containers of one checkpoint: each goes on for itself.
func TestCount(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--children", "1"))
	tcp := c.export("tcp.tar", "-R", "--tcp-established", "--base", h.built.base)
	path := c.export("c.tar.zst", "--base", h.built.base)
	all := h.copies("n", 1, 2, 3)
	said := decode[[]restored](h.ok("--json", "restore", "--detach", "--count", "3", "--id", h.id("n"), "--base", h.built.base, path))
	if len(said) != 3 {
		t.Fatalf("restore says %+v, want three containers", said)
	}
	for i, r := range all {
		if said[i].ID != r.id || said[i].Rootfs != r.rootfs {
			t.Errorf("number %d is %+v, want %s in %s", i+1, said[i], r.id, r.rootfs)
		}
		r.wellFrom(c)
	}
	writeFile(t, filepath.Join(all[0].rootfs, "tmp/own"), "")
	if exists(t, filepath.Join(all[1].rootfs, "tmp/own")) {
		t.Error("two containers have one root file system")
	}
	if left, err := filepath.Glob(filepath.Join(h.root, "containers", "unpack-*")); err != nil || len(left) > 0 {
		t.Errorf("%q is left: %v", left, err)
	}

	// Everything that can be known is judged before the first is made.
	h.run("restore", "--detach", "--count", "4", "--id", h.id("n"), "--base", h.built.base, path).refused(5, all[0].id)
	wantNothing(h, "n-4")
	h.run("restore", "--detach", "--count", "2", "--id", h.id("tcp"), "--base", h.built.base, tcp).refused(2, "--tcp-close")
	wantNothing(h, "tcp-1")
	o := h.ok("restore", "--dry-run", "--count", "9", "--id", h.id("dry"), "--base", h.built.base, path)
	if !strings.Contains(o.stdout, h.id("dry")+"-1 to "+h.id("dry")+"-9") {
		t.Errorf("--dry-run does not name the containers: %s", o)
	}
	for _, r := range all {
		r.unharmed()
	}
}

// TestCountOneFails: what is in the way of the second one harms no other.
func TestCountOneFails(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	h.ok("export", "--base", h.built.base, c.id, "warm:v1")
	home := filepath.Join(h.root, "containers", h.id("n")+"-2")
	must(t, os.MkdirAll(home, 0o700))
	must(t, syscall.Mount("tmpfs", home, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must(t, syscall.Unmount(home, syscall.MNT_DETACH)) })
	all := h.copies("n", 1, 3)
	o := h.run("--json", "restore", "--detach", "--engine", "direct", "--count", "3", "--id", h.id("n"), "--base", h.built.base, "warm:v1").want(8, "2 of 3", home)
	said := decode[[]restored](o)
	if len(said) != 2 || said[0].ID != all[0].id || said[1].ID != all[1].id {
		t.Fatalf("restore says %+v, want the first and the third", said)
	}
	for i, r := range all {
		r.direct, r.pid = true, said[i].PID
		r.wellFrom(c)
	}
}
