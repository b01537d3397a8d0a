package criu

import (
	"github.com/checkpoint-restore/go-criu/v8/crit/images/stats"

	"github.com/ckarchive/ckarchive/archive"
)

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
