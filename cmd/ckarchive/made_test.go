package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// The archives that were made or restored last are remembered.
func TestPruneMade(t *testing.T) {
	a := &app{cli: &cli{Root: t.TempDir()}}
	if n, err := pruneMade(a.madeDir(), 3, false); n != 0 || err != nil {
		t.Errorf("without a directory: %d, %v", n, err)
	}
	if err := os.Mkdir(a.madeDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range 5 {
		names = append(names, madeName([]byte(strconv.Itoa(i))))
		path, at := filepath.Join(a.madeDir(), names[i]), time.Unix(1e9+int64(i), 0)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (left []string) {
		entries, err := os.ReadDir(a.madeDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, e.Name())
		}
		return left
	}
	if !a.madeHere([]byte("0")) {
		t.Error("the oldest is not known")
	}
	for _, most := range []int{6, 5} {
		if n, err := pruneMade(a.madeDir(), most, false); n != 0 || err != nil {
			t.Errorf("at most %d: %d, %v", most, n, err)
		}
	}
	if n, err := pruneMade(a.madeDir(), 3, true); n != 2 || err != nil || len(left()) != 5 {
		t.Errorf("dry run: %d, %v, left %q", n, err, left())
	}
	want := []string{names[0], names[3], names[4]} // 0 was used
	slices.Sort(want)
	if n, err := pruneMade(a.madeDir(), 3, false); n != 2 || err != nil || !slices.Equal(left(), want) {
		t.Errorf("%d, %v, left %q, want %q", n, err, left(), want)
	}
	if a.madeHere([]byte("1")) {
		t.Error("what was forgotten is still trusted")
	}
}
