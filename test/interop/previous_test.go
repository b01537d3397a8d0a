package interop

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/test/env"
)

// An archive of --with-previous is of no use without that of --pre-checkpoint, and with it restores as a whole one. The
// kernel of this machine may not tell which memory changed, so a whole archive is taken apart; Podman restores the parts.
func TestPrevious(t *testing.T) {
	env.Leaks(t, mark())
	h, p := newHost(t), env.NewPodman(t)
	p.Image(t, h.base, baseImage)
	startPodman(t, p, "shop")
	whole, before, after := h.path("whole.tar"), h.path("before.tar"), h.path("after.tar")
	p.Run(t, "container", "checkpoint", "--compress", "none", "--export", whole, "shop")
	p.Run(t, "rm", "--force", "--time", "0", "shop")
	takeApart(t, whole, before, after)
	p.Run(t, "container", "restore", "--import-previous", before, "--import", after)
	inPodman(t, p, "shop").Verify(t)
	p.Run(t, "rm", "--force", "--time", "0", "shop")

	for file, says := range map[string]string{before: "a pre-checkpoint has no processes", after: "on top of an earlier one"} {
		if _, stderr, err := h.try("import", file, "part:1"); err == nil || !strings.Contains(stderr, says) || !strings.Contains(stderr, "--import-previous") {
			t.Errorf("import of %s alone: %v: %s", file, err, stderr)
		}
	}
	if _, stderr, err := h.try("import", "--import-previous", whole, after, "part:1"); err == nil || !strings.Contains(stderr, "was not made with --pre-checkpoint") {
		t.Errorf("import with the wrong part: %v: %s", err, stderr)
	}
	h.ok("import", whole, "whole:1")
	h.ok("import", "--import-previous", before, after, "joined:1")
	h.ok("convert", "--import-previous", before, after, h.path("joined.tar"))
	for _, joined := range []string{"joined:1", h.path("joined.tar")} {
		var said struct {
			Memory struct{ Same, Changed, Added, Removed int64 }
		}
		decode(t, h.ok("--json", "diff", "whole:1", joined), &said)
		if m := said.Memory; m.Same == 0 || m.Changed+m.Added+m.Removed > 0 {
			t.Errorf("the memory of %s is not that of the whole archive: %+v", joined, m)
		}
	}
	h.restoreHere(t, "runc", "joined:1", "--allow", "host:network")
}

// takeApart makes of an archive what Podman would have written in two steps, if the second half of each piece of memory had
// changed in between.
func takeApart(t *testing.T, whole, before, after string) {
	t.Helper()
	files, names := map[string][]byte{}, []string{}
	content, err := os.ReadFile(whole)
	must(t, err)
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		if header.Typeflag == tar.TypeReg {
			files[header.Name] = b
			names = append(names, header.Name)
		}
	}
	first := map[string][]byte{}
	for _, name := range names {
		if strings.HasPrefix(name, "checkpoint/pagemap-") {
			halve(t, name, files, first)
		}
	}
	write := func(path, link string, files map[string][]byte) {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for name, b := range files {
			must(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(b))}))
			_, err := w.Write(b)
			must(t, err)
		}
		if link != "" {
			must(t, w.WriteHeader(&tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: "../pre-checkpoint", Mode: 0o777}))
		}
		must(t, errors.Join(w.Close(), os.WriteFile(path, out.Bytes(), 0o600)))
	}
	for _, name := range []string{"config.dump", "spec.dump"} {
		first[name] = files[name]
	}
	first["pre-checkpoint/inventory.img"] = files["checkpoint/inventory.img"]
	write(before, "", first)
	write(after, "checkpoint/parent", files)
}

// halve moves the first half of each entry of a page map to the images before, which have zeros for the other.
func halve(t *testing.T, name string, files, before map[string][]byte) {
	t.Helper()
	const page, inParent = 4096, 1
	image := files[name]
	next := func() []byte {
		n := binary.LittleEndian.Uint32(image)
		record := image[4 : 4+n]
		image = image[4+n:]
		return record
	}
	put := func(to []byte, e *pagemap.PagemapEntry) []byte {
		record, err := proto.Marshal(e)
		must(t, err)
		return append(binary.LittleEndian.AppendUint32(to, uint32(len(record))), record...)
	}
	magic := image[:8]
	image = image[8:]
	head := next()
	var h pagemap.PagemapHead
	must(t, proto.Unmarshal(head, &h))
	pages := fmt.Sprintf("pages-%d.img", h.GetPagesId())
	memory := files["checkpoint/"+pages]
	now := append(binary.LittleEndian.AppendUint32(bytes.Clone(magic), uint32(len(head))), head...)
	old := bytes.Clone(now)
	var kept, given []byte
	for len(image) > 0 {
		var e pagemap.PagemapEntry
		must(t, proto.Unmarshal(next(), &e))
		n := e.GetNrPages()
		if e.GetFlags()&4 == 0 {
			now = put(now, &e)
			continue
		}
		half := n / 2
		old = put(old, &e)
		given = append(append(given, memory[:half*page]...), make([]byte, (n-half)*page)...)
		kept = append(kept, memory[half*page:n*page]...)
		memory = memory[n*page:]
		if half > 0 {
			part := proto.Clone(&e).(*pagemap.PagemapEntry)
			part.NrPages, part.Flags = &half, proto.Uint32(inParent)
			now = put(now, part)
		}
		rest := n - half
		e.Vaddr, e.NrPages = proto.Uint64(e.GetVaddr()+half*page), &rest
		now = put(now, &e)
	}
	files[name], files["checkpoint/"+pages] = now, kept
	early := "pre-" + name
	before[early], before["pre-checkpoint/"+pages] = old, given
}
