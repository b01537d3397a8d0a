package hostile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// damaged is a sample that every verb rejects.
func damaged(name string, archive func() []byte) sample {
	return sample{name: name, read: rejected, restore: rejected, archive: archive, late: true}
}

// tars have something wrong with the tar itself.
func tars(c checkpoint, canary string) []sample {
	symlink := func(name, to string) member { return member{name: name, kind: tar.TypeSymlink, link: to} }
	hardlink := func(name, to string) member { return member{name: name, kind: tar.TypeLink, link: to} }
	file := func(name string) member { return member{name: name, body: []byte("x")} }
	bad := func(name string, members ...member) sample { return damaged("tar "+name, c.with(members...).bytes) }
	instead := func(name string, m member) sample { // in the place of a member of the pattern
		return damaged("tar "+name, append(checkpoint{m}, c.without(m.name)...).bytes)
	}
	cut := func(name string, at int) sample { return damaged("tar "+name, func() []byte { return c.open()[:at] }) }
	bent := func(name string, edit func([]byte)) sample {
		return bad(name, member{name: "x", body: []byte("x"), edit: edit})
	}
	pages := c.image("pages-")
	beforePages := len(c[:c.find(pages)].open())
	whole := c.bytes()
	list := []sample{
		bad("absolute name", file(canary+"/new")),
		bad("name that climbs", file("../new")),
		bad("name that climbs within", file("checkpoint/../../new")),
		bad("name that climbs to a wanted one", file("../../tmp/config.dump")),
		bad("name that ends in a climb", file("checkpoint/..")),
		bad("empty name", member{body: []byte("x")}),
		bad("root that is a link", symlink("./", canary)),
		bad("link to a host's directory", symlink("artifacts", canary), file("artifacts/file")),
		bad("link that is relative", symlink("artifacts", "../../canary"), file("artifacts/new")),
		damaged("tar images are a link", append(checkpoint{symlink("checkpoint", canary)}, c...).bytes),
		instead("metadata are a link", symlink("config.dump", canary+"/file")),
		instead("configuration is a link", symlink("spec.dump", canary+"/file")),
		bad("log is a link", symlink("restore.log", canary+"/file")),
		bad("log of the container is a link", symlink("container.log", canary+"/file")),
		instead("image is a link", symlink(c.image("core-"), canary+"/file")),
		bad("parent image is a link", symlink("checkpoint/parent", canary)),
		bad("hard link to the host", hardlink("x", canary+"/file")),
		bad("hard link through a link", symlink("s", canary), hardlink("x", "s/file")),
		bad("hard link to a bare name", hardlink("x", "x.tar")),
		bad("hard link to a member", hardlink("x", "config.dump")),
		bad("character device", member{name: "x", kind: tar.TypeChar}),
		bad("block device", member{name: "x", kind: tar.TypeBlock}),
		bad("FIFO", member{name: "x", kind: tar.TypeFifo}),
		bad("unknown type", member{name: "x", kind: 'V', body: []byte("x")}),
		bad("member twice", file("spec.dump")),
		bad("member twice, once with a dot", file("./spec.dump")),
		bad("member twice, once with two slashes", file("checkpoint//inventory.img")),
		bad("below a file", file("spec.dump/x")),
		bad("file over a directory", file("checkpoint")),
		bad("NUL in a name", member{name: "x", pax: map[string]string{"path": "a\x00b"}}),
		bad("component that is too long", member{name: "x", pax: map[string]string{"path": strings.Repeat("a", 300)}}),
		bad("name that is too long", member{name: "x", pax: map[string]string{"path": strings.Repeat("abcdefg/", 700)}}),
		bad("name that is too deep", member{name: "x", pax: map[string]string{"path": strings.Repeat("a/", 500) + "x"}}),
		bad("harmless name with another behind it", member{name: "artifacts/x", pax: map[string]string{"path": "../../new"}}),
		bad("link with another target behind it", member{name: "x", kind: tar.TypeSymlink, link: "y", pax: map[string]string{"linkpath": canary}}),
		bad("bad extended header", member{name: "p", kind: 'x', body: []byte("9999 path=x\n")}, file("x")),
		bad("global header that names", member{name: "g", kind: 'g', body: []byte("12 path=../x\n")}, file("x")),
		bent("negative size", func(h []byte) { copy(h[124:136], bytes.Repeat([]byte{0xff}, 12)) }),
		bent("size of letters", func(h []byte) { copy(h[124:136], "abcdefghijk") }),
		bent("wrong checksum", func(h []byte) { copy(h[148:156], "0000001\x00") }),
		bad("directory with a size", member{name: "d/", kind: tar.TypeDir, size: block, body: member{name: "../x"}.bytes()}),
		bad("sparse file of a petabyte", member{name: "x", pax: map[string]string{
			"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "1125899906842624",
		}, body: append([]byte("1\n0\n0\n"), make([]byte, block-6)...)}),
		bad("member of an exabyte", member{name: "x", size: 1 << 60}),
		bad("old sparse file", member{name: "x", kind: 'S', edit: func(h []byte) { copy(h[257:265], "ustar  \x00"); h[482] = 1 }}),
		cut("cut in a header", 100),
		cut("cut in memory", beforePages+block+4096),
		cut("cut between members", beforePages),
		cut("cut before the end", len(c.open())),
		damaged("tar of nothing", checkpoint{}.bytes),
		damaged("empty file", func() []byte { return []byte{} }),
		damaged("text", func() []byte { return []byte(strings.Repeat("this is no archive\n", 99)) }),
		damaged("tar with rubbish behind", func() []byte { return append(slices.Clone(whole), "rubbish"...) }),
		damaged("two tars", func() []byte { return append(slices.Clone(whole), whole...) }),
		damaged("tar in a directory", nested(c, "foo/").bytes),
	}
	return list
}

// nested is c with all names below a directory.
func nested(c checkpoint, prefix string) checkpoint {
	c = slices.Clone(c)
	for i := range c {
		c[i].name = prefix + c[i].name
	}
	return c
}

// compressions have something wrong with how they are packed.
func compressions(c checkpoint) []sample {
	plain := c.bytes()
	gz, zst := packed(plain), zpacked(plain)
	flip := func(b []byte, at int) []byte {
		b = slices.Clone(b)
		b[at] ^= 0x10
		return b
	}
	bomb := c.with(member{name: "checkpoint/pages-9.img", size: bombBytes}).open()
	list := []sample{
		damaged("gzip cut in the middle", func() []byte { return gz[:len(gz)/2] }),
		damaged("gzip without its sum", func() []byte { return gz[:len(gz)-8] }),
		damaged("gzip with a wrong sum", func() []byte { return flip(gz, len(gz)-6) }),
		damaged("gzip with rubbish behind", func() []byte { return append(slices.Clone(gz), "rubbish"...) }),
		damaged("gzip in gzip", func() []byte { return packed(gz) }),
		damaged("zstd cut in the middle", func() []byte { return zst[:len(zst)/2] }),
		damaged("zstd without its sum", func() []byte { return zst[:len(zst)-4] }),
		damaged("zstd with a wrong sum", func() []byte { return flip(zst, len(zst)-1) }),
		damaged("zstd cut between frames", func() []byte { return zpacked(plain[:len(c[:c.find(c.image("pages-"))].open())]) }),
		damaged("zstd with a window of gigabytes", func() []byte { return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xb0, 0x01, 0x00, 0x00} }),
		damaged("zstd that unpacks to much more", func() []byte { return append(zpacked(bomb), zeros(bombBytes)...) }),
		damaged("xz", func() []byte { return []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46" + strings.Repeat("x", block)) }),
		damaged("bzip2", func() []byte { return []byte("BZh91AY&SY" + strings.Repeat("x", block)) }),
		damaged("zip", func() []byte { return []byte("PK\x03\x04" + strings.Repeat("x", block)) }),
	}
	return list
}

// bombBytes is much more than the memory that the program may take.
const bombBytes = 512 << 20

// zeros packs that many zeros in few bytes.
func zeros(n int64) []byte {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	if err != nil {
		panic(err)
	}
	if _, err := io.CopyN(w, endless{}, n); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// unpacked is what the layer of an image unpacks to; some cannot be.
func unpacked(b []byte) []byte {
	var r io.Reader = bytes.NewReader(b)
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		gz, err := gzip.NewReader(r)
		if err != nil {
			return nil
		}
		r = gz
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil
		}
		defer z.Close()
		r = io.LimitReader(z, 64<<20)
	}
	out, _ := io.ReadAll(r) //nolint:errcheck // as far as it goes
	return out
}
