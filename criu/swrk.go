package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	// MaxLogBytes is the size of its log at which CRIU is stopped: 64 MiB. A
	// restore that can never end writes about 48 MiB a second.
	MaxLogBytes = 64 << 20
	// stopGrace is how long CRIU may take for each step of being stopped.
	stopGrace = 3 * time.Second
	// finishGrace is how long CRIU may take to end once it was told that its
	// work is accepted, whatever the context says.
	finishGrace = 2 * time.Minute
	// watchInterval is how often the log's size is looked at.
	watchInterval = 100 * time.Millisecond
	// maxMessageBytes is the length of a message of CRIU's protocol.
	maxMessageBytes = 1 << 20
)

// Names of the notifications that CRIU sends.
const (
	notePostDump    = "post-dump"
	noteQueryFiles  = "query-ext-files"
	noteStatusReady = "status-ready"
	noteSetupNS     = "setup-namespaces"
	notePostSetupNS = "post-setup-namespaces"
	noteOrphanPTS   = "orphan-pts-master"
	notePostRestore = "post-restore"
)

// notification is a question of CRIU that it waits to be answered.
type notification struct {
	script string
	pid    int
	files  []*os.File // belong to the client, closed after the answer
}

// session is one run of "criu swrk": one request, its notifications, one response.
type session struct {
	bin                   string
	stdin, stdout, stderr *os.File
	extra                 []*os.File // descriptors 4, 5, ... of CRIU
	toolsDir              string     // comes first in CRIU's PATH, or empty
	configFile            string     // CRIU_CONFIG_FILE, or empty
	logPath               string     // watched, or empty
	keepSession           bool       // stay in our session: for jobs of a shell
	privateMounts         bool
	namespaces            int // CLONE_NEW... flags of further namespaces of CRIU's own
	// prepare runs in CRIU's mount namespace before CRIU does.
	prepare func() error
	// started runs when CRIU does, before it gets the request.
	started func(pid int, req *rpc.CriuReq) error
	// notify answers notifications; its options are sent along. An error tells CRIU to give up.
	notify func(ctx context.Context, n notification) (*rpc.CriuOpts, error)
	// accepted is the notification after whose answer CRIU is no longer interrupted by the context.
	accepted string
	grace    time.Duration // for each step of being stopped; 0: stopGrace
}

var (
	errLogTooLarge = fmt.Errorf("its log passed %d MiB, it would not have ended", MaxLogBytes>>20)
	errRefused     = errors.New("criu refused")
	errGone        = errors.New("criu ended without an answer")
)

// run starts CRIU, sends the request and gives CRIU's response, if that says
// success. CRIU has ended when run returns.
func (s *session) run(ctx context.Context, req *rpc.CriuReq) (*rpc.CriuResp, error) {
	c, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	c.grace = cmp.Or(s.grace, stopGrace)
	var resp *rpc.CriuResp
	var g errgroup.Group
	// What is done while CRIU waits is of no use without it: nothing stands still any more.
	present, gone := context.WithCancelCause(ctx)
	defer gone(nil)
	g.Go(func() error {
		defer gone(errGone)
		return c.watch(ctx, s.logPath)
	})
	g.Go(func() error {
		defer c.finish()
		var err error
		if s.started != nil {
			if err := s.started(c.pid(), req); err != nil {
				return err
			}
		}
		resp, err = s.talk(ctx, present, c, req)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return resp, nil
}

// talk sends the request and answers notifications until the response is there. present is ctx, and ends
// with CRIU.
func (s *session) talk(ctx, present context.Context, c *child, req *rpc.CriuReq) (*rpc.CriuResp, error) {
	buf := make([]byte, maxMessageBytes)
	oob := make([]byte, unix.CmsgSpace(16*4))
	var noteErr error // what a notification was refused with: the reason of the failure that follows
	for {
		b, err := proto.Marshal(req)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		if _, err := c.conn.Write(b); err != nil {
			return nil, c.explain(ctx, errors.Join(noteErr, err))
		}
		n, oobn, _, _, err := c.conn.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return nil, c.explain(ctx, errors.Join(noteErr, err))
		}
		files, err := receivedFiles(oob[:oobn])
		if err != nil {
			return nil, err
		}
		resp := &rpc.CriuResp{}
		if err := proto.Unmarshal(buf[:n], resp); err != nil {
			closeAll(files)
			return nil, fmt.Errorf("decode criu's message: %w", err)
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			closeAll(files)
			if noteErr != nil {
				return nil, noteErr
			}
			if !resp.GetSuccess() {
				return nil, refusal(ctx, c, resp)
			}
			return resp, nil
		}
		note := notification{script: resp.GetNotify().GetScript(), pid: int(resp.GetNotify().GetPid()), files: files}
		opts, err := s.answer(present, note)
		closeAll(files)
		if errors.Is(err, errGone) {
			return nil, c.explain(ctx, nil)
		}
		if err != nil {
			noteErr = err
		}
		if noteErr == nil && note.script == s.accepted {
			c.accept()
		}
		req = &rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(err == nil), Opts: opts}
	}
}

func (s *session) answer(ctx context.Context, n notification) (*rpc.CriuOpts, error) {
	if s.notify == nil {
		return nil, nil //nolint:nilnil // nothing to add is an answer
	}
	opts, err := s.notify(ctx, n)
	if err == nil && n.script == s.accepted {
		err = ctx.Err() // the last moment to say no
	}
	if err != nil && errors.Is(context.Cause(ctx), errGone) {
		err = errGone
	}
	return opts, err
}

func refusal(ctx context.Context, c *child, resp *rpc.CriuResp) error {
	if err := c.stopReason(ctx); err != nil {
		return err
	}
	// cr_errmsg holds the first line of the log that looks like an error, which as
	// a rule is a harmless one; the reason is taken from the log by the caller.
	if no := resp.GetCrErrno(); no != 0 {
		return fmt.Errorf("%w: %w", errRefused, unix.Errno(no)) //nolint:gosec // an errno
	}
	return errRefused
}

// receivedFiles gives the descriptors that came with a message.
func receivedFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("decode criu's descriptors: %w", err)
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials, which are not asked for
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "criu"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() //nolint:errcheck // not written by us
	}
}

// socketPair gives both ends of CRIU's connection: ours and the one that is
// CRIU's descriptor 3.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket for criu: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "criu swrk")
	ours := os.NewFile(uintptr(fds[0]), "criu client")
	defer ours.Close() //nolint:errcheck // FileConn made a copy
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close() //nolint:errcheck // unused
		return nil, nil, fmt.Errorf("make socket for criu: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		theirs.Close() //nolint:errcheck // unused
		c.Close()      //nolint:errcheck // unused
		return nil, nil, fmt.Errorf("make socket for criu: got a %T", c)
	}
	return conn, theirs, nil
}
