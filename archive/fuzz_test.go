package archive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

// small bounds what a fuzzed archive may hold.
var small = archive.ReaderOptions{MaxBytes: 1 << 20}

// member is an entry as the format keeps it: what a second reading must give again.
type member struct {
	entry   archive.Entry
	content string
}

// members reads an archive to its end.
func members(ctx context.Context, b []byte) (list []member, err error) {
	src, err := archive.NewReader(bytes.NewReader(b), small)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		m := member{entry: e}
		if r != nil {
			content, err := io.ReadAll(r)
			if err != nil {
				return nil, err
			}
			m.content = string(content)
		}
		list = append(list, m)
	}
}

// FuzzReader reads anything: no panic, every refusal an ErrRejected, and what is accepted is the same
// after it was written again, and the same bytes from then on.
func FuzzReader(f *testing.F) {
	for _, h := range append(hostileNames("/canary"), hostileStructure()...) {
		f.Add(h.build(""))
	}
	for _, c := range []archive.Compression{archive.Zstd, archive.Gzip} {
		f.Add(packWith(f, tarOf(base("./")...), c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := members(t.Context(), b)
		if err != nil {
			if !errors.Is(err, archive.ErrRejected) {
				t.Fatalf("got %v, which is no ErrRejected", err)
			}
			return
		}
		once := rewrite(t, got)
		again, err := members(t.Context(), once)
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		compare(t, again, got)
		if twice := rewrite(t, again); !bytes.Equal(twice, once) {
			t.Fatal("the second rewriting gives other bytes than the first")
		}
	})
}

func rewrite(t *testing.T, list []member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := archive.NewWriter(&b)
	for _, m := range list {
		if err := w.Put(t.Context(), m.entry, strings.NewReader(m.content)); err != nil {
			t.Fatalf("what was accepted cannot be written: %v", err)
		}
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compare leaves out the folder of images, which the writer puts in its place.
func compare(t *testing.T, got, want []member) {
	t.Helper()
	strip := func(list []member) (out []member) {
		for _, m := range list {
			if m.entry.Name != archive.CheckpointDir || m.entry.Kind != archive.KindDir {
				out = append(out, m)
			}
		}
		return out
	}
	got, want = strip(got), strip(want)
	if len(got) != len(want) {
		t.Fatalf("got %d members, want %d", len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		if g.entry.Name != w.entry.Name || g.entry.Kind != w.entry.Kind || g.entry.Size != w.entry.Size || g.content != w.content {
			t.Fatalf("member %d: got %+v, want %+v", i, g, w)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	for _, name := range []string{"a", "./a/b/", "..", "../a", "a/../b", "/a", "a//b", "a\x00b", "a\xff", "...", "./.", "..a/..b", "a\\..\\b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := archive.CleanName(name)
		if err != nil {
			if !errors.Is(err, archive.ErrRejected) {
				t.Fatalf("got %v, which is no ErrRejected", err)
			}
			return
		}
		if !fs.ValidPath(clean) || clean == "." {
			t.Errorf("%q: got %q, which is no valid path", name, clean)
		}
		if !filepath.IsLocal(clean) || !strings.HasPrefix(filepath.Join("/root", clean), "/root/") {
			t.Errorf("%q: got %q, which leaves its folder", name, clean)
		}
		if again, err := archive.CleanName(clean); err != nil || again != clean {
			t.Errorf("%q: got %q, then %q, %v: the clean name is not clean", name, clean, again, err)
		}
		if strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/") != clean {
			t.Errorf("%q: got %q, which changes more than the ends", name, clean)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"formatVersion":1,"members":[{"name":"a","size":1,"sha256":"` + digest + `"}]}`))
	f.Add([]byte(`{"formatVersion":1,"created":"2026-11-21T08:00:00+01:00","base":{"layers":["a"]},"externals":[{"kind":"file","flags":-1}]}`))
	f.Add([]byte(`{"formatVersion":1,"options":{"` + "\u2028" + `":"<&>"},"container":{"id":"\ud800"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := archive.ParseMetadata(b)
		if err != nil {
			if !errors.Is(err, archive.ErrRejected) {
				t.Fatalf("got %v, which is no ErrRejected", err)
			}
			return
		}
		once, err := m.Marshal()
		if err != nil {
			t.Fatalf("what was accepted cannot be written: %v", err)
		}
		again, err := archive.ParseMetadata(once)
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		if twice, err := again.Marshal(); err != nil || !bytes.Equal(twice, once) {
			t.Errorf("got %s, %v, want %s", twice, err, once)
		}
	})
}

// FuzzDecodeJSON holds DecodeJSON against encoding/json: it accepts nothing that the latter refuses,
// reads what it accepts the same, and that means the same to a reader that takes the first of
// duplicate keys.
func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `null`, `"x"`, `1e3`, `{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"s":1,"` + "\u017f" + `":2}`, `{"a":[{"b":null}]}`,
		`{"a":1}{"b":2}`, `{"a":"\ud83d\ude00"}`, "{\"a\":\"\xff\"}", ` {"a" : [ 1 , 2 ] } `, `{"a":1,"\u0061":2}`, `[1,]`, strings.Repeat("[", 300),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got any
		err := archive.DecodeJSON("x", b, &got)
		var want any
		jsonErr := json.Unmarshal(b, &want)
		if err != nil {
			if !errors.Is(err, archive.ErrRejected) {
				t.Fatalf("got %v, which is no ErrRejected", err)
			}
			return
		}
		if jsonErr != nil {
			t.Fatalf("accepted, while encoding/json says %v", jsonErr)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v as encoding/json reads it", got, want)
		}
		if want == nil {
			t.Error("null was accepted")
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		if first, err := firstWins(dec); err != nil || !reflect.DeepEqual(first, got) {
			t.Errorf("got %v, a reader that takes the first key %v, %v", got, first, err)
		}
	})
}

// firstWins decodes one value and keeps the first of keys that are equal or differ in case.
func firstWins(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		object := map[string]any{}
		for dec.More() {
			tok, err := dec.Token()
			if err != nil {
				return nil, err
			}
			key, _ := tok.(string)
			value, err := firstWins(dec)
			if err != nil {
				return nil, err
			}
			if !hasFold(object, key) {
				object[key] = value
			}
		}
		_, err := dec.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			value, err := firstWins(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err := dec.Token()
		return list, err
	}
	return tok, nil
}

func hasFold(object map[string]any, key string) bool {
	for k := range object {
		if strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}
