package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows what a command is doing on stderr: bars on a terminal, lines elsewhere,
// events as JSON, or nothing.
type progress struct {
	style string // bars, plain, json, none
	out   io.Writer
	ended func(step) // is told of every step that is over
	bars  *mpb.Progress

	mu  sync.Mutex // guards what follows, and out
	cur *task
}

// eventInterval is the pace of JSON progress events.
const eventInterval = 250 * time.Millisecond

// newProgress chooses the style by the flags and by what stderr is.
func (a *app) newProgress() *progress {
	p := &progress{style: a.cli.Progress, out: a.stderr, ended: func(s step) { a.steps = append(a.steps, s) }}
	switch {
	case a.cli.Quiet:
		p.style = "none"
	case p.style == "auto" && a.onTerminal():
		p.style = "bars"
	case p.style == "auto":
		p.style = "plain"
	}
	if p.style == "bars" {
		p.bars = mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(barWidth), mpb.WithAutoRefresh())
	}
	return p
}

const barWidth = 40

// onTerminal tells whether stderr can show bars.
func (a *app) onTerminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && a.getenv("TERM") != "dumb"
}

// event is one line of --progress json.
type event struct {
	Event string `json:"event"` // begin, progress, end
	Task  string `json:"task"`
	Bytes int64  `json:"bytes"`           // done
	Total int64  `json:"total,omitempty"` // of all, if known
	Time  int64  `json:"milliseconds,omitempty"`
}

// task is one step that is shown.
type task struct {
	p       *progress
	name    string
	total   int64
	done    atomic.Int64
	began   time.Time
	shown   time.Time
	bar     *mpb.Bar
	stopped bool
}

// begin starts a step and ends the one before it. total is in bytes, 0 if there is nothing to count.
func (p *progress) begin(name string, total int64) *task {
	p.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &task{p: p, name: name, total: total, began: time.Now()}
	p.cur = t
	switch p.style {
	case "bars":
		t.bar = p.newBar(name, total)
	case "json":
		p.event(event{Event: "begin", Task: name, Total: total})
	}
	return t
}

func (p *progress) newBar(name string, total int64) *mpb.Bar {
	label := decor.Name(name, decor.WC{W: len(name) + 1, C: decor.DindentRight})
	if total == 0 {
		return p.bars.New(1, mpb.SpinnerStyle().PositionLeft(), mpb.PrependDecorators(label), mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO)))
	}
	return p.bars.AddBar(total,
		mpb.PrependDecorators(label, decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f "),
			decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO), "done"),
		))
}

// add counts n more bytes; negative when a transfer is begun again.
func (t *task) add(n int64) {
	done := t.done.Add(n)
	switch t.p.style {
	case "bars":
		if t.total > 0 {
			t.bar.SetCurrent(min(done, t.total))
		}
	case "json":
		t.p.mu.Lock()
		defer t.p.mu.Unlock()
		if now := time.Now(); now.Sub(t.shown) >= eventInterval {
			t.shown = now
			t.p.event(event{Event: "progress", Task: t.name, Bytes: done, Total: t.total})
		}
	}
}

// set gives the bytes done and the total at once.
func (t *task) set(done, total int64) {
	t.total = total
	if t.bar != nil {
		t.bar.SetTotal(total, false)
	}
	t.add(done - t.done.Load())
}

// end closes the step at work.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.cur
	if t == nil || t.stopped {
		return
	}
	t.stopped = true
	took := time.Since(t.began)
	p.ended(step{Task: t.name, Bytes: t.done.Load(), Time: took.Microseconds()})
	switch p.style {
	case "bars":
		t.bar.SetTotal(max(t.done.Load(), 1), true)
		if t.total == 0 {
			t.bar.SetCurrent(1)
		}
	case "json":
		p.event(event{Event: "end", Task: t.name, Bytes: t.done.Load(), Total: t.total, Time: took.Milliseconds()})
	case "plain":
		if n := t.done.Load(); n > 0 {
			fmt.Fprintf(p.out, "ckarchive: %s: %s in %s\n", t.name, units.BytesSize(float64(n)), took.Round(time.Millisecond))
		} else {
			fmt.Fprintf(p.out, "ckarchive: %s: %s\n", t.name, took.Round(time.Millisecond))
		}
	}
}

func (p *progress) event(e event) {
	if e.Total > 0 {
		e.Total = max(e.Total, e.Bytes) // it was told before the metadata were there
	}
	// A reader that is gone is no reason to stop the work.
	_ = json.NewEncoder(p.out).Encode(e)
}

// close ends everything that is shown; a failed step's bar stays as it is.
func (p *progress) close(err error) {
	if err == nil {
		p.end()
	}
	if p.bars == nil {
		return
	}
	if p.cur != nil && !p.cur.stopped {
		p.cur.bar.Abort(false)
	}
	p.bars.Wait()
}
