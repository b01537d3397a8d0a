package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPatternMixOfKinds(t *testing.T) {
	p, err := newPattern(1, kinds*100*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	var zero, text, noise int
	for number := range len(p.generations) {
		page := p.page(number)
		switch {
		case bytes.Count(page, []byte{0}) == pageSize:
			zero++
		case bytes.IndexFunc(page, func(r rune) bool { return r > 126 || r < ' ' && r != '\n' }) < 0:
			text++
		default:
			noise++
		}
	}
	if got, want := [3]int{zero, text, noise}, [3]int{300, 400, 500}; got != want {
		t.Errorf("zero, text and noise pages: got %v, want %v", got, want)
	}
}

func TestPatternDependsOnAll(t *testing.T) {
	const noise, text = kinds - 1, zeroKinds
	for _, number := range []uint64{noise, text} {
		base := make([]byte, pageSize)
		fillPage(base, 1, number, 1)
		for _, other := range []struct {
			what       string
			seed       uint64
			number     uint64
			generation uint32
		}{{"seed", 2, number, 1}, {"page", 1, number + kinds, 1}, {"change", 1, number, 2}} {
			page := make([]byte, pageSize)
			fillPage(page, other.seed, other.number, other.generation)
			if bytes.Equal(page, base) {
				t.Errorf("page %d is the same with another %s", number, other.what)
			}
		}
		again := make([]byte, pageSize)
		fillPage(again, 1, number, 1)
		if !bytes.Equal(again, base) {
			t.Errorf("page %d is not the same twice", number)
		}
	}
}

func TestPatternFindsOneWrongByte(t *testing.T) {
	p, err := newPattern(7, 64*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	for tick := range uint64(200) {
		p.rewrite(tick)
	}
	if err := p.verify(64); err != nil {
		t.Fatalf("verify untouched memory: %v", err)
	}
	for _, at := range []int{0, 5*pageSize + 17, len(p.memory) - 1} {
		p.memory[at] ^= 1
		if err := p.verify(64); err == nil {
			t.Errorf("byte %d is wrong, and nothing was found", at)
		}
		p.memory[at] ^= 1
	}
	p.next = 0
	p.memory[63*pageSize] ^= 1
	if err := p.verify(63); err != nil {
		t.Errorf("rolling verification looked too far: %v", err)
	}
	if err := p.verify(1); err == nil {
		t.Error("rolling verification did not go on where it ended")
	}
}

func newTestWorkload(t *testing.T) *workload {
	t.Helper()
	dir := t.TempDir()
	w, err := newWorkload(options{
		memory: 1, seed: 1, tmpfs: t.TempDir(), volume: t.TempDir(), deleted: true, tcp: true,
		status: filepath.Join(dir, "status"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func readStatus(t *testing.T, path string) status {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s status
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return s
}

func TestTicks(t *testing.T) {
	w := newTestWorkload(t)
	dir := filepath.Dir(w.opts.status)
	var out strings.Builder
	for range 70 { // more than the deleted file's rolling window
		if err := w.tick(&out); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "verify-request"), []byte("r1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.tick(&out); err != nil {
		t.Fatal(err)
	}
	got := readStatus(t, filepath.Join(dir, "verify-result"))
	if got.Tick != 71 || got.Request != "r1" || !got.MemoryOK || !got.TmpfsOK || !got.DeletedOK || !got.TCPOK || len(got.Errors) != 0 {
		t.Errorf("verify result: got %+v, want tick 71, request r1 and everything right", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "verify-request")); !os.IsNotExist(err) {
		t.Errorf("verify request is still there: %v", err)
	}
	if !strings.HasSuffix(out.String(), "\ntick 71\n") {
		t.Errorf("stdout ends with %q, want tick 71", out.String()[out.Len()-20:])
	}
}

func TestMismatchEndsIt(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, w *workload){
		"memory":  func(_ *testing.T, w *workload) { w.probes[0].probe.(*memoryProbe).memory[0] ^= 1 },
		"tmpfs":   func(t *testing.T, w *workload) { write(t, w.probes[1].probe.(*tmpfsProbe).file, 100) },
		"deleted": func(t *testing.T, w *workload) { write(t, w.probes[2].probe.(*deletedProbe).file, 3) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestWorkload(t)
			if err := w.tick(io.Discard); err != nil {
				t.Fatal(err)
			}
			spoil(t, w)
			w.probes[0].probe.(*memoryProbe).next = 0
			if err := w.tick(io.Discard); err == nil {
				t.Fatal("the tick went well, want an error")
			}
			s := readStatus(t, w.opts.status)
			right := map[string]bool{"memory": s.MemoryOK, "tmpfs": s.TmpfsOK, "deleted": s.DeletedOK}
			for probe, ok := range right {
				if ok != (probe != name) {
					t.Errorf("%s is right: got %t, want %t", probe, ok, probe != name)
				}
			}
			if len(s.Errors) != 1 || !strings.HasPrefix(s.Errors[0], name+": ") {
				t.Errorf("errors: got %q, want one of %s", s.Errors, name)
			}
		})
	}
}

func write(t *testing.T, f *os.File, at int64) {
	t.Helper()
	if _, err := f.WriteAt([]byte{0xff, 0xfe}, at); err != nil {
		t.Fatal(err)
	}
}

func TestChildAnswers(t *testing.T) {
	var out strings.Builder
	if err := runChild(3, strings.NewReader("5\n6\n9\n"), &out); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "5 1 ok\n6 2 ok\n9 3 ok\n"; got != want {
		t.Errorf("answers: got %q, want %q", got, want)
	}
	if err := runChild(3, strings.NewReader("five\n"), io.Discard); err == nil {
		t.Error("a request that is no number was taken")
	}
}
