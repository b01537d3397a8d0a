package env

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Leaks notes which mounts, cgroups, entries of /run, netfilter chains and
// processes in cgroups of their own there are on this machine, and fails the
// test when it ends with more of them. Call it first: what the test cleans up
// later is then gone in time. Where others work on the machine, marks keep
// their things out: only what has one of the marks in its name or path counts.
func Leaks(tb testing.TB, marks ...string) {
	tb.Helper()
	before, err := traces(tb.Context())
	if err != nil {
		tb.Fatalf("look for traces: %v", err)
	}
	tb.Cleanup(func() {
		// The kernel takes mounts and cgroups apart a moment after their last user.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for {
			left, err := leaked(before, marks)
			if err != nil {
				tb.Errorf("look for traces: %v", err)
				return
			}
			if len(left) == 0 {
				return
			}
			select {
			case <-ctx.Done():
				tb.Errorf("the test left behind:\n  %s", strings.Join(left, "\n  "))
				return
			case <-look.C:
			}
		}
	})
}

// leaked are the traces that were not there before and have one of the marks.
func leaked(before map[string]bool, marks []string) ([]string, error) {
	after, err := traces(context.Background())
	if err != nil {
		return nil, err
	}
	var left []string
	for _, trace := range slices.Sorted(maps.Keys(after)) {
		marked := len(marks) == 0 || slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(trace, mark) })
		if marked && !before[trace] {
			left = append(left, trace)
		}
	}
	return left, nil
}

// traces is a set of lines, one for each thing that can be left behind.
func traces(ctx context.Context) (map[string]bool, error) {
	found := map[string]bool{}
	for _, look := range []func(context.Context, func(string)) error{mounts, cgroups, runEntries, processes, chains} {
		if err := look(ctx, func(trace string) { found[trace] = true }); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func mounts(_ context.Context, add func(string)) error {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		// ID, root and mount point: a second mount at the same place counts too.
		add(fmt.Sprintf("mount %s of %s at %s", fields[0], fields[3], fields[4]))
	}
	return nil
}

func cgroups(_ context.Context, add func(string)) error {
	return directories("/sys/fs/cgroup", func(path string) { add("cgroup " + path) })
}

// runEntries goes two levels deep: what is deeper is the state of something
// that is still there.
func runEntries(_ context.Context, add func(string)) error {
	for _, pattern := range []string{"/run/*", "/run/*/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, path := range paths {
			add("entry " + path)
		}
	}
	return nil
}

// directories tells of all directories below path. One that goes away
// meanwhile is none.
func directories(path string, add func(string)) error {
	return filepath.WalkDir(path, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		}
		add(at)
		return nil
	})
}

// processes tells of those that are in a cgroup other than this process's, as
// those of containers are.
func processes(_ context.Context, add func(string)) error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	stats, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	for _, path := range stats {
		cgroup, err := os.ReadFile(path)
		if err != nil || string(cgroup) == string(own) {
			continue // it is gone, or not in a container
		}
		dir := filepath.Dir(path)
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(command) == 0 {
			continue // gone, a zombie, or a part of the kernel
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		fields := processFields(pid)
		if len(fields) <= 19 {
			continue
		}
		line := strings.ReplaceAll(strings.TrimRight(string(command), "\x00"), "\x00", " ")
		add(fmt.Sprintf("process %d (%s) since %s in %s", pid, line, fields[19], strings.Join(strings.Fields(string(cgroup)), " ")))
	}
	return nil
}

// chains tells of the netfilter chains, in which CRIU's network lock would be.
func chains(ctx context.Context, add func(string)) error {
	nft, err := lookPath("nft")
	if err != nil || os.Geteuid() != 0 {
		return nil //nolint:nilerr // without it, or without root, nobody made any
	}
	out, err := exec.CommandContext(ctx, nft, "list", "chains").Output()
	if err != nil {
		return fmt.Errorf("list netfilter chains: %w", err)
	}
	table := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "table "):
			table = strings.TrimSuffix(line, " {")
		case strings.HasPrefix(line, "chain "):
			add("netfilter " + table + " " + strings.TrimSuffix(line, " {"))
		}
	}
	return nil
}
