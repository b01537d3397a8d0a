package criu

import (
	"github.com/checkpoint-restore/go-criu/v8/crit/images/stats"

	"github.com/ckarchive/ckarchive/archive"
)

// RestoreStats are the times and amounts of a restore as CRIU counts them. Times are in
// microseconds.
type RestoreStats struct {
	ForkingTime   uint64 `json:"forkingTime"` // until all tasks were there
	RestoreTime   uint64 `json:"restoreTime"` // until they went on
	PagesRestored uint64 `json:"pagesRestored"`
	PagesCompared uint64 `json:"pagesCompared,omitempty"`   // with those of the parent task
	PagesShared   uint64 `json:"pagesSkippedCow,omitempty"` // with the parent task, and not restored again
}

// restoreStatsFile is CRIU's, in the work directory.
const restoreStatsFile = "stats-restore"

// ReadRestoreStats reads the statistics of a restore, stats-restore, from a work directory.
func ReadRestoreStats(dir string) (*RestoreStats, error) {
	e, err := readEntry[stats.StatsEntry](dir, restoreStatsFile, magicStats)
	if err != nil {
		return nil, err
	}
	r := e.GetRestore()
	if r == nil {
		return nil, imageError(restoreStatsFile, "holds no statistics of a restore")
	}
	return &RestoreStats{
		ForkingTime:   uint64(r.GetForkingTime()),
		RestoreTime:   uint64(r.GetRestoreTime()),
		PagesRestored: r.GetPagesRestored(),
		PagesCompared: r.GetPagesCompared(),
		PagesShared:   r.GetPagesSkippedCow(),
	}, nil
}

// ReadStats reads the statistics of a dump, stats-dump, from a work directory.
func ReadStats(dir string) (*archive.Stats, error) {
	e, err := readEntry[stats.StatsEntry](dir, archive.StatsDump, magicStats)
	if err != nil {
		return nil, err
	}
	d := e.GetDump()
	if d == nil {
		return nil, imageError(archive.StatsDump, "holds no statistics of a dump")
	}
	return &archive.Stats{
		FreezingTime: uint64(d.GetFreezingTime()),
		FrozenTime:   uint64(d.GetFrozenTime()),
		MemdumpTime:  uint64(d.GetMemdumpTime()),
		MemwriteTime: uint64(d.GetMemwriteTime()),
		PagesScanned: d.GetPagesScanned() + d.GetShpagesScanned(),
		PagesWritten: d.GetPagesWritten() + d.GetShpagesWritten(),
	}, nil
}
