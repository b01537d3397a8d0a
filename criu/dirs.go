package criu

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// logLevel is CRIU's debug level: reasons of failures are only complete there.
const logLevel = 4

// dirs are the open directories of a request. CRIU opens them again through
// /proc/PID/fd of this process, so they have to stay open while it runs.
type dirs struct {
	images, work *os.File
}

func openDirs(images, work string) (*dirs, error) {
	i, err := os.Open(images)
	if err != nil {
		return nil, fmt.Errorf("open image directory: %w", err)
	}
	w, err := os.Open(work)
	if err != nil {
		i.Close() //nolint:errcheck // read side
		return nil, fmt.Errorf("open work directory: %w", err)
	}
	return &dirs{images: i, work: w}, nil
}

func (d *dirs) close() {
	d.images.Close() //nolint:errcheck // read side
	d.work.Close()   //nolint:errcheck // read side
}

// options begins the options of a request that logs to the file called log.
func (d *dirs) options(log string) *rpc.CriuOpts {
	return &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(int32(d.images.Fd())), //nolint:gosec // a descriptor
		WorkDirFd:   proto.Int32(int32(d.work.Fd())),   //nolint:gosec // a descriptor
		LogLevel:    proto.Int32(logLevel),
		LogFile:     proto.String(log),
	}
}

// makeDir makes a directory for secrets unless it is there, and gives its absolute path.
func makeDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", err
	}
	return abs, nil
}
