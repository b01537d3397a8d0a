package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ckarchive/ckarchive/criu"
)

// What is kept of CRIU's logs: a job that fails every minute must not fill the disk. One log has at most
// [criu.MaxLogBytes].
const (
	maxLogs     = 100
	maxLogBytes = 4 * criu.MaxLogBytes
)

// keepLog moves CRIU's log out of the spool, which goes, and makes the error name its
// new place.
func (a *app) keepLog(err error, log, id string) error {
	if _, serr := os.Stat(log); serr != nil {
		return err
	}
	if merr := os.MkdirAll(a.logDir(), 0o700); merr != nil {
		return errors.Join(err, merr)
	}
	kept := filepath.Join(a.logDir(), fmt.Sprintf("%s-%s-%s", id, time.Now().UTC().Format("20060102T150405.000"), filepath.Base(log)))
	if rerr := os.Rename(log, kept); rerr != nil {
		return errors.Join(err, rerr)
	}
	if perr := pruneLogs(a.logDir()); perr != nil {
		a.warn("remove old logs: %v", perr)
	}
	var ce *criu.Error
	if errors.As(err, &ce) {
		ce.LogPath = kept
		return err
	}
	return fmt.Errorf("%w (log: %s)", err, kept)
}

// pruneLogs removes the oldest logs in dir, as many as are too many or too large; the newest stays.
func pruneLogs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var logs []fs.FileInfo
	for _, e := range entries {
		info, ierr := e.Info()
		if ierr == nil && info.Mode().IsRegular() {
			logs = append(logs, info)
		}
	}
	slices.SortFunc(logs, func(a, b fs.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(b.Name(), a.Name()))
	})
	total := int64(0)
	for i, info := range logs {
		total += info.Size()
		if i == 0 || i < maxLogs && total <= maxLogBytes {
			continue
		}
		if rerr := os.Remove(filepath.Join(dir, info.Name())); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
