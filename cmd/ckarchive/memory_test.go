package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/oci/runtime"
)

// TestTakeFromRuntime: the memory that a runtime's dump writes is held, and where no pipes can be made it
// stays in files.
func TestTakeFromRuntime(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		inTheWay bool
		err      error
	}{"pipes": {}, "files": {inTheWay: true}, "failed": {err: broken}} {
		t.Run(name, func(t *testing.T) {
			hold, err := archive.NewHold(0)
			if err != nil {
				t.Fatal(err)
			}
			defer hold.Close()
			var said strings.Builder
			a := &app{stdout: io.Discard, stderr: &said, cli: &cli{}}
			x := &export{cmd: &exportCmd{Engine: engineRuntime, LeaveRunning: true}, ctr: &runtime.Container{PID: os.Getpid()}, hold: hold}
			dir := t.TempDir()
			images := filepath.Join(dir, "images")
			if err := os.Mkdir(images, 0o700); err != nil {
				t.Fatal(err)
			}
			if tt.inTheWay {
				if err := os.WriteFile(filepath.Join(images, "pages-2.img"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			taken, err := x.takeFromRuntime(t.Context(), a, images, dir, func() error {
				return errors.Join(tt.err, os.WriteFile(filepath.Join(images, "pages-1.img"), make([]byte, 8192), 0o600))
			})
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			_, inFile := os.Stat(filepath.Join(images, "pages-1.img"))
			if (inFile == nil) != tt.inTheWay || strings.Contains(said.String(), "memory goes to files") != tt.inTheWay {
				t.Errorf("pages are in a file: %v; it says %q", inFile == nil, said.String())
			}
			if want := int64(8192); !tt.inTheWay && (hold.Size() != want || tt.err == nil && taken["pages-1.img"] != want) {
				t.Errorf("%d bytes are held, %v was taken", hold.Size(), taken)
			}
		})
	}
}
