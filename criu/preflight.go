package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// How long the tasks stand still, apart from what is done with the images:
// measured with runc 1.1.5, CRIU 4.2.1 and Linux 6.18 on two virtual CPUs, with
// the images in the page cache. A slower disk takes longer.
const (
	// freezeBase is the time that does not depend on the size: 45 ms of CRIU's own,
	// 100 ms for mounts and cgroups, and up to 100 ms until the tasks have stopped.
	freezeBase = 245 * time.Millisecond
	// freezePerTask is what CRIU does in each task: 50 took 0.32 s and 200 took 0.85 s more than one.
	freezePerTask = 5 * time.Millisecond
	// freezePerMiB is for memory: 338 to 424 ms for 1 GiB, 714 to 791 ms for 2 GiB.
	freezePerMiB = 370 * time.Microsecond
	// freezeTmpfsPerMiB is for the content of tmpfs, which "tar --gzip" reads: 60 MiB
	// took 1.33 s in place of 0.2 s.
	freezeTmpfsPerMiB = 19 * time.Millisecond
)

// maxSubjects is how many subjects a finding names.
const maxSubjects = 5

// PreflightOptions say which container is looked at and how it would be dumped.
// Spec and PID are needed. The others are those of [DumpOptions].
type PreflightOptions struct {
	Flags
	Spec *specs.Spec
	PID  int // first process of the container, as this host counts
	// Rootfs is its root file system on this host; empty: not compared with what the container sees.
	Rootfs          string
	Descriptors     []string // as the runtime recorded them; nil: found by looking
	LinkRemap       bool
	GhostLimit      uint32 // bytes; 0: CRIU's limit of 1 MiB
	TCPSkipInFlight bool
	IrmapPaths      []string
	External        []string
	ExternalSockets []string
}

// Severity tells how much a finding matters.
type Severity string

// The severities.
const (
	// Blocker is what lets a dump fail.
	Blocker Severity = "blocker"
	// Warning is what a dump would lose or change, or what may let it fail.
	Warning Severity = "warning"
	// Info is what a dump handles, or what is right.
	Info Severity = "info"
)

// Finding is something in a container that matters to a dump of it, or in images to their restore.
type Finding struct {
	// Code is stable. Where CRIU would fail for that reason it is the Code of the [*Error] of the dump.
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Count    int      `json:"count"`            // of subjects
	Subject  string   `json:"subject"`          // the first few: task, descriptor, path
	Text     string   `json:"text"`             // what it is
	Remedy   string   `json:"remedy"`           // what to do about it
	Option   string   `json:"option,omitempty"` // the option of a dump that helps, if there is one
}

// Told is the finding in one line, without the remedy.
func (f Finding) Told() string {
	if f.Subject == "" {
		return f.Text
	}
	return f.Subject + ": " + f.Text
}

// Report is what there is to know about a container before a dump.
type Report struct {
	Findings []Finding `json:"findings"` // blockers first
	// Memory is about how many bytes of memory a dump writes: private pages and shared
	// memory. Memory that is a file of a tmpfs is counted, though it is part of Tmpfs too.
	Memory      int64 `json:"memory"`
	Tmpfs       int64 `json:"tmpfs"` // bytes in file systems that are dumped along
	Tasks       int   `json:"tasks"` // processes that a dump would take
	Descriptors int   `json:"descriptors"`
	// Freeze is an estimate of how long the tasks would stand still, in nanoseconds in JSON.
	// What [DumpOptions].PostDump does comes on top.
	Freeze time.Duration `json:"freeze"`
}

// Blockers gives the findings that let a dump fail.
func (r Report) Blockers() []Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Severity != Blocker })
}

// Preflight tells what in a container would let a dump fail, before one is
// tried. It only looks: the container runs on and nothing of it is changed. It
// is a look at one moment, so that a container that is busy may have changed
// when it is dumped.
func Preflight(ctx context.Context, opts PreflightOptions) (Report, error) {
	if opts.Spec == nil || opts.PID <= 0 {
		return Report{}, errors.New("inspect container: a spec and a process are needed")
	}
	if opts.Descriptors == nil {
		var err error
		if opts.Descriptors, err = findDescriptors(opts.PID); err != nil {
			return Report{}, fmt.Errorf("inspect container of process %d: %w", opts.PID, err)
		}
	}
	p := &preflight{opts: opts}
	if err := p.run(ctx); err != nil {
		return Report{}, fmt.Errorf("inspect container of process %d: %w", opts.PID, err)
	}
	return p.finish(), nil
}

// preflight is a look at a container at work.
type preflight struct {
	opts   PreflightOptions
	survey survey
	report Report
	found  map[string]*subjects
}

// subjects are the things of one finding, each once.
type subjects struct {
	finding Finding
	seen    map[string]bool
	names   []string
}

func (p *preflight) run(ctx context.Context) error {
	var err error
	if p.survey, err = lookAt(ctx, p.opts.PID); err != nil {
		return err
	}
	p.report.Tasks, p.report.Descriptors = len(p.survey.tasks), 0
	for _, t := range p.survey.tasks {
		p.report.Descriptors += len(t.files)
		p.report.Memory += t.memory
	}
	if err := p.strays(); err != nil {
		return err
	}
	if err := p.rootfs(); err != nil {
		return err
	}
	p.tasks()
	p.sessions()
	p.namespaces()
	p.mounts()
	p.files()
	p.mappings()
	if err := p.watches(ctx); err != nil {
		return err
	}
	return p.sockets(ctx)
}

// add notes a subject, with the severity and the words that belong to the code.
// key tells subjects apart: a file that two tasks have open is one.
func (p *preflight) add(code, key, subject string) {
	f := findingOf(code)
	if f.Severity == Blocker && p.accepted(code) {
		f.Severity = Info
	}
	p.addFinding(f, key, subject)
}

// addAs notes a subject with another severity than the usual one of the code.
func (p *preflight) addAs(severity Severity, code, key, subject string) {
	f := findingOf(code)
	f.Severity = severity
	p.addFinding(f, key, subject)
}

func (p *preflight) addFinding(f Finding, key, subject string) {
	if p.found == nil {
		p.found = map[string]*subjects{}
	}
	id := f.Code + " " + string(f.Severity)
	s := p.found[id]
	if s == nil {
		s = &subjects{finding: f, seen: map[string]bool{}}
		p.found[id] = s
	}
	if s.seen[key] {
		return
	}
	s.seen[key] = true
	if len(s.names) < maxSubjects {
		s.names = append(s.names, subject)
	}
}

// accepted tells whether an option makes CRIU take what would stop it otherwise.
// What depends on the subject, such as its size, is judged where it is found.
func (p *preflight) accepted(code string) bool {
	switch code {
	case "tcp-established":
		return p.opts.TCPEstablished || p.opts.TCPClose
	case "tcp-in-flight":
		return p.opts.TCPSkipInFlight
	case "file-locks":
		return p.opts.FileLocks
	case "unix-external":
		return p.opts.ExtUnixSk
	case "shell-job":
		return p.opts.ShellJob
	case "link-remap":
		return p.opts.LinkRemap
	}
	return false
}

// finish makes the report of what was found.
func (p *preflight) finish() Report {
	r := p.report
	r.Findings = []Finding{}
	for _, s := range p.found {
		f := s.finding
		f.Count = len(s.seen)
		f.Subject = strings.Join(s.names, "; ")
		if more := f.Count - len(s.names); more > 0 {
			f.Subject += fmt.Sprintf("; and %d more", more)
		}
		r.Findings = append(r.Findings, f)
	}
	rank := map[Severity]int{Blocker: 0, Warning: 1, Info: 2}
	slices.SortFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(a.Code, b.Code))
	})
	r.Freeze = freezeBase + time.Duration(r.Tasks)*freezePerTask + perMiB(r.Memory, freezePerMiB) + perMiB(r.Tmpfs, freezeTmpfsPerMiB)
	return r
}

func perMiB(size int64, d time.Duration) time.Duration {
	const mib = 1 << 20
	return time.Duration(float64(size) / mib * float64(d))
}
