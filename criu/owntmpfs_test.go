package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"google.golang.org/protobuf/proto"
)

// A tmpfs that was bound into the container becomes its own; a part of one, a directory that is none, and every other mount stay.
func TestOwnTmpfs(t *testing.T) {
	const shm = "/dev/shm"
	bound := func() *mnt.MntEntry {
		m := mount(mnt.Fstype_TMPFS, 3, 57, shm, shm)
		m.MasterId = proto.Uint32(12)
		return m
	}
	part := bound()
	part.Root = proto.String("/part")
	own := mount(mnt.Fstype_TMPFS, 3, 57, shm, "")
	own.MasterId = proto.Uint32(0)
	for name, c := range map[string]struct {
		is, want *mnt.MntEntry
		content  string
	}{
		"a whole tmpfs":  {bound(), own, "tmpfs-dev-57.tar.gz.img"},
		"a part of it":   {part, part, ""},
		"a directory":    {mount(mnt.Fstype_AUTO, 3, 57, shm, shm), mount(mnt.Fstype_AUTO, 3, 57, shm, shm), ""},
		"its own before": {own, own, ""},
	} {
		t.Run(name, func(t *testing.T) {
			other := mount(mnt.Fstype_TMPFS, 4, 58, "/cache", "/cache")
			dir := mountsDir(t, c.is, other)
			content, err := OwnTmpfs(dir, shm)
			must(t, err)
			if content != c.content {
				t.Errorf("its content is in %q, want %q", content, c.content)
			}
			got, err := os.ReadFile(filepath.Join(dir, "mountpoints-7.img"))
			must(t, err)
			if want := encode(t, magicMounts, mount(mnt.Fstype_OVERLAYFS, 1, 10, "/", "/"), c.want, other); !bytes.Equal(got, want) {
				t.Errorf("the mounts are %x, want %x", got, want)
			}
		})
	}
}
