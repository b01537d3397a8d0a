package foreign

import (
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/stats"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// An image of CRIU is two magic numbers and records, each a 32-bit length and a protobuf message.
// See criu/image-desc.c and images/README.
const (
	imageMagics = 8
	recordHead  = 4
)

// records gives the messages of a small image.
func records(image []byte) ([][]byte, error) {
	if len(image) < imageMagics {
		return nil, errImage
	}
	image = image[imageMagics:]
	var list [][]byte
	for len(image) > 0 {
		if len(image) < recordHead {
			return nil, errImage
		}
		n := uint64(binary.LittleEndian.Uint32(image))
		if image = image[recordHead:]; n > uint64(len(image)) {
			return nil, errImage
		}
		list = append(list, image[:n])
		image = image[n:]
	}
	return list, nil
}

var errImage = errors.New("no image of CRIU")

// fromImages counts the processes and takes the statistics. A damaged image is judged before
// CRIU sees it, not here.
func fromImages(m *archive.Metadata, members map[string][]byte) {
	if tasks, err := records(members[archive.Image("pstree.img")]); err == nil {
		m.Container.Processes = len(tasks)
	}
	list, err := records(members[archive.StatsDump])
	if err != nil || len(list) == 0 {
		return
	}
	var e stats.StatsEntry
	if proto.Unmarshal(list[0], &e) != nil || e.GetDump() == nil {
		return
	}
	d := e.GetDump()
	m.Stats = &archive.Stats{
		FreezingTime: uint64(d.GetFreezingTime()), FrozenTime: uint64(d.GetFrozenTime()),
		MemdumpTime: uint64(d.GetMemdumpTime()), MemwriteTime: uint64(d.GetMemwriteTime()),
		PagesScanned: d.GetPagesScanned() + d.GetShpagesScanned(),
		PagesWritten: d.GetPagesWritten() + d.GetShpagesWritten(),
	}
}

// isHead tells whether a member says what the checkpoint is.
func isHead(name string) bool {
	return slices.Contains([]string{
		archive.ConfigDump, archive.SpecDump, archive.StatusDump, archive.MetadataFile, archive.BindMounts,
		archive.NetworkStatus, archive.StatsDump, archive.DumpLog, archive.Image("pstree.img"),
	}, name)
}

// rename is where a member has its place in the archive. A directory of bare images, as runtimes and
// Docker make it, is what others have in checkpoint/.
func rename(e archive.Entry) (string, error) {
	if strings.Contains(e.Name, "/") || e.Kind == archive.KindDir {
		return e.Name, nil
	}
	if path.Ext(e.Name) == ".img" || e.Name == archive.Descriptors {
		return archive.CleanName(archive.Image(e.Name))
	}
	return e.Name, nil
}
