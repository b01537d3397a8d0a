package runtime

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/ckarchive/ckarchive/archive"
)

// SandboxImages is what runsc's images say of themselves.
type SandboxImages struct {
	Version     string // of runsc
	Name        string // by which the images call the container
	Network     string // see [archive.Sandbox]
	Containers  int
	MemoryBytes int64 // size of the pages
}

// The head of runsc's checkpoint.img, as gvisor.dev/gvisor/pkg/state/statefile has it: the magic, the
// length of a JSON object in eight bytes, big end first, and the object, whose values are strings.
const (
	statefileMagic = "gVisorSF"
	maxStatefile   = 16 << 20 // bytes of the object
)

// CheckSandbox tells whether dir holds runsc's images of one container, all of them and nothing else:
// an [archive.ErrRejected] if not. What is in the images is decoded by the kernel of the new sandbox.
func CheckSandbox(dir string) (SandboxImages, error) {
	names := []string{archive.SandboxState, archive.SandboxPages, archive.SandboxPagesMeta}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return SandboxImages{}, fmt.Errorf("look for runsc's images: %w", err)
	}
	for _, e := range entries {
		// runsc acts on more than its images: gcs_opts.json lets it fetch others.
		if !slices.Contains(names, e.Name()) || !e.Type().IsRegular() {
			return SandboxImages{}, fmt.Errorf("%w: %s is none of runsc's images", archive.ErrRejected, archive.QuoteName(e.Name()))
		}
	}
	head, err := readStatefile(filepath.Join(dir, archive.SandboxState))
	if err != nil {
		return SandboxImages{}, err
	}
	images := SandboxImages{Version: head["runsc_version"], Network: head["network"]}
	if images.Containers, err = strconv.Atoi(head["container_count"]); err != nil || images.Containers != 1 {
		return images, fmt.Errorf("%w: %s holds %s containers, want one", archive.ErrRejected, archive.SandboxState, archive.QuoteName(head["container_count"]))
	}
	var containers map[string]json.RawMessage
	if err := json.Unmarshal([]byte(head["container_specs"]), &containers); err != nil || len(containers) != 1 {
		return images, fmt.Errorf("%w: %s does not name its container", archive.ErrRejected, archive.SandboxState)
	}
	for images.Name = range containers {
	}
	if head["compression"] != "none" {
		return images, nil // all of it is in the one file
	}
	for _, name := range names[1:] {
		info, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return images, fmt.Errorf("%w: %s is missing", archive.ErrRejected, name)
		}
		if err != nil {
			return images, err
		}
		if name == archive.SandboxPages {
			images.MemoryBytes = info.Size()
		}
	}
	return images, nil
}

// readStatefile reads the head of a checkpoint.img.
func readStatefile(path string) (map[string]string, error) {
	name := filepath.Base(path)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", archive.ErrRejected, name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	begin := make([]byte, len(statefileMagic)+8)
	if _, err := io.ReadFull(f, begin); err != nil || string(begin[:len(statefileMagic)]) != statefileMagic {
		return nil, fmt.Errorf("%w: %s is no image of runsc", archive.ErrRejected, name)
	}
	size := binary.BigEndian.Uint64(begin[len(statefileMagic):])
	if size > maxStatefile {
		return nil, fmt.Errorf("%w: the head of %s has %d bytes, the limit is %d", archive.ErrRejected, name, size, maxStatefile)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("%w: %s is cut in its head", archive.ErrRejected, name)
	}
	head := map[string]string{}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("%w: the head of %s: %w", archive.ErrRejected, name, err)
	}
	return head, nil
}
