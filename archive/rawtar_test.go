package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

const (
	blockBytes = 512
	maxOctal   = 1<<33 - 1 // what the size field holds in octal
)

// raw is one header of a tar with its content, down to what archive/tar would not write.
type raw struct {
	name  string
	flag  byte // 0 means a regular file, '0'
	link  string
	body  string
	mode  int64
	size  *int64                  // instead of len(body)
	edit  func(*[blockBytes]byte) // before the checksum
	patch func(*[blockBytes]byte) // after it
}

func (r raw) bytes() []byte {
	var h [blockBytes]byte
	copy(h[0:100], r.name)
	mode, size, flag := r.mode, int64(len(r.body)), r.flag
	if mode == 0 {
		mode = 0o600
	}
	if r.size != nil {
		size = *r.size
	}
	if flag == 0 {
		flag = '0'
	}
	copy(h[100:], fmt.Sprintf("%07o\x00%07o\x00%07o\x00", mode, 0, 0))
	if size >= 0 && size <= maxOctal {
		copy(h[124:], fmt.Sprintf("%011o\x00", size))
	} else {
		h[124] = 0x80
		if size < 0 {
			copy(h[124:132], "\xff\xff\xff\xff")
		}
		binary.BigEndian.PutUint64(h[128:], uint64(size))
	}
	copy(h[136:], fmt.Sprintf("%011o\x00", 1700000000))
	h[156] = flag
	copy(h[157:257], r.link)
	copy(h[257:], "ustar\x0000")
	if r.edit != nil {
		r.edit(&h)
	}
	setChecksum(&h)
	if r.patch != nil {
		r.patch(&h)
	}
	out := append(h[:], r.body...)
	return append(out, make([]byte, -len(r.body)&(blockBytes-1))...)
}

func setChecksum(h *[blockBytes]byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// endMark is the two zero blocks.
var endMark = strings.Repeat("\x00", 2*blockBytes)

// tarOf joins headers and ends the tar.
func tarOf(members ...raw) []byte { return append(joined(members...), endMark...) }

func joined(members ...raw) []byte {
	var b []byte
	for _, m := range members {
		b = append(b, m.bytes()...)
	}
	return b
}

// paxRecord gives "LENGTH KEY=VALUE\n".
func paxRecord(key, value string) string {
	size := len(key) + len(value) + 3
	for len(fmt.Sprint(size))+len(key)+len(value)+3 != size {
		size = len(fmt.Sprint(size)) + len(key) + len(value) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", size, key, value)
}

func pax(records ...string) raw {
	return raw{name: "PaxHeaders.0/x", flag: 'x', body: strings.Join(records, "")}
}

func global(records ...string) raw {
	return raw{name: "pax_global_header", flag: 'g', body: strings.Join(records, "")}
}

func gnu(h *[blockBytes]byte) { copy(h[257:265], "ustar  \x00") }

func gnuLong(name string) raw {
	return raw{name: "././@LongLink", flag: 'L', body: name + "\x00", edit: gnu}
}

func size(n int64) *int64 { return &n }

// base is a harmless checkpoint whose names begin with prefix.
func base(prefix string) []raw {
	return []raw{
		{name: prefix + "config.dump", body: `{"id":"c1"}`},
		{name: prefix + "spec.dump", body: `{"ociVersion":"1.0.2"}`},
		{name: prefix + "checkpoint/", flag: '5', mode: 0o700},
		{name: prefix + "checkpoint/inventory.img", body: "inventory"},
		{name: prefix + "checkpoint/pages-1.img", body: strings.Repeat("p", 4096)},
	}
}

// packWith compresses as other programs do, in one frame or member.
func packWith(tb testing.TB, b []byte, c archive.Compression) []byte {
	tb.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch c {
	case archive.Zstd:
		z, err := zstd.NewWriter(&out)
		if err != nil {
			tb.Fatal(err)
		}
		w = z
	case archive.Gzip:
		w = pgzip.NewWriter(&out)
	default:
		return b
	}
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// The link to the images before is passed over for who asks for that, and no other link ever is.
func TestPassParent(t *testing.T) {
	link := func(name string) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []*tar.Header{
			{Name: "config.dump", Typeflag: tar.TypeReg, Mode: 0o600, Size: 2},
			{Name: name, Typeflag: tar.TypeSymlink, Linkname: "../pre-checkpoint", ModTime: time.Unix(1, 5), Format: tar.FormatPAX},
			{Name: "spec.dump", Typeflag: tar.TypeReg, Mode: 0o600, Size: 2},
		} {
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				if _, err := w.Write([]byte("{}")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	for _, tt := range []struct {
		name string
		pass bool
		ok   bool
	}{
		{"checkpoint/parent", true, true},
		{"checkpoint/parent", false, false},
		{"parent", true, false},
		{"checkpoint/pages-1.img", true, false},
	} {
		r, err := archive.NewReader(link(tt.name), archive.ReaderOptions{PassParent: tt.pass})
		if err != nil {
			t.Fatal(err)
		}
		list, err := archivetest.Read(t.Context(), r)
		if tt.ok && (err != nil || len(list) != 2) || !tt.ok && !errors.Is(err, archive.ErrRejected) {
			t.Errorf("%s, passed over %v: %d members, %v", tt.name, tt.pass, len(list), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
