package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/ckarchive/ckarchive/archive"
)

// searchPath is where CRIU and the programs that it runs itself (tar, ip,
// iptables) are looked for, whatever the caller's environment says.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Names of the logs that CRIU writes into a work directory.
const (
	DumpLog    = "dump.log"
	RestoreLog = "restore.log"
	checkLog   = "check.log"
	cpuinfoLog = "cpuinfo.log"
)

// ErrNoBinary says that there is no CRIU on this host.
var ErrNoBinary = errors.New("criu is not installed")

// Binary is an installed CRIU.
type Binary struct {
	Path string // absolute
}

// Find gives CRIU at the path asked for, or, if that is empty, the first one of
// path (a PATH, may be empty) and of the usual system directories.
func Find(explicit, path string) (Binary, error) {
	if explicit != "" {
		abs, err := filepath.Abs(explicit)
		if err != nil {
			return Binary{}, fmt.Errorf("find criu %q: %w", explicit, err)
		}
		if err := executable(abs); err != nil {
			return Binary{}, fmt.Errorf("find criu: %w: %w", ErrNoBinary, err)
		}
		return Binary{Path: abs}, nil
	}
	for _, dir := range append(filepath.SplitList(path), filepath.SplitList(searchPath)...) {
		if !filepath.IsAbs(dir) {
			continue // a relative entry would run whatever the working directory holds
		}
		if p := filepath.Join(dir, "criu"); executable(p) == nil {
			return Binary{Path: p}, nil
		}
	}
	return Binary{}, fmt.Errorf("find criu in %s: %w; install it or name its path", searchPath, ErrNoBinary)
}

func executable(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}

// Version is the version of a CRIU.
type Version struct {
	Major    int    `json:"major"`
	Minor    int    `json:"minor"`
	Sublevel int    `json:"sublevel,omitempty"`
	GitID    string `json:"gitID,omitempty"`
}

// String is the version in the usual form: "4.2.1", "4.2".
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d", v.Major, v.Minor)
	if v.Sublevel != 0 {
		s += fmt.Sprintf(".%d", v.Sublevel)
	}
	return s
}

// AtLeast tells whether v is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Version asks CRIU for its version.
func (b Binary) Version(ctx context.Context) (Version, error) {
	resp, err := b.ask(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()})
	if err != nil {
		return Version{}, fmt.Errorf("ask %s for its version: %w", b.Path, err)
	}
	v := resp.GetVersion()
	return Version{
		Major:    int(v.GetMajorNumber()),
		Minor:    int(v.GetMinorNumber()),
		Sublevel: int(v.GetSublevel()),
		GitID:    v.GetGitid(),
	}, nil
}

// Features are abilities of CRIU and the kernel together.
type Features struct {
	MemTrack   bool `json:"memTrack"`   // dumps relative to an earlier one (soft-dirty bits)
	LazyPages  bool `json:"lazyPages"`  // restore before the pages are there (userfaultfd)
	PidfdStore bool `json:"pidfdStore"` // safe pre-dumps of reused PIDs
}

// Features asks which features are there. (go-criu's FeatureCheck returns its own question.)
func (b Binary) Features(ctx context.Context) (Features, error) {
	resp, err := b.ask(ctx, &rpc.CriuReq{
		Type: rpc.CriuReqType_FEATURE_CHECK.Enum(),
		Features: &rpc.CriuFeatures{
			MemTrack: proto.Bool(true), LazyPages: proto.Bool(true), PidfdStore: proto.Bool(true),
		},
	})
	if err != nil {
		return Features{}, fmt.Errorf("ask %s for its features: %w", b.Path, err)
	}
	f := resp.GetFeatures()
	return Features{MemTrack: f.GetMemTrack(), LazyPages: f.GetLazyPages(), PidfdStore: f.GetPidfdStore()}, nil
}

// Check lets CRIU test whether this kernel has what it needs. What is missing
// is in the error, an [*Error].
func (b Binary) Check(ctx context.Context) error {
	dir, remove, err := archive.Scratch("")
	if err != nil {
		return fmt.Errorf("check criu: %w", err)
	}
	defer remove() //nolint:errcheck // the answer is known
	return b.inDir(ctx, "check", rpc.CriuReqType_CHECK, dir, dir, checkLog)
}

// CPUInfo writes cpuinfo.img, the features of this host's CPU, into dir.
func (b Binary) CPUInfo(ctx context.Context, dir string) error {
	return b.inDir(ctx, "record the CPU", rpc.CriuReqType_CPUINFO_DUMP, dir, dir, cpuinfoLog)
}

// inDir sends a request that needs an image directory and nothing else.
func (b Binary) inDir(ctx context.Context, op string, typ rpc.CriuReqType, images, work, log string) (err error) {
	dirs, err := openDirs(images, work)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer dirs.close()
	opts := dirs.options(log)
	s := session{bin: b.Path, logPath: filepath.Join(work, log)}
	if _, err := s.run(ctx, &rpc.CriuReq{Type: typ.Enum(), Opts: opts}); err != nil {
		e := newError(op, s.logPath, err)
		e.LogPath = "" // it is gone when the caller reads this
		return e
	}
	return nil
}

// ask sends a request that writes no log.
func (b Binary) ask(ctx context.Context, req *rpc.CriuReq) (*rpc.CriuResp, error) {
	s := session{bin: b.Path}
	return s.run(ctx, req)
}

// Programs gives those of the programs that CRIU itself runs which are not
// installed: tar and gzip for the content of tmpfs, ip and iptables for network
// namespaces.
func Programs() (missing []string) {
	for _, name := range []string{"tar", "gzip", "ip", "iptables-restore", "iptables-save"} {
		if findProgram(name) == "" {
			missing = append(missing, name)
		}
	}
	return missing
}

// findProgram gives the path of a program that CRIU would find; empty if there is none.
func findProgram(name string) string {
	for dir := range strings.SplitSeq(searchPath, ":") {
		if path := filepath.Join(dir, name); executable(path) == nil {
			return path
		}
	}
	return ""
}
