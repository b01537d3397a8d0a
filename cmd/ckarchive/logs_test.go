package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/criu"
)

// Of the kept logs the oldest go, when there are many or when they are large.
func TestPruneLogs(t *testing.T) {
	for _, tt := range []struct {
		name        string
		logs        int
		size        int64
		want, first int // how many stay, and the first of them
	}{
		{"few", 3, 1, 3, 0},
		{"many", maxLogs + 5, 1, maxLogs, 5},
		{"large", 7, criu.MaxLogBytes, 4, 3},
		{"one too large", 2, 2 * maxLogBytes, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			began := time.Now()
			for i := range tt.logs {
				path := filepath.Join(dir, fmt.Sprintf("%03d-dump.log", i))
				f, err := os.Create(path)
				if err == nil {
					err = f.Truncate(tt.size) // sparse: only the size counts
				}
				if err == nil {
					err = f.Close()
				}
				at := began.Add(time.Duration(i) * time.Second)
				if err == nil {
					err = os.Chtimes(path, at, at)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := pruneLogs(dir); err != nil {
				t.Fatal(err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != tt.want || left[0].Name() != fmt.Sprintf("%03d-dump.log", tt.first) {
				t.Errorf("%d logs are left, %v, want %d from %03d on", len(left), err, tt.want, tt.first)
			}
		})
	}
}
