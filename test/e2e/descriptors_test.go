package e2e

import (
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/test/env"
)

func TestEstablishedConnection(t *testing.T) {
	h := newHost(t)
	env.Leaks(t, "CRIU") // its network lock
	c := h.start("c", counts("--tcp"))
	for _, engine := range []string{"direct", "runtime"} {
		h.run("export", "--engine", engine, "--base", h.built.base, c.id, h.path("c.tar")).refused(5, "established TCP connection", "--tcp-established")
		c.unharmed()
		o := h.run("export", "--force", "--engine", engine, "--base", h.built.base, c.id, h.path("c.tar")).
			refused(6, "going on all the same", "Connected TCP socket", "--tcp-established", "keeps running")
		log := namedLog(t, o, "dump.log")
		if !strings.Contains(readFile(t, log), "Connected TCP socket") {
			t.Errorf("the log %s does not hold the reason", log)
		}
		c.unharmed()
	}
	h.run("export", "--engine", "runtime", "--tcp-established", "--base", h.built.base, c.id, h.path("c.tar")).refused(2, "--engine direct", "--leave-running")
	h.run("export", "--tcp-close", "--tcp-established", "--base", h.built.base, c.id, h.path("c.tar")).refused(2, "exclude")
	if exists(t, h.path("c.tar")) {
		t.Error("a file was left")
	}
	// Leaving it running keeps the connection, too.
	for _, engine := range []string{"direct", "runtime"} {
		c.export(engine+".tar", "--leave-running", "--engine", engine, "--tcp-established", "--base", h.built.base)
		c.unharmed()
	}
	path := c.export("c.tar", "--tcp-established", "--base", h.built.base)
	if got := h.inspect(path).Metadata.Options["tcp-established"]; got != "true" {
		t.Errorf("the archive says %q of tcp-established, want true", got)
	}
	if got := c.state(); got != "stopped" {
		t.Errorf("the exported container is %s, want stopped", got)
	}
	for _, engine := range []string{"runtime", "direct"} {
		h.restore(engine, path, "--engine", engine, "--base", h.built.base).wellFrom(c)
	}
	// Twice in a row: the restored one is as good as the first.
	first := h.restore("first", path, "--base", h.built.base)
	first.wellFrom(c)
	second := first.export("second.tar", "--tcp-established", "--base", h.built.base)
	h.restore("second", second, "--base", h.built.base).wellFrom(first)
}

func TestNetworkLocks(t *testing.T) {
	h := newHost(t, "iptables", "nft")
	env.Leaks(t, "CRIU")
	c := h.start("c", counts("--tcp"))
	for i, lock := range []string{"iptables", "nftables", "skip"} {
		path := c.export(lock+".tar", "--tcp-established", "--network-lock", lock, "--base", h.built.base)
		r := h.restore(lock, path, "--engine", []string{"runtime", "direct"}[i%2], "--base", h.built.base)
		r.wellFrom(c)
		c = r
	}
}

func namedLog(t *testing.T, o outcome, name string) string {
	t.Helper()
	for word := range strings.FieldsSeq(o.stderr) {
		word = strings.Trim(word, `"();:,`)
		if strings.HasPrefix(word, "/") && strings.HasSuffix(word, name) {
			return word
		}
	}
	t.Fatalf("no %s is named: %s", name, o)
	return ""
}

func TestFileLock(t *testing.T) {
	h := newHost(t)
	c := h.start("c", env.BundleOptions{Args: []string{"/bin/locker"}})
	for _, engine := range []string{"direct", "runtime"} {
		h.run("export", "--engine", engine, "--base", h.built.base, c.id, h.path("c.tar")).refused(5, "--file-locks")
		h.run("export", "--force", "--engine", engine, "--base", h.built.base, c.id, h.path("c.tar")).refused(6, "--file-locks", "keeps running")
		c.awaitTicks(3)
	}
	path := c.export("c.tar", "--file-locks", "--base", h.built.base)
	for _, engine := range []string{"runtime", "direct"} {
		r := h.restore(engine, path, "--engine", engine, "--base", h.built.base)
		r.awaitTicks(5) // it checks its lock each time
		if !within(t.Context(), patience, func() bool { return last(c.ticks())+1 == r.ticks()[0] }) {
			t.Errorf("it goes on with tick %d, it ended with %d", r.ticks()[0], last(c.ticks()))
		}
		if text := readFile(t, r.log); strings.Contains(text, "lost") {
			t.Errorf("the lock was lost: %s", text)
		}
	}
}

func TestTerminal(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			opts := counts()
			opts.Terminal = true
			c := h.launch("c", opts)
			c.awaitTicks(3)
			path := c.export("c.tar", "--base", h.built.base)
			h.restoreRefused("no", []string{"--engine", engine, "--base", h.built.base, path}, 5, "--console-socket")
			socket, shown := terminal(t, h)
			r := h.restore("r", path, "--engine", engine, "--base", h.built.base, "--console-socket", socket)
			r.log = shown
			r.wellFrom(c)
		})
	}
}

func TestLinkRemap(t *testing.T) {
	h := newHost(t)
	opts := counts()
	opts.Args = []string{"/bin/sh", "-c", "echo kept >/tmp/a; ln /tmp/a /tmp/b; exec 9</tmp/a; rm /tmp/a; exec /bin/workload --tick 10ms"}
	c := h.start("c", opts)
	h.run("export", "--base", h.built.base, c.id, h.path("c.tar")).refused(5, "--link-remap")
	h.run("export", "--force", "--base", h.built.base, c.id, h.path("c.tar")).refused(6, "--link-remap", "keeps running")
	c.unharmed()
	path := c.export("c.tar", "--link-remap", "--base", h.built.base)
	for _, engine := range bothEngines() {
		h.restore(engine, path, "--engine", engine, "--base", h.built.base).wellFrom(c)
	}
}
