package main

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// The content of /dev/shm is a whole gzip tar, also where nobody says what was in it.
func TestPackShm(t *testing.T) {
	var held bytes.Buffer
	w := tar.NewWriter(&held)
	for _, h := range []*tar.Header{{Typeflag: tar.TypeDir, Name: "./", Mode: 0o1777}, {Name: "./shared", Mode: 0o600}} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content []byte
		want    int
	}{"known": {held.Bytes(), 2}, "unknown": {nil, 1}} {
		packed, err := packShm(c.content, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		plain, compression, err := archive.Decompress(bytes.NewReader(packed))
		if err != nil || compression != archive.Gzip {
			t.Fatalf("%s: %s, %v", name, compression, err)
		}
		r, n := tar.NewReader(plain), 0
		for h, err := r.Next(); err != io.EOF; h, err = r.Next() { //nolint:errorlint // as it is documented
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if n++; h.Typeflag == tar.TypeDir && h.Mode != 0o1777 {
				t.Errorf("%s: mode %o", name, h.Mode)
			}
		}
		if n != c.want {
			t.Errorf("%s: %d entries, want %d", name, n, c.want)
		}
	}
}
