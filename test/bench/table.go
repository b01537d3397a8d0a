package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// The quantities that are compared, in the order of the table.
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

// quantities lists them with the goals: of ours relative to podman's, or absolute.
func quantities() []quantity {
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

// quantity is one row. A goal of zero is none.
type quantity struct {
	name  string
	ratio float64 // of our median to podman's, at most
	limit float64 // of our highest value, below
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

// print writes the table, with our tool's ratio to the reference.
func (r results) print(w io.Writer, tools []string, ours, reference string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "median (least-most)")
	for _, t := range tools {
		fmt.Fprintf(tw, "\t%s", t)
	}
	fmt.Fprintf(tw, "\t%s/%s\tgoal\n", ours, reference)
	for _, q := range quantities() {
		if !slices.ContainsFunc(tools, func(t string) bool { return len(r[t][q.name]) > 0 }) {
			continue
		}
		fmt.Fprint(tw, q.name)
		for _, t := range tools {
			fmt.Fprintf(tw, "\t%s", r[t][q.name])
		}
		ratio, verdict := q.judge(r[ours][q.name], r[reference][q.name])
		fmt.Fprintf(tw, "\t%s\t%s\n", ratio, verdict)
	}
	return tw.Flush()
}

// judge gives the ratio of the medians and whether the goal is met.
func (q quantity) judge(ours, reference samples) (ratio, verdict string) {
	value := 0.0
	if len(ours) > 0 && reference.median() > 0 {
		value = ours.median() / reference.median()
		ratio = fmt.Sprintf("%.2f", value)
	}
	switch {
	case q.ratio > 0 && ratio != "":
		verdict = fmt.Sprintf("at most %.2f: %s", q.ratio, met(value, q.ratio))
	case q.limit > 0 && len(ours) > 0:
		verdict = fmt.Sprintf("at most %.0f MiB: %s", q.limit, met(slices.Max(ours), q.limit))
	}
	return ratio, verdict
}

func met[T cmp.Ordered](value, goal T) string {
	if value <= goal {
		return "met"
	}
	return "missed"
}
