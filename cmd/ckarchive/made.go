package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ckarchive/ckarchive/archive"
)

// madeDir has an empty file for every archive that this host exported, called by the SHA-256 of its
// ckarchive.json. That file has the digests of all members, so whoever presents it presents the
// very archive, wherever it was meanwhile; and only root can put a name there.
func (a *app) madeDir() string { return filepath.Join(a.cli.Root, "made") }

func madeName(metadata []byte) string {
	sum := sha256.Sum256(metadata)
	return hex.EncodeToString(sum[:])
}

// noteMade remembers that this host made an archive.
func (a *app) noteMade(m *archive.Metadata) error {
	b, err := m.Marshal()
	if err != nil {
		return err
	}
	if err := os.Mkdir(a.madeDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("note the archive as made here: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(a.madeDir(), madeName(b)), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("note the archive as made here: %w", err)
	}
	return f.Close()
}

// madeHere tells whether this host made the archive with this ckarchive.json.
func (a *app) madeHere(metadata []byte) bool {
	if len(metadata) == 0 || onlyOurs(a.madeDir(), unix.S_IFDIR) != nil {
		return false
	}
	return onlyOurs(filepath.Join(a.madeDir(), madeName(metadata)), unix.S_IFREG) == nil
}
