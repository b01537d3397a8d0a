package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// An entry is a directory with a record and the members. The time of the record is that of the last use.
const (
	recordFile = "entry.json"
	membersDir = "archive"
	// recordVersion changes with the form of an entry: one of another version is of no use.
	recordVersion = 1
	// maxRecordBytes bounds a record. It is about as long as ckarchive.json.
	maxRecordBytes = archive.MaxJSONBytes
)

// Origin is where the checkpoint of an entry came from: [Cache.Evict] asks whether it is still there.
type Origin struct {
	// Store is the directory of an OCI layout, and Digest that of the checkpoint's manifest in it.
	Store  string `json:"store,omitempty"`
	Digest string `json:"digest,omitempty"`
	// File is the absolute path of an archive file, and Stamp what changes when the file does.
	File  string `json:"file,omitempty"`
	Stamp string `json:"stamp,omitempty"`
}

// FileOrigin is that of an archive file as it is now.
func FileOrigin(path string) (Origin, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Origin{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(abs, &st); err != nil {
		return Origin{}, fmt.Errorf("look at %q: %w", abs, err)
	}
	return Origin{File: abs, Stamp: fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())}, nil
}

// Key is what the checkpoint with this ckarchive.json is called in a cache. That file has the digests of
// all members, and so means this content and no other. It is not enough: who knows a ckarchive.json need
// not have the memory that belongs to it. So the checkpoint has to come from the same manifest, or from the
// same unchanged file.
func Key(metadata []byte, o Origin) string {
	h := sha256.New()
	for _, part := range []string{string(metadata), o.Digest, o.File, o.Stamp} {
		fmt.Fprintf(h, "%d\n%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// record is what is known of an entry.
type record struct {
	Version int       `json:"version"`
	Maker   string    `json:"maker"` // another version of the program may unpack in another way
	BootID  string    `json:"bootID"`
	Origin  Origin    `json:"origin"`
	Created time.Time `json:"created"`
	Bytes   int64     `json:"bytes"` // on the disk
	Files   []file    `json:"files"`
}

// file is a member as it was when the entry was made.
type file struct {
	Name    string    `json:"name"`
	Size    int64     `json:"size"` // bytes
	ModTime time.Time `json:"modTime"`
}

// list describes the members in dir.
func (r *record) list(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		r.Files = append(r.Files, file{Name: name, Size: info.Size(), ModTime: info.ModTime()})
		r.Bytes += onDisk(info)
		return nil
	})
}

// onDisk is the room of a file without its holes, in bytes.
func onDisk(info fs.FileInfo) int64 {
	const block = 512 // the unit of st_blocks, whatever that of the file system is
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * block
	}
	return info.Size()
}

// check tells why the entry in dir is of no use: nil if it is.
func (r *record) check(dir, maker, boot string) error {
	switch {
	case r.Version != recordVersion || r.Maker != maker:
		return fmt.Errorf("made by %s, version %d", archive.QuoteName(r.Maker), r.Version)
	case r.BootID != boot || boot == "":
		return errors.New("made before the last boot, and nothing was synced to the disk")
	}
	was := map[string]file{}
	for _, f := range r.Files {
		was[f.Name] = f
	}
	var now record
	if err := now.list(filepath.Join(dir, membersDir)); err != nil {
		return err
	}
	for _, f := range now.Files {
		old, ok := was[f.Name]
		if !ok || old.Size != f.Size || !old.ModTime.Equal(f.ModTime) {
			return fmt.Errorf("%s is not as it was made", archive.QuoteName(f.Name))
		}
	}
	if len(now.Files) != len(r.Files) {
		return fmt.Errorf("it has %d files, it was made with %d", len(now.Files), len(r.Files))
	}
	return nil
}

func readRecord(dir string) (*record, time.Time, error) {
	path := filepath.Join(dir, recordFile)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecordBytes {
		return nil, time.Time{}, fmt.Errorf("%q is no record of an entry", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	r := &record{}
	return r, info.ModTime(), json.Unmarshal(b, r)
}

// makeEntry makes the directory dir of the unpacked checkpoint src.
func makeEntry(ctx context.Context, dir, src string, r record) (*record, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	members := filepath.Join(dir, membersDir)
	if err := Share(ctx, members, src); err != nil {
		return nil, err
	}
	if err := r.list(members); err != nil {
		return nil, err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &r, os.WriteFile(filepath.Join(dir, recordFile), b, 0o600)
}
