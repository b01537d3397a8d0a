package criu

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReleasePipes has a writer that waits for a reader, as CRIU does when ckarchive was killed.
func TestReleasePipes(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "inventory.img"), []byte("kept"), 0o600))
	pipe := filepath.Join(dir, "pages-1.img")
	must(t, unix.Mkfifo(pipe, 0o600))
	wrote := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		for err == nil { // what is written while the reader is there does not fail
			_, err = f.Write([]byte("memory"))
		}
		f.Close()
		wrote <- err
	}()
	for {
		must(t, ReleasePipes(dir))
		select {
		case err := <-wrote:
			if !errors.Is(err, unix.EPIPE) {
				t.Errorf("the writer got %v, want %v", err, unix.EPIPE)
			}
			must(t, ReleasePipes(filepath.Join(dir, "missing")))
			return
		case <-time.After(10 * time.Millisecond): // it had not begun to wait
		}
	}
}
