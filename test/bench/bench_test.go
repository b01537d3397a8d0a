package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   samples
		want float64
	}{
		{nil, 0},
		{samples{3}, 3},
		{samples{9, 1, 2}, 2},
		{samples{4, 1, 2, 9}, 3},
	} {
		if got := tt.in.median(); got != tt.want {
			t.Errorf("median of %v: got %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name            string
		q               quantity
		ours, reference samples
		ratio, verdict  string
	}{
		{"at the ratio", quantity{ratio: 0.5}, samples{1}, samples{2}, "0.50", "at most 0.50: met"},
		{"over the ratio", quantity{ratio: 0.5}, samples{1.1}, samples{2}, "0.55", "at most 0.50: missed"},
		{"of medians", quantity{ratio: 0.5}, samples{1, 1, 9}, samples{2, 2, 0}, "0.50", "at most 0.50: met"},
		{"no reference", quantity{ratio: 0.5}, samples{1}, nil, "", ""},
		{"not ours", quantity{ratio: 0.5, limit: 1}, nil, samples{1}, "", ""},
		{"at the limit", quantity{limit: 256}, samples{255, 256}, samples{512}, "0.50", "at most 256 MiB: met"},
		{"worst over the limit", quantity{limit: 256}, samples{1, 1, 257}, nil, "", "at most 256 MiB: missed"},
		{"no goal", quantity{}, samples{3}, samples{4}, "0.75", ""},
		{"a small ratio", quantity{ratio: 1. / 50}, samples{1}, samples{49}, "0.020", "at most 0.020: missed"},
		{"to another tool", quantity{ratio: 1.3, against: plainName}, samples{1}, samples{1}, "1.00 of runc", "at most 1.30 of runc: met"},
		{"in seconds", quantity{limit: 0.35, unit: "s"}, samples{0.4}, nil, "", "at most 0.35 s: missed"},
	} {
		ratio, verdict := tt.q.judge(tt.ours, tt.reference)
		if ratio != tt.ratio || verdict != tt.verdict {
			t.Errorf("%s: got %q, %q, want %q, %q", tt.name, ratio, verdict, tt.ratio, tt.verdict)
		}
	}
}

func TestPrint(t *testing.T) {
	r := results{}
	r.add(oursName, exportWall, 1)
	r.add(oursName, exportWall, 2)
	r.add(podmanName, exportWall, 3)
	var out bytes.Buffer
	if err := r.print(&out, fileQuantities(), []string{oursName, podmanName, plainName}, oursName, podmanName); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %d lines, want a head and the one quantity that was measured:\n%s", len(lines), out.String())
	}
	got := strings.Join(strings.Fields(lines[1]), " ")
	want := "export, s 1.50 (1.00-2.00) 3.00 - 0.50 at most 0.50: met"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTickAfter(t *testing.T) {
	const ticks = "1000\n2000\n3000\n4"
	for _, tt := range []struct {
		in    string
		since int64
		want  int64 // 0: none
	}{
		{ticks, 0, 1000},
		{ticks, 1000, 2000},
		{ticks, 2500, 3000},
		{ticks, 3000, 0},
		{"4", 0, 0},
		{"", 0, 0},
	} {
		got, err := tickAfter([]byte(tt.in), time.Unix(0, tt.since))
		if err != nil {
			t.Fatal(err)
		}
		want := time.Time{}
		if tt.want != 0 {
			want = time.Unix(0, tt.want)
		}
		if !got.Equal(want) {
			t.Errorf("first tick of %q after %d: got %v, want %v", tt.in, tt.since, got, want)
		}
	}
	if _, err := tickAfter([]byte("x\n"), time.Time{}); err == nil {
		t.Error("got no error for a line that is no number")
	}
}

func TestLongestGap(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "7\n": 0, "1000\n2000\n5000\n6000\n99": 3000} {
		if got, err := longestGap([]byte(in)); err != nil || got != want {
			t.Errorf("longest gap in %q: got %v, %v, want %v", in, got, err, want)
		}
	}
	if _, err := longestGap([]byte("x\n")); err == nil {
		t.Error("got no error for a line that is no number")
	}
}

// A layout as writeLayout makes it is one for skopeo, and its layer is found again.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(dir, "layout")
	if err := writeLayout(layout, file); err != nil {
		t.Fatal(err)
	}
	layer, err := layerOf(layout)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(layer); err != nil || string(got) != "content" {
		t.Errorf("layer: got %q, %v", got, err)
	}
	if skopeo, err := exec.LookPath("skopeo"); err == nil {
		said, err := exec.CommandContext(t.Context(), skopeo, "copy", "--insecure-policy", "oci:"+layout+":"+layoutTag, "dir:"+filepath.Join(dir, "copy")).CombinedOutput()
		if err != nil {
			t.Errorf("skopeo copy: %v: %s", err, said)
		}
	}
}

func TestRenamed(t *testing.T) {
	got := renamed(map[string]samples{pushBytes("after 1 %"): {1}, frozenTime: {2}}, "after 1 %", "after it")
	if got[pushBytes("after it")].median() != 1 || got[frozenTime].median() != 2 || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestRotated(t *testing.T) {
	if got := strings.Join(rotated([]string{"a", "b", "c"}, 4), ""); got != "bca" {
		t.Errorf("got %s, want bca", got)
	}
}

func TestRedisReply(t *testing.T) {
	for in, want := range map[string]string{"+PONG\r\n": "PONG", "-ERR no\r\n": "", "+cut": ""} {
		got, err := redisReply(bufio.NewReader(strings.NewReader(in)))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("reply %q: got %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestHighWater(t *testing.T) {
	for in, want := range map[string]int64{
		"VmPeak:\t 9 kB\nVmHWM:\t   35116 kB\nVmRSS:\t 1 kB\n": 35116 << 10,
		"Name:\tzombie\n": 0,
		"VmHWM:\n":        0,
		"VmHWM:\tx kB\n":  0,
	} {
		if got := highWater([]byte(in)); got != want {
			t.Errorf("high water of %q: got %d, want %d", in, got, want)
		}
	}
	// The kernel's own words, not only what this test thinks they are.
	self, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc here:", err)
	}
	if got := highWater(self); got < 1<<20 {
		t.Errorf("high water of this process: got %d bytes, want more than a MiB", got)
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-size", "64", "-only", "export", "-with", "podman,ckarchive"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(o.tools, " "), "podman ckarchive"; got != want {
		t.Errorf("tools: got %q, want %q", got, want)
	}
	if got, want := strings.Join(o.steps, " "), "export"; got != want {
		t.Errorf("steps: got %q, want %q", got, want)
	}
	if got, want := strings.Join(o.scenes, " "), "file registry redis node jvm sizes"; got != want {
		t.Errorf("scenes: got %q, want %q", got, want)
	}
	for _, args := range [][]string{{"-only", "push"}, {"-scene", "ballet"}, {"-with", "docker"}, {"-size", "0"}, {"-runs", "0"}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q: got no error", args)
		}
	}
}

func TestMeasure(t *testing.T) {
	out, u, err := measure(t.Context(), "sh", "-c", "echo said")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), "said\n"; got != want {
		t.Errorf("output: got %q, want %q", got, want)
	}
	if u.wall <= 0 || u.peakAll <= 0 {
		t.Errorf("got %+v, want the time and the memory of a process", u)
	}
	if _, _, err := measure(t.Context(), "sh", "-c", "echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("got %v, want an error with what the command said", err)
	}
}
