package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	"google.golang.org/protobuf/proto"
)

// Only the root directory gets other permissions; what else is known of it, and every other file, stays.
func TestSetRootMode(t *testing.T) {
	file := func(id uint32, name string, mode uint32) *fdinfo.FileEntry {
		return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: &id, Reg: &regfile.RegFileEntry{
			Id: &id, Flags: proto.Uint32(0), Pos: proto.Uint64(7), Fown: owner(), Name: &name, Mode: &mode,
		}}
	}
	root, other := file(1, "/", 0o41555), file(2, "/bin", 0o40555)
	dir := t.TempDir()
	path := filepath.Join(dir, FilesImage)
	if err := os.WriteFile(path, encode(t, magicFiles, root, other), 0o600); err != nil {
		t.Fatal(err)
	}
	if mode, known, err := RootMode(dir); mode != 0o555 || !known || err != nil {
		t.Fatalf("before: %04o, %v, %v, want 0555", mode, known, err)
	}
	if err := SetRootMode(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := encode(t, magicFiles, file(1, "/", 0o41755), other); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
}
