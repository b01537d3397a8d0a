package foreign

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// arrange makes the metadata and brings the members into the archive's order.
func (s *Source) arrange(opts Options) error {
	files := map[string][]byte{}
	for _, m := range s.members {
		if m.kept {
			files[m.entry.Name] = m.held
		}
	}
	if _, own := files[archive.MetadataFile]; own {
		meta, err := archive.ParseMetadata(files[archive.MetadataFile])
		if err != nil {
			return err
		}
		s.meta = meta
		s.sort(time.Time{})
		return nil
	}
	if err := s.check(); err != nil {
		return err
	}
	meta, err := s.complete(files)
	if err != nil {
		return err
	}
	for _, m := range s.members {
		if archive.IsPages(m.entry.Name) {
			meta.Container.MemoryBytes += m.entry.Size
		}
		if opts.Digests && m.entry.Kind == archive.KindFile {
			meta.Members = append(meta.Members, archive.Member{Name: m.entry.Name, Size: m.entry.Size, SHA256: m.sum})
		}
	}
	slices.SortFunc(meta.Members, func(a, b archive.Member) int { return compare(a.Name, b.Name) })
	raw, err := meta.Marshal()
	if err != nil {
		return err
	}
	s.meta = meta
	s.add(archive.MetadataFile, raw)
	s.sort(meta.Created)
	return nil
}

// complete gives what is known of the checkpoint. Of bare images it makes the members without
// which nothing restores.
func (s *Source) complete(files map[string][]byte) (*archive.Metadata, error) {
	for _, k := range s.known {
		if files[archive.SpecDump] == nil && k.Spec != nil {
			files[archive.SpecDump] = k.Spec
			s.add(archive.SpecDump, k.Spec)
		}
	}
	if files[archive.SpecDump] == nil {
		return nil, ErrBare
	}
	m, err := Facts(files)
	if err != nil {
		return nil, err
	}
	for _, k := range s.known {
		k.fill(m)
	}
	for _, f := range s.members {
		// CRIU writes it while the processes are frozen.
		if m.Created.IsZero() && f.entry.Name == archive.Image(archive.Inventory) {
			m.Created = f.entry.ModTime.UTC()
		}
	}
	if files[archive.ConfigDump] == nil {
		raw, err := minimalConfig(m)
		if err != nil {
			return nil, err
		}
		s.add(archive.ConfigDump, raw)
	}
	return m, nil
}

// add adds a member that is not stored.
func (s *Source) add(name string, content []byte) {
	sum := sha256.Sum256(content)
	s.members = append(s.members, member{
		entry: archive.Entry{Name: name, Size: int64(len(content)), Mode: memberMode},
		place: -1, held: content, kept: true, sum: hex.EncodeToString(sum[:]),
	})
}

const (
	memberMode = 0o600
	folderMode = 0o700
)

// check tells what is no checkpoint.
func (s *Source) check() error {
	images, predump := false, false
	for _, m := range s.members {
		images = images || m.entry.Name == archive.Image(archive.Inventory)
		predump = predump || strings.HasPrefix(m.entry.Name, PreCheckpointDir+"/")
	}
	switch {
	case images:
		return nil
	case predump:
		return fmt.Errorf("%w: %w: a pre-checkpoint has no processes, only the memory of before", archive.ErrNotArchive, ErrPartial)
	}
	return fmt.Errorf("%w: it has no %s", archive.ErrNotArchive, archive.Image(archive.Inventory))
}

// PreCheckpointDir is where Podman puts the images of --pre-checkpoint.
const PreCheckpointDir = "pre-checkpoint"

func (s *Source) sort(created time.Time) {
	s.nameFolders()
	slices.SortStableFunc(s.members, func(a, b member) int { return compare(a.entry.Name, b.entry.Name) })
	for i := range s.members {
		if !created.IsZero() {
			s.members[i].entry.ModTime = created
		}
	}
}

// nameFolders adds the folders that only other names imply: some tars name them and others do not,
// and the same checkpoint is to be the same archive.
func (s *Source) nameFolders() {
	named := map[string]bool{".": true}
	for _, m := range s.members {
		if m.entry.Kind == archive.KindDir {
			named[m.entry.Name] = true
		}
	}
	for _, m := range s.members {
		for dir := path.Dir(m.entry.Name); !named[dir]; dir = path.Dir(dir) {
			named[dir] = true
			s.members = append(s.members, member{entry: archive.Entry{Name: dir, Kind: archive.KindDir, Mode: folderMode, ModTime: m.entry.ModTime}, place: -1})
		}
	}
}

func compare(a, b string) int {
	switch {
	case archive.Less(a, b):
		return -1
	case archive.Less(b, a):
		return 1
	}
	return 0
}
