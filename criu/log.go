package criu

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
)

const (
	// maxErrorLines is how many lines of a log an [Error] quotes.
	maxErrorLines = 5
	// maxLineBytes is how much of a line is kept.
	maxLineBytes = 400
	// logTailBytes is how much of the end of a log is searched.
	logTailBytes = 4 << 20
)

// Error is a failure of CRIU: what it said, what that means and what to do.
type Error struct {
	Op      string   `json:"op"`                // "dump", "restore", "check"
	LogPath string   `json:"log,omitempty"`     // CRIU's whole log
	Lines   []string `json:"lines,omitempty"`   // its failing lines, at most five
	Code    string   `json:"code,omitempty"`    // stable name of a known cause, as "tcp-established"
	Cause   string   `json:"cause,omitempty"`   // the cause in words
	Remedy  string   `json:"remedy,omitempty"`  // what to do about it
	Option  string   `json:"option,omitempty"`  // the option that helps, as "tcp-established"
	Running bool     `json:"running,omitempty"` // the container is still there
	Err     error    `json:"-"`
}

// Error says what was done, why it failed, CRIU's own words, and where the rest
// is. What to do about it is Remedy, for the caller to show where hints go.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op + " with criu: ")
	switch {
	case e.Cause != "":
		b.WriteString(e.Cause)
	case e.Err != nil:
		b.WriteString(e.Err.Error())
	default:
		b.WriteString("unknown reason")
	}
	if len(e.Lines) > 0 {
		b.WriteString(": " + strings.Join(e.Lines, "; "))
	}
	if e.LogPath != "" {
		b.WriteString(" (log: " + e.LogPath + ")")
	}
	return b.String()
}

// Unwrap gives the error of this program's side, such as the end of a context.
func (e *Error) Unwrap() error { return e.Err }

var _ error = (*Error)(nil)

// newError makes the error of an operation that CRIU logged to logPath.
func newError(op, logPath string, err error) *Error {
	e := &Error{Op: op, LogPath: logPath, Err: err}
	lines, all := logErrors(logPath)
	if errors.Is(err, context.Canceled) {
		return e // the log only tells how CRIU was stopped
	}
	e.Lines = lines
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errLogTooLarge) {
		return e
	}
	if row, ok := explain(all); ok {
		e.Code, e.Cause, e.Remedy, e.Option = row.code, row.cause, row.remedy, row.option
	}
	return e
}

var (
	// logPrefix is the time and, in the restorer, the task: "(00.012345)      7: ". What runs in the
	// tasks themselves has no time: "pie: 7: ".
	logPrefix = regexp.MustCompile(`^(?:\(\d+\.\d+\)\s+)?(?:pie: )?(?:\d+: )?`)
	// logSource is the place in CRIU's source: "Error (criu/files.c:123): ".
	logSource = regexp.MustCompile(`^(?:Error|Warn)\s+\(([^)]*)\): ?`)
	// logHarmless are errors that CRIU logs in runs that succeed, or that only say that it failed.
	logHarmless = regexp.MustCompile(`rlimit: Can't setup RLIMIT_NOFILE for self` +
		`|cgroupd: recv req error` +
		`|(?i:ipv[46]: Address already assigned)` +
		`|tun: Unable to create tun` +
		`|Dumping FAILED\.|Restoring FAILED\.` +
		`|Can't set the rlimit|Unable to get kernel capabilities` +
		`|Cleaning up|cr-service: Failed to`)
)

// logErrors gives the failing lines of a log: those to show, without what is
// harmless, and all, for the table of known causes. A log that cannot be read
// has none.
func logErrors(path string) (show, all []string) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil
	}
	defer f.Close() //nolint:errcheck // read side
	if fi, err := f.Stat(); err == nil && fi.Size() > logTailBytes {
		if _, err := f.Seek(-logTailBytes, io.SeekEnd); err != nil {
			return nil, nil
		}
	}
	return parseLog(f)
}

func parseLog(r io.Reader) (show, all []string) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	seen := map[string]bool{}
	for sc.Scan() {
		line := logPrefix.ReplaceAllString(sc.Text(), "")
		if !logSource.MatchString(line) {
			// Some reasons come from programs that CRIU runs (iptables-restore, ip, tar).
			if !strings.HasPrefix(line, "Error: ") {
				continue
			}
		}
		isError := strings.HasPrefix(line, "Error")
		text := logSource.ReplaceAllString(line, "")
		text = strings.TrimSpace(strings.TrimPrefix(text, "Error: "))
		if len(text) > maxLineBytes {
			text = text[:maxLineBytes] + "..."
		}
		text = strings.ToValidUTF8(text, "?")
		if text == "" || seen[text] {
			continue
		}
		seen[text] = true
		if logHarmless.MatchString(text) {
			continue
		}
		all = append(all, text)
		if isError && len(show) < maxErrorLines {
			show = append(show, text)
		}
	}
	return show, all
}
