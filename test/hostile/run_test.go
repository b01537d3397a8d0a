package hostile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/ckarchive/ckarchive/test/env"
)

// The exit statuses that verdicts are about.
const (
	accepted = 0
	usage    = 2
	rejected = 3
	refused  = 5 // wants a grant, or something that this host has not
)

// What no archive may make of the program.
const (
	mostMemory = 256 << 10 // KiB
	mostTime   = 60 * time.Second
)

// sample is one archive of the corpus.
type sample struct {
	name    string
	read    int           // verdict of inspect, verify, convert and push
	restore int           // verdict of restore
	says    string        // by restore, if it is not accepted
	archive func() []byte // made when it is used: all of them together are large
	// late tells that nothing of the metadata is wrong, so that --dry-run is content.
	late bool
}

// machine is what the samples are restored on: a host that made none of them.
type machine struct {
	ckarchive string
	base      string
	dir       string
	canary    string
	tmp       string
	id        string
}

func (m machine) command(ctx context.Context, sampleDir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{m.ckarchive}, args...)...)
	cmd.Dir = sampleDir
	cmd.Env = []string{
		launchVariable + "=" + filepath.Join(sampleDir, "memory"), "PATH=" + os.Getenv("PATH"), "HOME=" + sampleDir, "TMPDIR=" + m.tmp, "LC_ALL=C", "GOTRACEBACK=all",
		"CKARCHIVE_ROOT=" + filepath.Join(sampleDir, "store"), "CKARCHIVE_RUN=" + filepath.Join(sampleDir, "run"),
		"CKARCHIVE_RUNTIME_ROOT=" + filepath.Join(sampleDir, "runc"),
	}
	return cmd
}

// outcome is how a run ended.
type outcome struct {
	status int
	said   string // on standard error
}

// run runs the program on a sample and checks what holds for every run.
func (m machine) run(t *testing.T, dir string, stdin []byte, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*mostTime)
	defer cancel()
	cmd := m.command(ctx, dir, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	begin := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	o := outcome{cmd.ProcessState.ExitCode(), stderr.String()}
	what := strings.Join(args, " ")
	if took := time.Since(begin); took > mostTime {
		t.Errorf("%s took %s", what, took)
	}
	if took := memory(t, filepath.Join(dir, "memory")); took > mostMemory {
		t.Errorf("%s took %d KiB of memory", what, took)
	}
	for name, text := range map[string]string{"standard output": stdout.String(), "standard error": o.said} {
		if i := strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }); i >= 0 {
			t.Errorf("%s: a control character on %s: %q", what, name, text[max(0, i-20):min(len(text), i+20)])
		}
		if strings.Contains(text, "goroutine ") || strings.Contains(text, "panic:") || strings.Contains(text, secret) {
			t.Errorf("%s: %s", what, text)
		}
	}
	return o
}

// launchVariable names the file for what [launch] measures.
const launchVariable = "CKARCHIVE_TEST_LAUNCH"

func TestMain(m *testing.M) {
	if path, ok := os.LookupEnv(launchVariable); ok {
		os.Exit(launch(path))
	}
	os.Exit(m.Run())
}

// launch runs a program and writes to a file how much memory it had at most, in KiB. A process that is started
// counts the memory of who started it as its own, and the test itself is large.
func launch(path string) int {
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 125
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok || os.WriteFile(path, fmt.Append(nil, usage.Maxrss), 0o600) != nil {
		return 125
	}
	return cmd.ProcessState.ExitCode()
}

// memory reads what launch wrote.
func memory(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// want checks a verdict.
func (o outcome) want(t *testing.T, what string, status int, says string) {
	t.Helper()
	if o.status != status || status != accepted && !strings.Contains(o.said, says) {
		t.Errorf("%s: status %d, want %d that says %q:\n%s", what, o.status, status, says, o.said)
	}
}

// secret is the content of the host's files that hostile archives are after.
const secret = "nobody but the host may see this"

// makeCanary makes the tree that nothing may touch, and gives its state.
func makeCanary(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"", "sub"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "file"), []byte(secret), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// state describes everything below a directory.
func state(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		content, _ := os.ReadFile(path) //nolint:errcheck // a directory has none
		_, err = fmt.Fprintf(&b, "%s %o %d:%d %d %x\n", path, st.Mode, st.Uid, st.Gid, st.Nlink, sha256.Sum256(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// try runs every verb on a sample in every way to read it.
func (m machine) try(t *testing.T, s sample) {
	dir := filepath.Join(m.dir, strings.Map(func(r rune) rune {
		if r == ' ' || r == '/' {
			return '-'
		}
		return r
	}, s.name))
	if err := os.MkdirAll(filepath.Join(dir, "runc"), 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // below the test's directory
	path, content := filepath.Join(dir, "x.tar"), s.archive()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	layout := "oci:" + filepath.Join(dir, "layout") + ":v1"
	for _, source := range []string{path, "-", layout} {
		var stdin []byte
		if source == "-" {
			stdin = content
		}
		if source == layout {
			m.run(t, dir, nil, "push", path, layout).want(t, "push", s.read, "")
			if s.read != accepted {
				m.makeLayout(t, filepath.Join(dir, "layout"), content)
			}
		}
		if source != layout {
			m.run(t, dir, stdin, "verify", source).want(t, "verify "+source, s.read, "")
		}
		if source == path {
			// It looks into what verify takes as it is: deletions, and the root file system.
			o := m.run(t, dir, nil, "convert", "--to", "universal", source, filepath.Join(dir, "converted.tar"))
			if o.status != s.read && (o.status != rejected || s.restore != rejected) {
				t.Errorf("convert: status %d, want %d:\n%s", o.status, s.read, o.said)
			}
			if _, err := os.Lstat(filepath.Join(dir, "converted.tar")); (err == nil) != (o.status == accepted) {
				t.Errorf("convert: status %d, and of the file: %v", o.status, err)
			}
		}
		if source != "-" { // it reads no further than the images
			if o := m.run(t, dir, nil, "inspect", source); o.status != s.read && o.status != accepted {
				t.Errorf("inspect %s: status %d, want %d:\n%s", source, o.status, s.read, o.said)
			}
		}
		if s.restore == accepted {
			continue
		}
		o := m.run(t, dir, stdin, "restore", "--detach", "--id", m.id, "--base", m.base, source)
		o.want(t, "restore "+source, s.restore, s.says)
	}
	dry := m.run(t, dir, nil, "restore", "--dry-run", "--id", m.id, "--base", m.base, path)
	if dry.status != s.restore && (!s.late || dry.status != accepted) {
		t.Errorf("restore --dry-run: status %d, want %d:\n%s", dry.status, s.restore, dry.said)
	}
	for _, left := range []string{filepath.Join(dir, "runc", m.id), filepath.Join(dir, "store", "containers", m.id)} {
		if _, err := os.Lstat(left); err == nil {
			t.Errorf("left behind: %s", left)
		}
	}
}

// makeLayout puts an archive that push rejects into an image, as somebody else would.
func (m machine) makeLayout(t *testing.T, dir string, layer []byte) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, content []byte) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256(content))
		if err := os.WriteFile(filepath.Join(blobs, digest), content, 0o600); err != nil {
			t.Fatal(err)
		}
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(content)}
	}
	const oci = "application/vnd.oci.image."
	kind := oci + "layer.v1.tar"
	switch {
	case bytes.HasPrefix(layer, []byte{0x1f, 0x8b}):
		kind += "+gzip"
	case bytes.HasPrefix(layer, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		kind += "+zstd"
	}
	config := put(oci+"config.v1+json", encodeJSON(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(unpacked(layer)))}},
	}))
	manifest := put(oci+"manifest.v1+json", encodeJSON(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": []any{put(kind, layer)},
		"annotations": map[string]string{"io.podman.annotations.checkpoint.name": "x"},
	}))
	manifest["annotations"] = map[string]string{"org.opencontainers.image.ref.name": "v1"}
	for name, content := range map[string]any{
		"oci-layout": map[string]string{"imageLayoutVersion": "1.0.0"},
		"index.json": map[string]any{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []any{manifest}},
	} {
		b, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// pattern runs a container, archives it and gives what is in the archive.
func pattern(t *testing.T) (machine, checkpoint, checkpoint) {
	t.Helper()
	env.Require(t, "root", "criu", "runc", "busybox")
	dir := t.TempDir()
	m := machine{
		ckarchive: env.Ckarchive(t), dir: filepath.Join(dir, "samples"), base: filepath.Join(dir, "base"),
		canary: filepath.Join(dir, "canary"), tmp: filepath.Join(dir, "tmp"), id: fmt.Sprintf("hostile%d", os.Getpid()),
	}
	for _, d := range []string{m.dir, m.tmp} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	env.Leaks(t, m.id, dir)
	makeCanary(t, m.canary)
	env.Rootfs(t, m.base)
	maker := filepath.Join(dir, "maker")
	bundle := env.Bundle(t, filepath.Join(maker, "bundle"), env.BundleOptions{Args: []string{"/bin/workload", "--memory", "1", "--tick", "10ms"}})
	env.Rootfs(t, filepath.Join(bundle, "rootfs"))
	c := env.RunRunc(t, filepath.Join(maker, "runc"), m.id+"-maker", bundle)
	c.WaitTick(t, 3)
	path := filepath.Join(maker, "x.tar")
	for range 20 {
		if o := m.run(t, maker, nil, "export", "--leave-running", "--force", "--base", m.base, c.ID, path); o.status != 0 {
			t.Fatalf("export: %s", o.said)
		}
		plain, proven := readCheckpoint(t, path)
		// What the workload has open for an instant would have to be among the changes of every sample.
		if !bytes.Contains(plain.body("rootfs-diff.tar"), []byte("status.new")) {
			return m, plain, proven
		}
	}
	t.Fatal("the workload always has a new file of its status open")
	return m, nil, nil
}

// TestCorpus holds every verb against every archive.
func TestCorpus(t *testing.T) {
	m, plain, proven := pattern(t)
	before := state(t, m.canary)
	corpus := slices.Concat(tars(plain, m.canary), compressions(plain), documents(plain, proven), configurations(plain, m.canary),
		rootFileSystems(plain, m.canary), imagesOf(plain, m.canary), reaches(plain, m.canary), controls(plain, proven))
	names := map[string]bool{}
	for _, s := range corpus {
		if names[s.name] {
			t.Errorf("two samples are called %q", s.name)
		}
		names[s.name] = true
	}
	if len(corpus) < 150 {
		t.Errorf("%d samples", len(corpus))
	}
	t.Run("samples", func(t *testing.T) {
		slots := make(chan struct{}, runtime.NumCPU())
		var check sync.Mutex
		for _, s := range corpus {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				m := m
				m.id += "-" + fmt.Sprintf("%x", sha256.Sum256([]byte(s.name)))[:8]
				m.try(t, s)
				check.Lock()
				defer check.Unlock()
				if after := state(t, m.canary); after != before {
					t.Errorf("the host's files were changed:\n%s\nthey were\n%s", after, before)
				}
			})
		}
	})
	left, err := os.ReadDir(m.tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
	t.Run("restored", func(t *testing.T) { m.restoreControls(t, controls(plain, proven)) })
}

// restoreControls restores for real what has nothing wrong.
func (m machine) restoreControls(t *testing.T, samples []sample) {
	for i, s := range samples {
		if s.restore != accepted {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			dir := filepath.Join(m.dir, fmt.Sprint("control-", i))
			if err := os.MkdirAll(filepath.Join(dir, "runc"), 0o700); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if said, err := exec.Command("runc", "--root", filepath.Join(dir, "runc"), "delete", "--force", m.id).CombinedOutput(); err != nil {
					t.Errorf("delete: %v\n%s", err, said)
				}
			}()
			path := filepath.Join(dir, "x.tar")
			if err := os.WriteFile(path, s.archive(), 0o600); err != nil {
				t.Fatal(err)
			}
			m.run(t, dir, nil, "restore", "--detach", "--id", m.id, "--base", m.base, path).want(t, "restore", accepted, "")
		})
	}
}
