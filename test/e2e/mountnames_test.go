package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/test/env"
)

// TestMountNames: mounts whose paths have spaces and the like come back, by a runtime and without one. What a runtime cannot be
// told is told of before the dump, and refused before the archive is unpacked; what CRIU cannot dump, before the freeze.
func TestMountNames(t *testing.T) {
	h := newHost(t)
	launch := func(name string, dests ...string) (c *container, flags []string) {
		opts := with(counts("--volume", dests[0]), specs.Mount{Destination: "/tmpfs of its own", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}})
		flags = []string{"--base", h.built.base}
		for _, dest := range dests {
			source := h.path("volumes", name, strings.ReplaceAll(dest, "/", ""))
			must(t, os.MkdirAll(source, 0o755))
			opts = with(opts, env.Bind(source, dest))
			flags = append(flags, "--map-mount", dest+"="+source)
		}
		return h.start(name, opts), flags
	}
	c, flags := launch("c", "/with space", "/with\ttab", `/with\backslash`, "/with=equals sign", "/ends with space ", "/it's")
	path := c.export("c.tar.zst", "--base", h.built.base)
	for _, engine := range []string{"runtime", "direct"} {
		r := h.restore(engine, path, append(flags, "--engine", engine)...)
		r.wellFrom(c)
		if written := len(ticksIn(t, h.path("volumes", "c", "with space", "workload.log"))); written == 0 {
			t.Error("nothing was written to the volume")
		}
	}

	c, flags = launch("quoted", `/with "quotes"`, "/with[brackets]")
	checked := func(status int, says string, args ...string) {
		t.Helper()
		if o := h.run(append([]string{"check"}, args...)...).want(status); !strings.Contains(o.stdout, says) {
			t.Errorf("check does not say %q: %s", says, o)
		}
	}
	checked(0, "configuration of CRIU", c.id)
	path = h.path("quoted.tar.zst")
	h.run("export", "--base", h.built.base, c.id, path).want(0, "warning", "configuration of CRIU")
	h.restoreRefused("no", append(flags, path), 5, "--engine direct")
	checked(5, "--engine direct", append(flags, path)...)
	r := h.restore("quoted-direct", path, append(flags, "--engine", "direct")...)
	r.wellFrom(c)

	c, _ = launch("broken", "/with\nline break")
	checked(5, "line break", c.id)
	h.run("export", "--base", h.built.base, c.id, h.path("broken.tar.zst")).want(5, "line break")
	c.unharmed()
}
