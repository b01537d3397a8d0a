package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

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
	record := filepath.Join(a.madeDir(), madeName(metadata))
	if onlyOurs(record, unix.S_IFREG) != nil {
		return false
	}
	_ = os.Chtimes(record, time.Time{}, time.Now()) // what is used stays; see pruneMade
	return true
}

// maxMade is how many archives are remembered as made here. A container that is archived every ten minutes takes two years.
const maxMade = 100_000

// pruneMade forgets all archives of a directory of records but the last ones that were made or restored, and counts them. An
// archive that is forgotten is like one from elsewhere: it can be restored, and what goes beyond the defaults has to be granted.
// Their age does not matter: a clock that was wrong once must not cost any.
func pruneMade(dir string, most int, dryRun bool) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("look for records of archives made here: %w", err)
	}
	type record struct {
		name string
		used time.Time
	}
	records := make([]record, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another gc was faster
		}
		if err != nil {
			return 0, fmt.Errorf("look for records of archives made here: %w", err)
		}
		records = append(records, record{e.Name(), info.ModTime()})
	}
	slices.SortFunc(records, func(a, b record) int { return cmp.Or(b.used.Compare(a.used), cmp.Compare(a.name, b.name)) })
	old := records[min(most, len(records)):]
	if dryRun {
		return len(old), nil
	}
	for _, r := range old {
		if err := os.Remove(filepath.Join(dir, r.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("forget an archive made here: %w", err)
		}
	}
	return len(old), nil
}
