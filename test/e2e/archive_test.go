package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/test/env"
)

// magic is how the content of a compressed file begins.
var magic = map[string]struct {
	at    int
	bytes string
}{
	"zstd": {0, "\x28\xb5\x2f\xfd"},
	"gzip": {0, "\x1f\x8b\x08"},
	"none": {257, "ustar"},
}

func wantCompression(t *testing.T, path, want string) {
	t.Helper()
	head := make([]byte, 512)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	if _, err := f.Read(head); err != nil {
		t.Fatal(err)
	}
	if m := magic[want]; !bytes.HasPrefix(head[m.at:], []byte(m.bytes)) {
		t.Errorf("%s begins with % x, want %s", filepath.Base(path), head[:8], want)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
		t.Errorf("mode of %s: %v, want %v: memory holds secrets", filepath.Base(path), got, want)
	}
}

func TestCompressions(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts())
	for _, tt := range []struct {
		file, flag, want string
	}{
		{"a.img", "", "zstd"},
		{"a.tar", "", "none"},
		{"a.tar.gz", "", "gzip"},
		{"a.tgz", "", "gzip"},
		{"a.tar.zst", "", "zstd"},
		{"flag-none", "none", "none"},
		{"flag-gzip", "gzip", "gzip"},
		{"flag-zstd", "zstd", "zstd"},
		{"e.tar.gz", "none", "none"},
	} {
		flags := []string{"--leave-running", "--base", h.built.base}
		if tt.flag != "" {
			flags = append(flags, "--compress", tt.flag)
		}
		path := c.export(tt.file, flags...)
		wantCompression(t, path, tt.want)
		h.ok("verify", path)
	}
	h.run("export", "--compress", "lzma", c.id, h.path("f")).refused(2, "lzma")
	// What a file holds says its content, not its name.
	for file, as := range map[string]string{"a.tar.gz": "x.tar", "a.tar.zst": "y.tar.gz", "a.tar": "z.tar.zst"} {
		if err := os.Rename(h.path(file), h.path(as)); err != nil {
			t.Fatal(err)
		}
		r := h.restore(as, h.path(as), "--base", h.built.base)
		r.awaitTicks(3)
		r.wellBehaved()
	}
	c.unharmed()
}

func TestLeaveRunning(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", counts("--children", "1"))
			path := c.export("c.tar.zst", "--leave-running", "--engine", engine, "--base", h.built.base)
			c.unharmed()
			// It comes to life beside the original.
			r := h.restore("copy", path, "--base", h.built.base)
			r.awaitTicks(3)
			r.wellBehaved()
			if first := r.ticks()[0]; first > last(c.ticks()) || first < 2 {
				t.Errorf("the copy goes on with tick %d, the original is at %d", first, last(c.ticks()))
			}
			c.unharmed()
		})
	}
}

// Everything at once that the workload can carry.
func TestEverythingCarried(t *testing.T) {
	for _, engine := range []string{"runtime", "direct"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t)
			c := h.start("c", with(counts("--children", "3", "--tmpfs", "/mem", "--deleted"), env.Tmpfs("/mem")))
			c.awaitTicks(20) // the deleted file and the tmpfs grow
			path := c.export("c.tar", "--base", h.built.base)
			if got := c.state(); got != "stopped" {
				t.Errorf("the exported container is %s, want stopped", got)
			}
			tmpfsIsStored(t, path)
			h.restore("r", path, "--engine", engine, "--base", h.built.base).wellFrom(c)
		})
	}
}

// tmpfsIsStored checks that nobody compressed the content of a tmpfs while the container stood still.
func tmpfsIsStored(t *testing.T, path string) {
	t.Helper()
	src, err := archive.OpenFile(path, archive.ReaderOptions{})
	must(t, err)
	defer src.Close()
	found := 0
	for {
		e, r, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if !strings.HasSuffix(e.Name, ".tar.gz.img") {
			continue
		}
		found++
		// A header of ten bytes, and the type of the first block in three bits (RFC 1951, 3.2.3): 00 is stored.
		head := make([]byte, 11)
		_, err = io.ReadFull(r, head)
		must(t, err)
		if head[10]&6 != 0 {
			t.Errorf("%s is compressed", e.Name)
		}
	}
	if found == 0 {
		t.Error("the archive holds no tmpfs")
	}
}

func TestVolume(t *testing.T) {
	h := newHost(t)
	volume, other := h.path("volume"), h.path("other")
	for _, d := range []string{volume, other} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := h.start("c", with(counts("--volume", "/vol"), env.Bind(volume, "/vol")))
	path := c.export("c.tar.zst", "--base", h.built.base)
	h.restoreRefused("no", []string{"--base", h.built.base, path}, 5, "--map-mount", "/vol")
	// The volume is the operator's business: it is carried over by hand.
	for i, engine := range []string{"runtime", "direct"} {
		dir := []string{other, volume}[i]
		if dir == other {
			command(t, "cp", "-a", volume+"/workload.log", other)
		}
		before := len(ticksIn(t, filepath.Join(dir, "workload.log")))
		r := h.restore(engine, path, "--engine", engine, "--base", h.built.base, "--map-mount", "/vol="+dir)
		r.wellFrom(c)
		list := ticksIn(t, filepath.Join(dir, "workload.log"))
		if len(list) <= before {
			t.Errorf("nothing was written to the volume in %s", dir)
		}
		for i, n := range list {
			if n != i+1 {
				t.Fatalf("line %d of the volume's file in %s is of tick %d", i+1, dir, n)
			}
		}
	}
}

func TestVolumeIsMissing(t *testing.T) {
	h := newHost(t)
	volume := h.path("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	c := h.start("c", with(counts("--volume", "/vol"), env.Bind(volume, "/vol")))
	path := c.export("c.tar.zst", "--base", h.built.base)
	for _, engine := range []string{"runtime", "direct"} {
		h.restoreRefused(engine, []string{"--engine", engine, "--base", h.built.base, "--map-mount", "/vol=" + h.path("absent"), path}, 5, h.path("absent"), "/vol")
	}
}

// restoreRefused tries a restore that has to fail and to leave nothing.
func (h *host) restoreRefused(name string, args []string, status int, says ...string) outcome {
	h.t.Helper()
	c := &container{t: h.t, h: h, id: h.id(name), log: h.path(name + ".log")}
	h.t.Cleanup(c.remove)
	o := h.run(append([]string{"restore", "--detach", "--id", c.id}, args...)...).refused(status, says...)
	wantNothing(h, name)
	return o
}

// wantNothing checks that a restore that did not happen left nothing.
func wantNothing(h *host, name string) {
	h.t.Helper()
	id := h.id(name)
	for _, path := range []string{filepath.Join(h.root, "containers", id), filepath.Join(h.runtime, id), filepath.Join(h.runDir, "containers", id)} {
		if exists(h.t, path) {
			h.t.Errorf("left behind: %s", path)
		}
	}
	leaks(h.t, filepath.Join(h.root, "containers", id), id)
}

// A container's file that the host has open for it, and a short patience of the operator.
func TestTimeout(t *testing.T) {
	h := newHost(t)
	c := h.start("c", counts("--memory", "64"))
	began := time.Now()
	h.run("export", "--timeout", "1ms", "--base", h.built.base, c.id, h.path("c.tar")).refused(6, "longer than 1ms")
	if took := time.Since(began); took > patience {
		t.Errorf("giving up took %s", took)
	}
	c.unharmed()
	if exists(t, h.path("c.tar")) {
		t.Error("a file was left")
	}
}
