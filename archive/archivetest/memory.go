package archivetest

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// WithMemory is Checkpoint with that memory, whole pages, of a task that has all of it at one address.
func WithMemory(tb testing.TB, memory []byte) []File {
	tb.Helper()
	id, addr, few := uint32(1), uint64(0x10000), uint32(len(memory)/4096) //nolint:gosec // memory of a test
	n := uint64(few)
	img := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	img = binary.LittleEndian.AppendUint32(img, 0x56084025)
	for _, m := range []proto.Message{
		&pagemap.PagemapHead{PagesId: &id},
		&pagemap.PagemapEntry{Vaddr: &addr, CompatNrPages: &few, NrPages: &n, Flags: proto.Uint32(4)},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			tb.Fatal(err)
		}
		img = append(binary.LittleEndian.AppendUint32(img, uint32(len(b))), b...) //nolint:gosec // a few bytes
	}
	var files []File
	for _, f := range Checkpoint() {
		if f.Name == archive.Image("pages-1.img") {
			files = append(files, File{Name: archive.Image("pagemap-1.img"), Content: img})
			f.Content = bytes.Clone(memory)
		}
		files = append(files, f)
	}
	for i, f := range files {
		if f.Name == archive.MetadataFile {
			files[i] = Metadata(files)
		}
	}
	return files
}
