package capture

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
	"golang.org/x/sys/unix"
)

const (
	journalVersion = 1
	journalFile    = "journal.json"
	// lockFile is locked by the process of the run, and by the programs that it started and that inherit the lock.
	lockFile = "lock"
	// ownerFile is locked by the process of the run alone, or by one that recovers it: always before lockFile is.
	ownerFile = "owner"
)

// Target names the container of a journal, so that another process can find it again.
type Target struct {
	ID          string `json:"id"`
	Runtime     string `json:"runtime"`     // name
	RuntimePath string `json:"runtimePath"` // binary
	RuntimeRoot string `json:"runtimeRoot"` // state directory
	PID         int    `json:"pid"`
	StartTime   uint64 `json:"startTime"` // of PID in clock ticks, so that a reused pid is not taken for it
}

// record is journal.json.
type record struct {
	Version    int      `json:"version"`
	Phase      Phase    `json:"phase"`
	Target     Target   `json:"target"`
	Stop       bool     `json:"stop"`                 // the container is to be killed after the commit
	StayPaused bool     `json:"stayPaused,omitempty"` // it is to stand still after the commit
	WasPaused  bool     `json:"wasPaused"`
	EndInDump  bool     `json:"endInDump"`
	Temporary  []string `json:"temporary"`
	BootID     string   `json:"bootID"`
}

// journal is the directory of one run: the locks that its process holds, the journal
// and the spool.
type journal struct {
	dir         string
	owner, lock *os.File
	rec         record
}

// newJournal makes the directory. The lock is taken before another process sees it, so that
// Recover cannot take a run for a dead one.
func newJournal(ctx context.Context, spool string, rec record) (*journal, error) {
	j := &journal{dir: filepath.Join(spool, rec.Target.ID+"-"+rand.Text()[:12]), rec: rec}
	err := alone(spool, func() error {
		if err := os.Mkdir(j.dir, 0o700); err != nil {
			return fmt.Errorf("make the spool: %w", err)
		}
		if err := j.take(); err != nil {
			return errors.Join(err, os.RemoveAll(j.dir))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(j.dir, archiveDir), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make the spool: %w", err), j.remove())
	}
	if err := j.write(ctx); err != nil {
		return nil, errors.Join(err, j.remove())
	}
	return j, nil
}

// alone calls f while no other process makes, takes over or removes a directory below spool: what f does is
// quick. Where the file system locks no directories, nothing keeps them apart.
func alone(spool string, f func() error) error {
	if dir, err := os.Open(spool); err == nil {
		defer dir.Close() //nolint:errcheck // read only
		for errors.Is(unix.Flock(int(dir.Fd()), unix.LOCK_EX), unix.EINTR) {
			continue
		}
	}
	return f()
}

// Scratch makes a directory below spool for what is too large to be left behind: [Recover] removes it
// when this process is gone. label begins its name. The caller closes it, which removes it as well.
func Scratch(ctx context.Context, spool, label string) (dir string, closing func() error, err error) {
	if err := os.MkdirAll(spool, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the spool: %w", err)
	}
	j, err := newJournal(ctx, spool, record{Version: journalVersion, Phase: Prepared, Target: Target{ID: label}, BootID: archive.BootID()})
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(j.dir, archiveDir), j.remove, nil
}

// take locks the directory for this process. A held one is an [ErrBusy].
func (j *journal) take() (err error) {
	if j.owner, err = lockPath(filepath.Join(j.dir, ownerFile)); err != nil {
		return err
	}
	if j.lock, err = lockPath(filepath.Join(j.dir, lockFile)); err != nil {
		return errors.Join(err, j.release())
	}
	return nil
}

// share lets the processes that this one starts inherit the lock: a CRIU that outlives it is
// still at work on the container, and whoever recovers has to wait for it.
func (j *journal) share() error { return share(j.lock) }

// AfterDeath waits until the run of the directory dir is over: its process and
// those that it started have ended, or it has finished.
func AfterDeath(dir string) error {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
		if !errors.Is(err, unix.EINTR) {
			return errors.Join(err, f.Close())
		}
	}
}

// openJournal takes over the directory of a dead run. A living one is an [ErrBusy], one that has ended meanwhile an
// [os.ErrNotExist].
func openJournal(dir string) (*journal, error) {
	j := &journal{dir: dir}
	if err := alone(filepath.Dir(dir), j.take); err != nil {
		return nil, err
	}
	if err := j.read(); err != nil {
		return nil, errors.Join(err, j.release())
	}
	return j, nil
}

// read reads what was written last. None is the journal of a run that was killed before anything had happened.
func (j *journal) read() error {
	b, err := os.ReadFile(filepath.Join(j.dir, journalFile))
	if errors.Is(err, os.ErrNotExist) {
		j.rec.Phase = Prepared
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &j.rec)
	}
	if err == nil && j.rec.Version > journalVersion {
		err = fmt.Errorf("journal version %d is from a later ckarchive", j.rec.Version)
	}
	if err != nil {
		return fmt.Errorf("read the journal of %q: %w", j.dir, err)
	}
	return nil
}

func (j *journal) advance(ctx context.Context, p Phase) error {
	j.rec.Phase = p
	return j.write(ctx)
}

func (j *journal) write(ctx context.Context) error {
	b, err := json.MarshalIndent(j.rec, "", "  ")
	if err != nil {
		return err
	}
	if err := archive.WriteFileAtomic(ctx, filepath.Join(j.dir, journalFile), append(b, '\n')); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// remove deletes the directory: nothing is left to recover.
func (j *journal) remove() error {
	archive.RemoveTree(filepath.Join(j.dir, archiveDir)) //nolint:errcheck // of any size; what stays is told below
	return alone(filepath.Dir(j.dir), func() error {
		return errors.Join(archive.RemoveTree(j.dir), j.release())
	})
}

func (j *journal) release() error {
	var err error
	if j.lock != nil {
		err = j.lock.Close()
	}
	if j.owner != nil {
		err = errors.Join(err, j.owner.Close())
	}
	j.lock, j.owner = nil, nil
	return err
}

// ErrBusy says that another process works on the same thing.
var ErrBusy = errors.New("busy")

// Lock takes the lock called name in dir for this process, until the returned file
// is closed or the process ends. A held one is an [ErrBusy].
func Lock(dir, name string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock %q: %w", name, err)
	}
	sum := sha256.Sum256([]byte(name)) // names hold paths, which are no file names
	return lockPath(filepath.Join(dir, hex.EncodeToString(sum[:8])+".lock"))
}

// LockShared is [Lock] for a file of the caller's, and for the programs that this process starts as well: they
// inherit the lock, and [EndHolders] finds them by it.
func LockShared(path string) (*os.File, error) {
	f, err := lockPath(path)
	if err != nil {
		return nil, err
	}
	if err := share(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func share(lock *os.File) error {
	if _, err := unix.FcntlInt(lock.Fd(), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("share the lock %q: %w", lock.Name(), err)
	}
	return nil
}

func lockPath(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 16)
		n, _ := f.ReadAt(holder, 0) // for the message only
		cerr := f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: process %s holds %q", ErrBusy, strings.TrimSpace(string(holder[:n])), path)
		}
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), cerr)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // for the message of the next one
	}
	return f, nil
}
