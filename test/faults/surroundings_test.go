package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/test/env"
)

// shell runs a line of a shell in which "$CKARCHIVE" is the program, as a user without rights if unprivileged is true.
// Everything it makes is below dir.
func shell(t *testing.T, dir, line string, unprivileged bool) (said string, err error) {
	t.Helper()
	argv := []string{"sh", "-c", line}
	if unprivileged {
		argv = append([]string{"setpriv", "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"}, argv...)
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = environ(dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func environ(dir string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C", "CKARCHIVE=" + filepath.Join(dir, "ckarchive"),
		"CKARCHIVE_ROOT=" + filepath.Join(dir, "root"), "CKARCHIVE_RUN=" + filepath.Join(dir, "run"),
	}
}

// place makes a directory that everybody may write to, with the program and an archive in it.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ckarchive-faults-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	copies := map[string]string{"ckarchive": env.Ckarchive(t), "c.tar.zst": checkpoint(t)}
	for name, from := range copies {
		// By a program: a descriptor of this process that writes to it would be inherited by those that tests beside
		// this one start, and a file that is open for writing cannot be run.
		if said, err := exec.CommandContext(t.Context(), "install", "-m", "755", from, filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Descriptors that are closed when ckarchive starts are not taken for what it opens itself: no message and no result
// comes to be in an archive or in the store.
func TestClosedDescriptors(t *testing.T) {
	for _, closed := range []string{"<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"} {
		t.Run(closed, func(t *testing.T) {
			dir := place(t)
			// What is printed may be lost and its failure told; what is written may not be damaged.
			said, _ := shell(t, dir, `"$CKARCHIVE" convert --to universal ./c.tar.zst ./copy.tar `+closed+`; "$CKARCHIVE" import ./c.tar.zst x:1 `+closed+
				`; "$CKARCHIVE" convert --to universal ./absent.tar ./other.tar `+closed, false)
			for _, line := range []string{`"$CKARCHIVE" verify ./copy.tar`, `"$CKARCHIVE" verify x:1`, `test ! -e other.tar`} {
				if also, err := shell(t, dir, line, false); err != nil {
					t.Errorf("%s: %v\n%s%s", line, err, said, also)
				}
			}
		})
	}
}

// Limits of the process end in an error that is told, and leave nothing half written.
func TestLimits(t *testing.T) {
	env.CloseOnExec(t)
	for _, tt := range []struct {
		name, limit string
		says        string
	}{
		{"file size", "ulimit -f 100", "file too large"},
		{"open files", "ulimit -n 8", "too many open files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := place(t)
			for _, line := range []string{"convert --to universal ./c.tar.zst ./copy.tar", "import ./c.tar.zst x:1"} {
				said, err := shell(t, dir, tt.limit+`; "$CKARCHIVE" `+line, false)
				if err == nil || !strings.Contains(said, "ckarchive: error: ") || !strings.Contains(said, tt.says) {
					t.Errorf("%s: %v, want an error that says %q: %s", line, err, tt.says, said)
				}
			}
			if said, err := shell(t, dir, `ls -A; test ! -e copy.tar && "$CKARCHIVE" --json list && "$CKARCHIVE" import ./c.tar.zst x:1 && "$CKARCHIVE" verify x:1`, false); err != nil ||
				!strings.Contains(said, "[]") || strings.Contains(said, "tmp") {
				t.Errorf("afterwards: %v: %s", err, said)
			}
		})
	}
}

// A clock that is wrong, before or after what is in the archive and the store, changes no verdict.
func TestClocks(t *testing.T) {
	dir := place(t)
	for _, year := range []int{1970, 2100} {
		at := time.Date(year, 1, 2, 0, 0, 0, 0, time.UTC)
		if err := os.Chtimes(filepath.Join(dir, "c.tar.zst"), at, at); err != nil {
			t.Fatal(err)
		}
		said, err := shell(t, dir, `"$CKARCHIVE" import ./c.tar.zst x:1 && "$CKARCHIVE" verify x:1`, false)
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		// Blobs that nothing refers to are freed, and the others stay, whatever the time of a file is.
		said, err = shell(t, dir, `find root -exec touch -d `+at.Format(time.DateOnly)+` {} + && "$CKARCHIVE" gc && "$CKARCHIVE" verify x:1 && "$CKARCHIVE" rm x:1 && "$CKARCHIVE" gc && "$CKARCHIVE" --json list`, false)
		if err != nil || !strings.HasSuffix(strings.TrimSpace(said), "[]") {
			t.Errorf("%d: %v: %s", year, err, said)
		}
	}
}
