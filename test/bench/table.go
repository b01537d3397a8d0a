package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// The quantities of the way through a file, in the order of the table.
const (
	exportWall     = "export, s"
	exportCPU      = "export, processor s"
	archiveBytes   = "archive, MiB"
	frozenTime     = "frozen by CRIU, s"
	pausedTime     = "paused in all, s"
	exportPeak     = "peak memory of export, MiB"
	exportPeakAll  = "  with its children, MiB"
	restoreTick    = "restore to the first instruction, s"
	restoreWall    = "restore command, s"
	restoreCPU     = "restore, processor s"
	restorePeak    = "peak memory of restore, MiB"
	restorePeakAll = "  with its children then, MiB"
)

func fileQuantities() []quantity {
	return []quantity{
		{name: exportWall, ratio: 0.5},
		{name: exportCPU},
		{name: archiveBytes, ratio: 1.05},
		{name: frozenTime},
		{name: pausedTime},
		{name: exportPeak, limit: 256},
		{name: exportPeakAll},
		{name: restoreTick, ratio: 0.5},
		{name: restoreWall},
		{name: restoreCPU},
		{name: restorePeak, limit: 256},
		{name: restorePeakAll},
	}
}

// The quantities of the way through a registry, besides those above.
const (
	frozenPerGiB = "  per GiB, s"
	firstExport  = "export, first, s"
	pushPeak     = "peak memory of push, MiB"
	fetchTick    = "pull and restore to the first answer, s"
	fetchPeak    = "peak memory of that, MiB"
	fetchCPU     = "  processor time of that, s"
	againCPU     = "  processor time of that one, s"
	againTick    = "second restore to the first answer, s"
	againPeak    = "peak memory of that one, MiB"
)

// Those of one checkpoint among several. The time to the registry begins with the running container; for Podman
// it has the making of the image in it.
func publishWall(when string) string { return "to the registry, " + when + ", s" }
func publishCPU(when string) string  { return "  processor time of all that, " + when + ", s" }
func pushWall(when string) string    { return "  of that push alone, " + when + ", s" }
func pushBytes(when string) string   { return "bytes in the registry, " + when + ", MiB" }
func gapSeen(when string) string     { return "gap that the load sees, " + when + ", s" }

// changeGoals are how little is sent, to what Podman sends, after so many per cent were changed.
func changeGoals() map[float64]float64 {
	return map[float64]float64{1: 1. / 50, 5: 1. / 15, 20: 1. / 4}
}

// registryQuantities are those of a scene. Goals about bytes are for Redis: what they can be depends on what changes.
func registryQuantities(s *scene, changes []change) []quantity {
	_, isRedis := s.load.(*redis)
	list := []quantity{
		{name: frozenTime, ratio: 1. / 4},
		{name: frozenPerGiB, limit: 0.35, unit: "s"},
		{name: pausedTime},
		{name: gapSeen("first")},
		{name: firstExport, ratio: 1. / 3},
		{name: publishWall("first"), ratio: 1. / 3},
		{name: publishCPU("first")},
		{name: pushWall("first")},
		{name: pushBytes("first"), ratio: 1.08},
	}
	for _, ch := range changes {
		whole, bytes := quantity{name: publishWall(ch.when)}, quantity{name: pushBytes(ch.when)}
		if ch.percent == 1 {
			whole.ratio = 1. / 10
		}
		if isRedis {
			bytes.ratio = changeGoals()[ch.percent]
		}
		list = append(list, quantity{name: gapSeen(ch.when)}, whole, quantity{name: publishCPU(ch.when)}, quantity{name: pushWall(ch.when)}, bytes)
	}
	return append(list,
		quantity{name: fetchTick, ratio: 1. / 3},
		quantity{name: fetchCPU},
		quantity{name: againTick, ratio: 1.3, against: plainName},
		quantity{name: againCPU},
		// The spool holds the memory until the container runs again.
		quantity{name: exportPeak, limit: float64(s.mib) + 256},
		quantity{name: pushPeak, limit: 256},
		quantity{name: fetchPeak, limit: 256},
		quantity{name: againPeak, limit: 256})
}

// quantity is one row. A goal of zero is none.
type quantity struct {
	name    string
	ratio   float64 // of our median to the reference's, at most
	against string  // whose value the ratio is to, unless it is the reference of the table
	limit   float64 // of our highest value, at most
	unit    string  // of the limit; MiB unless it says otherwise
}

// samples are the values of one quantity of one tool.
type samples []float64

func (s samples) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (s samples) String() string {
	switch len(s) {
	case 0:
		return "-"
	case 1:
		return fmt.Sprintf("%.2f", s[0])
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", s.median(), slices.Min(s), slices.Max(s))
}

// results are samples by tool and quantity.
type results map[string]map[string]samples

func (r results) add(tool, quantity string, value float64) {
	if r[tool] == nil {
		r[tool] = map[string]samples{}
	}
	r[tool][quantity] = append(r[tool][quantity], value)
}

// print writes the table of these quantities, with our tool's ratio to the reference.
func (r results) print(w io.Writer, quantities []quantity, tools []string, ours, reference string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "median (least-most)")
	for _, t := range tools {
		fmt.Fprintf(tw, "\t%s", t)
	}
	if ours != "" {
		fmt.Fprintf(tw, "\t%s/%s\tgoal", ours, reference)
	}
	fmt.Fprintln(tw)
	for _, q := range quantities {
		if !slices.ContainsFunc(tools, func(t string) bool { return len(r[t][q.name]) > 0 }) {
			continue
		}
		fmt.Fprint(tw, q.name)
		for _, t := range tools {
			fmt.Fprintf(tw, "\t%s", r[t][q.name])
		}
		if ours != "" {
			ratio, verdict := q.judge(r[ours][q.name], r[cmp.Or(q.against, reference)][q.name])
			fmt.Fprintf(tw, "\t%s\t%s", ratio, verdict)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// judge gives the ratio of the medians and whether the goal is met.
func (q quantity) judge(ours, reference samples) (ratio, verdict string) {
	value := 0.0
	if len(ours) > 0 && reference.median() > 0 {
		value = ours.median() / reference.median()
		ratio = short(value)
	}
	switch {
	case q.ratio > 0 && ratio != "":
		to := ""
		if q.against != "" {
			to = " of " + q.against
			ratio += " of " + q.against
		}
		verdict = fmt.Sprintf("at most %s%s: %s", short(q.ratio), to, met(value, q.ratio))
	case q.limit > 0 && len(ours) > 0:
		verdict = fmt.Sprintf("at most %g %s: %s", q.limit, cmp.Or(q.unit, "MiB"), met(slices.Max(ours), q.limit))
	}
	return ratio, verdict
}

// short gives as many digits as tell something.
func short(ratio float64) string {
	if ratio < 0.1 {
		return fmt.Sprintf("%.3f", ratio)
	}
	return fmt.Sprintf("%.2f", ratio)
}

func met[T cmp.Ordered](value, goal T) string {
	if value <= goal {
		return "met"
	}
	return "missed"
}
