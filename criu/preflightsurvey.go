package criu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// survey is what /proc shows of the tasks of a container at one moment.
type survey struct {
	tasks  []taskFacts // the first process first; no zombies
	paused bool
}

func (s survey) first() taskFacts { return s.tasks[0] }

func (s survey) has(pid int) bool {
	return slices.ContainsFunc(s.tasks, func(t taskFacts) bool { return t.pid == pid })
}

// taskFacts are what /proc shows of a process.
type taskFacts struct {
	pid     int
	comm    string
	tty     int // device number of its controlling terminal; 0: none
	session int // its leader, as this host counts; 0: out of sight
	inner   innerIDs
	threads []threadFacts
	links   map[string]string // its namespaces: "user" is "user:[4026531837]"
	memory  int64             // bytes that a dump writes
	files   []openFile
	notes   []fileNotes // one per file
	mapped  []mapping
	mounts  []*mountinfo.Info
}

func (t taskFacts) String() string { return fmt.Sprintf("task %d (%s)", t.pid, t.comm) }

// known gives the mounts that the process sees by their IDs.
func (t taskFacts) known() map[int]bool {
	known := make(map[int]bool, len(t.mounts))
	for _, m := range t.mounts {
		known[m.ID] = true
	}
	return known
}

// procDir is a directory like /proc.
type procDir string

const hostProc procDir = "/proc"

func (d procDir) read(pid int, elem ...string) (string, error) {
	b, err := os.ReadFile(d.path(pid, elem...))
	return string(b), err
}

func (d procDir) path(pid int, elem ...string) string {
	return path.Join(append([]string{string(d), strconv.Itoa(pid)}, elem...)...)
}

// gone tells whether an error of /proc means that a task has ended meanwhile.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// lookAt reads what there is to know of the tasks of a container.
func lookAt(ctx context.Context, pid int) (survey, error) {
	tree, err := taskTree(pid)
	if err != nil {
		return survey{}, err
	}
	var s survey
	if s.paused, err = isPaused(pid); err != nil {
		return survey{}, err
	}
	for _, t := range tree {
		if err := ctx.Err(); err != nil {
			return survey{}, err
		}
		if !alive(t) {
			continue // CRIU dumps zombies by their status alone
		}
		facts, err := hostProc.task(t)
		if err == nil {
			err = facts.open()
		}
		if gone(err) && t != pid {
			continue
		}
		if err != nil {
			return survey{}, err
		}
		s.tasks = append(s.tasks, facts)
	}
	if len(s.tasks) == 0 || s.tasks[0].pid != pid {
		return survey{}, fmt.Errorf("process %d has ended", pid)
	}
	return s, nil
}

// open reads what only the real /proc has: open files and mounts.
func (t *taskFacts) open() error {
	var err error
	if t.mounts, err = readMounts(t.pid); err != nil {
		return err
	}
	if t.files, err = openFiles(t.pid); err != nil {
		return err
	}
	for _, f := range t.files {
		text, err := hostProc.read(t.pid, "fdinfo", strconv.Itoa(f.fd))
		if err != nil && !gone(err) {
			return fmt.Errorf("read descriptor %d of process %d: %w", f.fd, t.pid, err)
		}
		t.notes = append(t.notes, parseFileNotes(text))
	}
	return nil
}

// task reads the files of a process that are text, and its namespaces.
func (d procDir) task(pid int) (taskFacts, error) {
	t := taskFacts{pid: pid}
	wrap := func(what string, err error) (taskFacts, error) {
		return t, fmt.Errorf("read %s of process %d: %w", what, pid, err)
	}
	stat, err := d.read(pid, "stat")
	if err != nil {
		return wrap("state", err)
	}
	if t.comm, t.session, t.tty, err = parseStat(stat); err != nil {
		return wrap("state", err)
	}
	status, err := d.read(pid, "status")
	if err != nil {
		return wrap("status", err)
	}
	t.inner = parseInnerIDs(status)
	rollup, err := d.read(pid, "smaps_rollup")
	if err != nil {
		return wrap("memory", err)
	}
	t.memory = parseRollup(rollup)
	maps, err := d.read(pid, "maps")
	if err != nil {
		return wrap("mappings", err)
	}
	t.mapped = parseMaps(maps)
	if t.threads, err = d.threads(pid); err != nil {
		return wrap("threads", err)
	}
	t.links = map[string]string{}
	for _, kind := range namespaceKinds {
		link, err := os.Readlink(d.path(pid, "ns", kind))
		if err != nil && !gone(err) { // an old kernel has not all kinds
			return wrap(kind+" namespace", err)
		}
		t.links[kind] = link
	}
	return t, nil
}

// threads reads the state of all threads of a process.
func (d procDir) threads(pid int) ([]threadFacts, error) {
	dirs, err := filepath.Glob(d.path(pid, "task", "*"))
	if err != nil {
		return nil, err
	}
	var threads []threadFacts
	for _, dir := range dirs {
		tid := filepath.Base(dir)
		status, err := d.read(pid, "task", tid, "status")
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		th := parseThread(status)
		if th.state == 'D' {
			if th.waits, err = d.read(pid, "task", tid, "wchan"); err != nil && !gone(err) {
				return nil, err
			}
		}
		threads = append(threads, th)
	}
	return threads, nil
}
