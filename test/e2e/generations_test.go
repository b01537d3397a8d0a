package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/test/env"
)

// inspected is what inspect --json prints, as far as tests look.
type inspected struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Runtime  string `json:"runtime"`
	Metadata struct {
		Container struct {
			Generation int `json:"generation"`
			Processes  int `json:"processes"`
		} `json:"container"`
		Rootfs struct {
			Method  string `json:"method"`
			Files   int    `json:"files"`
			Deleted int    `json:"deleted"`
		} `json:"rootfs"`
		Options map[string]string `json:"options"`
		Stats   *struct {
			PagesWritten int `json:"pagesWritten"`
		} `json:"stats"`
		Externals []external `json:"externals"`
	} `json:"metadata"`
}

func (h *host) inspect(src string) inspected {
	h.t.Helper()
	return decode[inspected](h.ok("inspect", "--json", src))
}

func TestTwoGenerations(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("first", counts("--children", "2", "--tmpfs", "/dev/shm", "--deleted"))
			c.verify()
			for generation, name := range []string{"one", "two"} {
				path := c.export(name+".tar.zst", "--base", h.built.base)
				h.ok("verify", path)
				got := h.inspect(path)
				if got, want := got.Metadata.Container.Generation, generation+1; got != want {
					t.Errorf("generation %d, want %d", got, want)
				}
				if got, want := got.Metadata.Container.Processes, 3; got != want {
					t.Errorf("%d processes, want %d", got, want)
				}
				next := h.restore(name, path, "--engine", engine, "--base", h.built.base)
				next.wellFrom(c)
				c = next
			}
		})
	}
}

// sumsOf gives the SHA-256 of the pages files in an uncompressed archive.
func sumsOf(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	sums, r := map[string]string{}, tar.NewReader(f)
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return sums
		}
		must(t, err)
		if !archive.IsPages(e.Name) {
			continue
		}
		h := sha256.New()
		_, err = io.Copy(h, r)
		must(t, err)
		sums[path.Base(e.Name)] = hex.EncodeToString(h.Sum(nil))
	}
}

// rebuilt takes a checkpoint apart and checks that each pages file is, bit for bit, the one that the dump has
// hashed before it was stored as pages. It gives their SHA-256.
func (h *host) rebuilt(src string, flags ...string) map[string]string {
	h.t.Helper()
	file := h.path("rebuilt.tar")
	h.ok(append(append([]string{"convert", "--to", "universal", "--compress", "none"}, flags...), src, file)...)
	got := sumsOf(h.t, file)
	must(h.t, os.Remove(file))
	said := decode[struct {
		Metadata struct {
			Members []archive.Member `json:"members"`
		} `json:"metadata"`
	}](h.ok(append(append([]string{"inspect", "--json"}, flags...), src)...))
	want := map[string]string{}
	for _, m := range said.Metadata.Members {
		if archive.IsPages(m.Name) {
			want[path.Base(m.Name)] = m.SHA256
		}
	}
	if len(want) == 0 || !maps.Equal(got, want) {
		h.t.Errorf("%s: the pages files are %v, they were %v", src, got, want)
	}
	return got
}

// hashingRunc is a runc that writes the SHA-256 of each pages file of a checkpoint to a file. It lets CRIU write to a
// directory of its own first, as those that ckarchive gives it may be pipes.
func (h *host) hashingRunc(to string) string {
	h.t.Helper()
	program, own := h.path("hashing/runc"), h.path("hashing/images")
	must(h.t, os.Mkdir(h.path("hashing"), 0o755))
	script := fmt.Sprintf(`#!/bin/sh
images= before= verb=
for arg; do
	shift
	[ "$before" = --image-path ] && images=$arg && arg=%[2]q
	[ "$arg" = checkpoint ] && verb=$arg
	before=$arg
	set -- "$@" "$arg"
done
%[1]q "$@" || exit
[ "$verb" = checkpoint ] || exit 0
cd %[2]q && sha256sum pages-*.img >%[3]q || exit
for f in *; do
	cat "$f" >"$images/$f" || exit
done
rm -r %[2]q
`, env.Program(h.t, "runc"), own, to)
	must(h.t, os.WriteFile(program, []byte(script), 0o755))
	return program
}

// Ten checkpoints of a container whose memory changes all the time, each a child of the one before; half of them are
// removed, here and in the registry, with everything that only they needed. The others come back, and their
// memory is bit for bit what was dumped.
func TestTenGenerations(t *testing.T) {
	h, other := newHost(t, "docker-registry", "registry", "skopeo"), newHost(t)
	one, two := env.Registry(t, env.RegistryOptions{}), env.Registry(t, env.RegistryOptions{V3: true})
	dumped := h.path("dumped")
	runc := h.hashingRunc(dumped)
	c := h.start("c", counts("--children", "1"))
	name := func(i int) string { return fmt.Sprintf("%s/team/c:g%d", one.Host, i) }
	var digests []string
	left, pages := []int{1, 2, 5, 7, 9}, map[int]map[string]string{}
	for i := range 10 {
		args := []string{"export", "--leave-running", "--base", h.built.base}
		if i%2 == 1 { // as files, made by the runtime's own command
			args = append(args, "--engine", "runtime", "--runtime", runc)
		}
		digests = append(digests, h.ok(append(args, c.id, name(i))...).line())
		h.ok("push", "--plain-http", name(i), name(i))
		if slices.Contains(left, i) {
			pages[i] = h.rebuilt(name(i))
		}
		if i%2 == 1 && pages[i] != nil {
			own := map[string]string{}
			for line := range strings.Lines(readFile(t, dumped)) {
				sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
				own[file] = sum
			}
			if !maps.Equal(pages[i], own) {
				t.Errorf("generation %d: the pages files are %v, runc made %v", i, pages[i], own)
			}
		}
		c.awaitTicks(3 + i*i%7) // some pages change
	}
	if maps.Equal(pages[1], pages[2]) {
		t.Error("the memory does not change")
	}
	before := one.Blobs(t)
	for i, digest := range digests {
		if slices.Contains(left, i) {
			continue
		}
		h.ok("rm", name(i))
		one.Delete(t, "team/c", digest)
	}
	h.ok("gc")
	one.CollectGarbage(t)
	if after := one.Blobs(t); len(after) >= len(before) {
		t.Errorf("the registry had %d blobs and has %d, want fewer", len(before), len(after))
	}
	for _, i := range left {
		// What is left in the store, and what is in the registry.
		for _, where := range []map[string]string{h.rebuilt(name(i)), other.rebuilt(name(i), "--plain-http")} {
			if !maps.Equal(where, pages[i]) {
				t.Errorf("generation %d: the pages files are %v, they were %v", i, where, pages[i])
			}
		}
		r := other.restore(fmt.Sprint("r", i), name(i), "--plain-http", "--base", h.built.base)
		r.wellBehaved()
		r.remove()
	}

	last := two.Host + "/elsewhere/c:last"
	command(t, "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+name(9), "docker://"+last)
	third := newHost(t)
	if got := third.ok("pull", "--plain-http", last).line(); !strings.Contains(got, digests[9]) {
		t.Errorf("skopeo has made %s of %s", got, digests[9])
	}
	if got := third.rebuilt(last); !maps.Equal(got, pages[9]) {
		t.Errorf("after skopeo the pages files are %v, they were %v", got, pages[9])
	}
	third.restore("s", last, "--base", h.built.base).wellBehaved()
	c.unharmed()
}
