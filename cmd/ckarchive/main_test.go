package main

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ckarchive/ckarchive/archive"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ckarchive": main, collectorName: main, probeName: probe})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("CKARCHIVE_ROOT", filepath.Join(e.WorkDir, "root"))
			e.Setenv("CKARCHIVE_RUN", filepath.Join(e.WorkDir, "run"))
			for name, data := range map[string]string{"FOREIGN": "../../archive/foreign/testdata", "CTR": "../../oci/artifact/testdata/ctr-checkpoint.tar"} {
				path, err := filepath.Abs(data)
				if err != nil {
					return err
				}
				e.Setenv(name, path)
			}
			e.Setenv("TMPDIR", filepath.Join(e.WorkDir, "tmp"))
			return os.Mkdir(filepath.Join(e.WorkDir, "tmp"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkarchive": mkArchive,
			"exits":     exits,
			"flip":      flip,
			"cut":       cut,
		},
	})
}

// exits runs "ckarchive ARG ..." and wants the exit status of its first argument.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("sh", append([]string{"-c", `ckarchive "$@"; status=$?; [ $status = "$0" ] || { echo "exit status $status, want $0" >&2; exit 1; }`}, args...)...)
	ts.Check(err)
}

// mkArchive writes a small archive that lacks nothing but real images: mkarchive FILE [COMPRESSION [HOUR]]. HOUR
// is of its creation; with it the memory changes.
func mkArchive(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.MkAbs("."), "members-"+hex.EncodeToString([]byte(args[0])))
	ts.Check(os.MkdirAll(filepath.Join(dir, archive.CheckpointDir), 0o700))
	for name, content := range map[string]string{
		archive.Image(archive.Inventory):   "inventory",
		archive.Image(archive.Descriptors): `["/dev/null","pipe:[1]","pipe:[2]"]`,
		archive.Image("pages-1.img"):       strings.Repeat("memory ", 10000) + strings.Join(args[min(2, len(args)):], ""),
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	hour := 3
	if len(args) > 2 {
		var err error
		hour, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	meta := &archive.Metadata{
		FormatVersion: archive.FormatVersion, Format: archive.FormatCRIU, Tool: "ckarchive/test",
		Created:   time.Date(2026, 1, 2, hour, 4, 5, 0, time.UTC),
		Container: archive.Container{ID: "web", Generation: 1, Runtime: archive.Runtime{Name: "runc"}},
		Host:      archive.Host{Architecture: "amd64", Kernel: "6.1", CgroupVersion: "v2"},
		Base:      &archive.Base{Path: "/base"}, Rootfs: &archive.Rootfs{Method: "directory"},
	}
	spec := `{"ociVersion":"1.0.2","process":{"args":["counter"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}`
	ctx := context.Background()
	src, err := archive.Seal(ctx, dir, nil, meta, []byte(spec))
	ts.Check(err)
	compression := archive.Zstd
	if len(args) > 1 {
		compression = archive.Compression(args[1])
	}
	dst, err := archive.CreateFile(ts.MkAbs(args[0]), archive.FileOptions{Compression: compression})
	ts.Check(err)
	_, err = archive.Copy(ctx, dst, src, archive.CopyOptions{})
	ts.Check(err)
	ts.Check(dst.Commit(ctx))
	ts.Check(src.Close())
	ts.Check(os.RemoveAll(dir))
}

// flip changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// cut takes the last bytes off a file.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	info, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Truncate(path, info.Size()-100))
}
