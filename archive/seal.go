package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Seal completes the unpacked checkpoint in dir: it writes the metadata members of
// [Universal] and, with the digests of everything, ckarchive.json. It sets
// m.Members and gives dir, together with the members that are kept aside, as a [Source]
// whose entries all have the time m.Created, so that the same checkpoint gives the same archive.
func Seal(ctx context.Context, dir string, aside Kept, m *Metadata, spec []byte) (Source, error) {
	files, err := Universal(m, spec)
	if err != nil {
		return nil, err
	}
	for name, content := range files {
		if err := writeNew(filepath.Join(dir, name), content); err != nil {
			return nil, err
		}
	}
	src, err := openKept(dir, aside, DirOptions{})
	if err != nil {
		return nil, err
	}
	m.Members, err = HashMembers(ctx, src)
	if err := errors.Join(err, src.Close()); err != nil {
		return nil, err
	}
	b, err := m.Marshal()
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", MetadataFile, err)
	}
	if err := writeNew(filepath.Join(dir, MetadataFile), b); err != nil {
		return nil, err
	}
	return openKept(dir, aside, DirOptions{ModTime: m.Created})
}

func writeNew(path string, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(content)
	return err
}
