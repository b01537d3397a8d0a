package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
)

const childMemory = 1 << 20

// child is one more process of the tree and the pipes to it.
type child struct {
	requests io.Writer
	answers  *bufio.Reader
	asked    uint64
}

// childrenProbe asks each child on each tick.
type childrenProbe struct{ children []*child }

func newChildrenProbe(count int) (*childrenProbe, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	probe := &childrenProbe{}
	for number := range count {
		cmd := exec.Command(self, "child", fmt.Sprint(number))
		cmd.Stderr = os.Stderr
		requests, err := cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("make pipe to child %d: %w", number, err)
		}
		answers, err := cmd.StdoutPipe()
		if err != nil {
			return nil, fmt.Errorf("make pipe from child %d: %w", number, err)
		}
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("start child %d: %w", number, err)
		}
		probe.children = append(probe.children, &child{requests: requests, answers: bufio.NewReader(answers)})
	}
	return probe, nil
}

func (c *childrenProbe) step(tick uint64, _ bool) error {
	for number, child := range c.children {
		child.asked++
		if _, err := fmt.Fprintf(child.requests, "%d\n", tick); err != nil {
			return fmt.Errorf("ask child %d: %w", number, err)
		}
		got, err := child.answers.ReadString('\n')
		if err != nil {
			return fmt.Errorf("hear child %d: %w", number, err)
		}
		if want := fmt.Sprintf("%d %d ok\n", tick, child.asked); got != want {
			return fmt.Errorf("child %d answered %q, want %q", number, got, want)
		}
	}
	return nil
}

// runChild answers requests on stdin until the parent is gone. An answer is the
// request's number, the count of requests so far, and whether the memory is right.
func runChild(number uint64, in io.Reader, out io.Writer) error {
	memory, err := newPattern(0xc0+number, childMemory)
	if err != nil {
		return err
	}
	requests := bufio.NewScanner(in)
	for count := uint64(1); requests.Scan(); count++ {
		var tick uint64
		if _, err := fmt.Sscan(requests.Text(), &tick); err != nil {
			return fmt.Errorf("read request %q: %w", requests.Text(), err)
		}
		verdict := "ok"
		if err := memory.verify(len(memory.generations)); err != nil {
			verdict = err.Error()
		}
		memory.rewrite(tick)
		if _, err := fmt.Fprintf(out, "%d %d %s\n", tick, count, verdict); err != nil {
			return fmt.Errorf("answer request %d: %w", tick, err)
		}
	}
	return requests.Err()
}

// tcpProbe has both ends of a TCP connection over the loopback device.
type tcpProbe struct{ client, server net.Conn }

func newTCPProbe() (*tcpProbe, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer listener.Close() //nolint:errcheck // it has taken its one connection
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	server, err := listener.Accept()
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return &tcpProbe{client: client, server: server}, nil
}

func (t *tcpProbe) step(tick uint64, _ bool) error {
	for _, way := range []struct{ from, to net.Conn }{{t.client, t.server}, {t.server, t.client}} {
		want := record(tick)
		if _, err := way.from.Write(want); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(way.to, got); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if string(got) != string(want) {
			return fmt.Errorf("received %x, want %x", got, want)
		}
	}
	return nil
}
