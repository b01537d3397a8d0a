package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// TestMain lets the test binary play CRIU, in a way that its name tells.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "swrk" {
		fakeCRIU(strings.TrimPrefix(filepath.Base(os.Args[0]), "criu-"))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeCRIU answers on descriptor 3.
func fakeCRIU(role string) {
	buf := make([]byte, 1<<20)
	n, err := unix.Read(3, buf)
	if err != nil {
		os.Exit(3)
	}
	var req rpc.CriuReq
	if err := proto.Unmarshal(buf[:n], &req); err != nil {
		os.Exit(3)
	}
	switch role {
	case "crash":
		os.Exit(1)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "hang":
		select {}
	case "flood": // fills its log, whose path is the option root
		f, err := os.Create(req.GetOpts().GetRoot())
		if err != nil {
			os.Exit(3)
		}
		// Sparse: only the size counts.
		if err := f.Truncate(MaxLogBytes + 1); err != nil {
			os.Exit(3)
		}
		select {}
	case "garbage":
		unix.Write(3, []byte("no message"))
	case "env":
		umask := unix.Umask(0)
		sid, _ := unix.Getsid(0)
		text := fmt.Sprintf("umask=%#o leader=%v env=%s", umask, sid == os.Getpid(), strings.Join(os.Environ(), " "))
		reply(&rpc.CriuResp{Type: req.Type, Success: proto.Bool(true), Version: &rpc.CriuVersion{
			MajorNumber: proto.Int32(1), MinorNumber: proto.Int32(2), Gitid: proto.String(text),
		}})
	case "refuse":
		reply(&rpc.CriuResp{Type: req.Type, Success: proto.Bool(false), CrErrno: proto.Int32(int32(unix.EEXIST))})
	case "notify":
		// Sends a descriptor along and reports how it was answered.
		p := &rpc.CriuResp{Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true), Notify: &rpc.CriuNotify{Script: proto.String("orphan-pts-master"), Pid: proto.Int32(7)}}
		b, _ := proto.Marshal(p)
		fd, _ := unix.MemfdCreate("x", 0)
		unix.Write(fd, []byte("content"))
		unix.Sendmsg(3, b, unix.UnixRights(fd), nil, 0)
		n, _ := unix.Read(3, buf)
		var answer rpc.CriuReq
		proto.Unmarshal(buf[:n], &answer)
		reply(&rpc.CriuResp{Type: req.Type, Success: proto.Bool(answer.GetNotifySuccess()), Version: &rpc.CriuVersion{
			MajorNumber: proto.Int32(1), MinorNumber: proto.Int32(0), Gitid: proto.String(strings.Join(answer.GetOpts().GetExternal(), ",")),
		}})
	}
	unix.Read(3, buf) // until the client is gone
}

func reply(r *rpc.CriuResp) {
	b, err := proto.Marshal(r)
	if err != nil {
		os.Exit(3)
	}
	unix.Write(3, b)
}

// fake gives a CRIU that plays a role.
func fake(t *testing.T, role string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	path := filepath.Join(t.TempDir(), "criu-"+role)
	must(t, os.Symlink(self, path))
	return path
}

func versionRequest() *rpc.CriuReq { return &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()} }

func TestSessionFailures(t *testing.T) {
	for role, want := range map[string]string{
		"crash": "without an answer", "garbage": "decode criu's message", "refuse": "file exists",
	} {
		s := session{bin: fake(t, role)}
		if _, err := s.run(t.Context(), versionRequest()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", role, err, want)
		}
	}
	s := session{bin: filepath.Join(t.TempDir(), "none")}
	if _, err := s.run(t.Context(), versionRequest()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing binary: error %v, want not exist", err)
	}
}

func TestSessionStopsAtContext(t *testing.T) {
	for _, role := range []string{"hang", "stubborn"} {
		t.Run(role, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := session{bin: fake(t, role), grace: 10 * time.Millisecond}
			pid := 0
			s.started = func(p int, _ *rpc.CriuReq) error {
				pid = p
				cancel()
				return nil
			}
			if _, err := s.run(ctx, versionRequest()); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want canceled", err)
			}
			if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
				t.Errorf("process %d: %v, want it gone and reaped", pid, err)
			}
		})
	}
}

func TestSessionStopsAtLogLimit(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	s := session{bin: fake(t, "flood"), logPath: log, grace: 10 * time.Millisecond}
	req := &rpc.CriuReq{Type: rpc.CriuReqType_RESTORE.Enum(), Opts: &rpc.CriuOpts{ImagesDirFd: proto.Int32(-1), Root: proto.String(log)}}
	if _, err := s.run(t.Context(), req); !errors.Is(err, errLogTooLarge) {
		t.Errorf("error %v, want %v", err, errLogTooLarge)
	}
}

func TestSessionEnvironment(t *testing.T) {
	t.Setenv("CRIU_FAULT", "1")
	before := unix.Umask(0o022)
	defer unix.Umask(before)
	s := session{bin: fake(t, "env"), configFile: "/x/y"}
	resp, err := s.run(t.Context(), versionRequest())
	must(t, err)
	want := "umask=077 leader=true env=PATH=" + searchPath + " HOME=/root LC_ALL=C CRIU_CONFIG_FILE=/x/y"
	if got := resp.GetVersion().GetGitid(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// Only the thread that started CRIU has the strict umask.
	if now := unix.Umask(0o022); now != 0o022 {
		t.Errorf("the umask of this process is %#o now", now)
	}
}

func TestSessionNotify(t *testing.T) {
	var got notification
	content := new(bytes.Buffer)
	s := session{bin: fake(t, "notify"), notify: func(_ context.Context, n notification) (*rpc.CriuOpts, error) {
		got = n
		if len(n.files) == 1 {
			n.files[0].Seek(0, 0)
			content.ReadFrom(n.files[0])
		}
		return &rpc.CriuOpts{ImagesDirFd: proto.Int32(-1), External: []string{"a", "b"}}, nil
	}}
	resp, err := s.run(t.Context(), versionRequest())
	must(t, err)
	if got.script != noteOrphanPTS || got.pid != 7 || content.String() != "content" {
		t.Errorf("notification %q of %d with %q", got.script, got.pid, content)
	}
	if got, want := resp.GetVersion().GetGitid(), "a,b"; got != want {
		t.Errorf("reply's options %q, want %q", got, want)
	}
	refused := errors.New("not now")
	s.notify = func(context.Context, notification) (*rpc.CriuOpts, error) { return nil, refused }
	if _, err := s.run(t.Context(), versionRequest()); !errors.Is(err, refused) {
		t.Errorf("error %v, want %v", err, refused)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "criu"), []byte("#!"), 0o755))
	b, err := Find("", dir)
	must(t, err)
	if want := filepath.Join(dir, "criu"); b.Path != want {
		t.Errorf("found %q, want %q", b.Path, want)
	}
	if _, err := Find(filepath.Join(dir, "none"), ""); !errors.Is(err, ErrNoBinary) {
		t.Errorf("error %v, want %v", err, ErrNoBinary)
	}
}
