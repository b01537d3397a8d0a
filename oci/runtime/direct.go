package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ckarchive/ckarchive/archive"
)

// Record is what the direct runtime keeps of a container that CRIU restored
// without another runtime: STATEDIR/ID/state.json.
type Record struct {
	ID          string    `json:"id"`
	PID         int       `json:"pid"`
	StartTime   uint64    `json:"startTime"` // of PID, see [StartTime]
	Bundle      string    `json:"bundle"`
	Cgroup      string    `json:"cgroup"` // path below every hierarchy
	Descriptors []string  `json:"external_descriptors"`
	Created     time.Time `json:"created"`
}

const recordFile = "state.json"

// DiscardRecord removes the record of a container whose restore was killed, and whose processes are gone. None is no
// error.
func DiscardRecord(stateDir, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	return archive.RemoveTree(filepath.Join(stateDir, id))
}

// WriteRecord makes the record of a restored container. A record of that ID is an [ErrExists].
func WriteRecord(ctx context.Context, stateDir string, rec Record) error {
	if err := CheckID(rec.ID); err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("keep the state of container %q: %w", rec.ID, err)
	}
	dir := filepath.Join(stateDir, rec.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %q", ErrExists, rec.ID)
		}
		return fmt.Errorf("keep the state of container %q: %w", rec.ID, err)
	}
	b, err := json.MarshalIndent(rec, "", "  ")
	if err == nil {
		err = archive.WriteFileAtomic(ctx, filepath.Join(dir, recordFile), append(b, '\n'))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep the state of container %q: %w", rec.ID, err), archive.RemoveTree(dir))
	}
	return nil
}

// directContainer reads a record and looks at the process.
func (r Runtime) directContainer(id string) (*Container, error) {
	path := filepath.Join(r.Root, id, recordFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no record of %q in %s", ErrNotFound, id, r.Root)
	}
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", id, err)
	}
	var rec Record
	if err := json.Unmarshal(b, &rec); err != nil {
		return nil, fmt.Errorf("container %q: %s: %w", id, path, err)
	}
	c := &Container{
		ID: id, Runtime: r, PID: rec.PID, Bundle: rec.Bundle, Created: rec.Created,
		Descriptors: rec.Descriptors, Cgroup: rec.Cgroup, Status: Running,
	}
	switch frozen, err := c.frozen(); {
	case !alive(rec.PID) || StartTime(rec.PID) != rec.StartTime:
		c.Status, c.PID = Stopped, 0
	case err != nil:
		return nil, fmt.Errorf("container %q: %w", id, err)
	case frozen:
		c.Status = Paused
	}
	return c, c.loadBundle()
}

// frozen tells whether the container's freezer holds it.
func (c *Container) frozen() (bool, error) {
	f, err := findFreezer(c.PID)
	if err != nil {
		return false, err
	}
	return f.frozen()
}

// freeze holds or releases a container by its cgroup.
func (c *Container) freeze(ctx context.Context, hold bool) error {
	f, err := findFreezer(c.PID)
	if err != nil {
		return err
	}
	return f.set(ctx, hold)
}

// deleteRecord removes the record and the container's empty cgroups.
func (c *Container) deleteRecord() error {
	if alive(c.PID) {
		return fmt.Errorf("delete container %q: it is %s", c.ID, c.Status)
	}
	err := removeCgroups(c.Cgroup)
	if rerr := archive.RemoveTree(filepath.Join(c.Runtime.Root, c.ID)); rerr != nil {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return fmt.Errorf("delete container %q: %w", c.ID, err)
	}
	return nil
}
