package hostile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// member is one entry of a tar.
type member struct {
	name string
	kind byte // of a header; 0 is a regular file
	link string
	body []byte
	size int64             // says another size than that of body, unless it is 0
	pax  map[string]string // an extended header before it
	edit func(h []byte)    // the last word on the header, before its checksum
}

// checkpoint is what a tar holds, in order.
type checkpoint []member

const block = 512

// bytes gives the tar, with its end.
func (c checkpoint) bytes() []byte { return append(c.open(), make([]byte, 2*block)...) }

// open gives the tar without its end. It is written here and not by archive/tar, which is too polite.
func (c checkpoint) open() []byte {
	var b []byte
	for _, m := range c {
		b = append(b, m.bytes()...)
	}
	return b
}

func (m member) bytes() []byte {
	var out []byte
	if len(m.pax) > 0 {
		var records strings.Builder
		for key, value := range m.pax {
			n := len(key) + len(value) + 3
			for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
				n = len(fmt.Sprint(n)) + len(key) + len(value) + 3
			}
			fmt.Fprintf(&records, "%d %s=%s\n", n, key, value)
		}
		out = member{name: "PaxHeaders/x", kind: 'x', body: []byte(records.String())}.bytes()
	}
	h := make([]byte, block)
	copy(h[:100], m.name)
	copy(h[100:], "0000600\x000000000\x000000000\x00")
	size := int64(len(m.body))
	if m.size != 0 {
		size = m.size
	}
	if size < 0 || size >= 1<<33 {
		h[124] = 0x80
		if size < 0 {
			copy(h[124:132], "\xff\xff\xff\xff\xff\xff\xff\xff")
		}
		binary.BigEndian.PutUint64(h[128:], uint64(size))
	} else {
		copy(h[124:], fmt.Sprintf("%011o\x00", size))
	}
	copy(h[136:], "14524666400\x00")
	h[156] = m.kind
	if m.kind == 0 {
		h[156] = tar.TypeReg
	}
	copy(h[157:257], m.link)
	copy(h[257:], "ustar\x0000")
	if m.edit != nil {
		m.edit(h)
	}
	sum := 8 * int(' ')
	for i, c := range h {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	if h[148] == 0 {
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	out = append(append(out, h...), m.body...)
	return append(out, make([]byte, -len(m.body)&(block-1))...)
}

// find gives the place of a member.
func (c checkpoint) find(name string) int {
	i := slices.IndexFunc(c, func(m member) bool { return m.name == name })
	if i < 0 {
		panic("the pattern has no " + name)
	}
	return i
}

// with is c with members at its end.
func (c checkpoint) with(members ...member) checkpoint { return append(slices.Clone(c), members...) }

// without is c without a member.
func (c checkpoint) without(name string) checkpoint {
	i := c.find(name)
	return slices.Delete(slices.Clone(c), i, i+1)
}

// put is c with another content of a member, or a new one.
func (c checkpoint) put(name string, body []byte) checkpoint {
	i := slices.IndexFunc(c, func(m member) bool { return m.name == name })
	if i < 0 {
		return c.with(member{name: name, body: body})
	}
	c = slices.Clone(c)
	c[i].body = body
	return c
}

// body is the content of a member.
func (c checkpoint) body(name string) []byte { return slices.Clone(c[c.find(name)].body) }

// spec is c with a change in its runtime configuration.
func (c checkpoint) spec(edit func(*specs.Spec)) checkpoint {
	var s specs.Spec
	if err := json.Unmarshal(c.body("spec.dump"), &s); err != nil {
		panic(err)
	}
	edit(&s)
	return c.put("spec.dump", encodeJSON(s))
}

// document is c with a change in a member that is a JSON object.
func (c checkpoint) document(name string, edit func(map[string]any)) checkpoint {
	var v map[string]any
	if err := json.Unmarshal(c.body(name), &v); err != nil {
		panic(err)
	}
	edit(v)
	return c.put(name, encodeJSON(v))
}

func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// image names a member with an image of CRIU by its beginning.
func (c checkpoint) image(prefix string) string {
	i := slices.IndexFunc(c, func(m member) bool { return strings.HasPrefix(m.name, "checkpoint/"+prefix) })
	if i < 0 {
		panic("the pattern has no image " + prefix)
	}
	return c[i].name
}

// commonMagic begins all images but the inventory.
const commonMagic = 0x54564319

// entries splits an image of CRIU behind its magic numbers.
func entries(image []byte) (magic []byte, list [][]byte) {
	magic, rest := image[:4], image[4:]
	if binary.LittleEndian.Uint32(magic) == commonMagic {
		magic, rest = image[:8], image[8:]
	}
	for len(rest) > 0 {
		n := binary.LittleEndian.Uint32(rest)
		list, rest = append(list, rest[4:4+n]), rest[4+n:]
	}
	return magic, list
}

// images is c with all entries of an image changed; edit gives those that take the place of one.
func images[T any, P interface {
	*T
	proto.Message
}](c checkpoint, prefix string, edit func(P) []proto.Message) checkpoint {
	name := c.image(prefix)
	magic, list := entries(c.body(name))
	out := slices.Clone(magic)
	for _, raw := range list {
		m := P(new(T))
		if err := proto.Unmarshal(raw, m); err != nil {
			panic(err)
		}
		for _, e := range edit(m) {
			b, err := proto.Marshal(e)
			if err != nil {
				panic(err)
			}
			out = append(binary.LittleEndian.AppendUint32(out, uint32(len(b))), b...)
		}
	}
	return c.put(name, out)
}

func packed(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func zpacked(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(b, nil)
}

// readCheckpoint reads a tar that export wrote, without the digests of its members.
func readCheckpoint(t *testing.T, path string) (c, proven checkpoint) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		proven = append(proven, member{name: h.Name, kind: h.Typeflag, body: body})
	}
	return proven.without("ckarchive.json"), proven
}
