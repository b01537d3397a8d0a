package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
)

// CRIU archives a tmpfs with "tar --gzip" while the container stands still. Ours is the gzip that tar
// finds: it stores, and the archive is compressed when the container runs again. Any gzip unpacks that.

// gzipName is argv[0] of our gzip.
const gzipName = "gzip"

// toolsDir makes the directory that comes first where CRIU looks for programs.
func (a *app) toolsDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(a.cli.RunDir, "tools")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	link := filepath.Join(dir, gzipName)
	if at, err := os.Readlink(link); err == nil && at == self {
		return dir, nil
	}
	// Another ckarchive may do the same at this moment, and yet another may use the link.
	temp := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := os.Symlink(self, temp); err != nil {
		return "", err
	}
	return dir, os.Rename(temp, link)
}

// runGzip is main of our gzip, which only packs: CRIU finds it in no restore.
func runGzip(args []string) int {
	err := fmt.Errorf("options %q are not known", args)
	if len(args) == 0 {
		err = storeGzip(os.Stdout, os.Stdin)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", gzipName, err)
		return 1
	}
	return 0
}

func storeGzip(w io.Writer, r io.Reader) error {
	z, err := gzip.NewWriterLevel(w, gzip.NoCompression)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, r); err != nil {
		return err
	}
	return z.Close()
}
