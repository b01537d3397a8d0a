package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is what a command took.
type usage struct {
	began time.Time
	wall  time.Duration
	// cpu is the processor time of the process and of those that it waited for. It
	// says more than wall when other programs are at work.
	cpu time.Duration
	// peak is the most memory that the process itself had, in bytes.
	peak int64
	// peakAll is the most that it or any one of the processes that it waited for had, in bytes.
	peakAll int64
}

// watchEvery is how often the peak of a running process is read. The kernel keeps the
// peak, so only growth in the very last interval can be missed.
const watchEvery = 2 * time.Millisecond

// measure runs a command to its end and gives its standard output.
func measure(ctx context.Context, argv ...string) ([]byte, usage, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	u := usage{began: time.Now()}
	if err := cmd.Start(); err != nil {
		return nil, u, fmt.Errorf("start %s: %w", argv[0], err)
	}
	stop, peak := make(chan struct{}), make(chan int64)
	go watchPeak(cmd.Process.Pid, stop, peak)
	err := cmd.Wait()
	u.wall = time.Since(u.began)
	close(stop)
	u.peak = <-peak
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.peakAll = r.Maxrss << 10
	}
	if err != nil {
		return nil, u, fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), u, nil
}

// run is measure for what is not timed.
func run(ctx context.Context, argv ...string) error {
	said, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, said)
	}
	return nil
}

// launch is run for what leaves a container running: it gets no descriptors of ours, for
// the container would inherit them. The command tells its errors in the file log.
func launch(ctx context.Context, log string, argv ...string) error {
	if err := exec.CommandContext(ctx, argv[0], argv[1:]...).Run(); err != nil {
		said, _ := os.ReadFile(log) //nolint:errcheck // the error itself is reported
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, said)
	}
	return nil
}

// watchPeak sends the peak of pid in bytes once stop is closed.
func watchPeak(pid int, stop <-chan struct{}, peak chan<- int64) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	most := int64(0)
	for {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err == nil {
			most = max(most, highWater(b))
		}
		select {
		case <-stop:
			peak <- most
			return
		case <-ticker.C:
		}
	}
}

// highWater reads VmHWM from a /proc/PID/status, in bytes; 0 if there is none.
func highWater(status []byte) int64 {
	for line := range strings.Lines(string(status)) {
		value, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		fields := strings.Fields(value)
		if len(fields) == 0 {
			return 0
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0
		}
		return kib << 10
	}
	return 0
}
