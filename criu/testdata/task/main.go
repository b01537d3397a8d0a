// Command task does, as the first process of a test container, one thing that
// is hard to dump, and counts.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	done := func() error { return nil }
	switch os.Args[1] {
	case "lock":
		f, err := os.Create("/tmp/lock")
		check(err)
		check(syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
		defer f.Close()
	case "tcp": // an established connection over lo, used at every tick
		done = loopback()
	case "ghost": // a deleted file of the given size
		f, err := os.Create("/tmp/ghost")
		check(err)
		n, err := strconv.Atoi(os.Args[2])
		check(err)
		_, err = f.Write(make([]byte, n))
		check(err)
		check(os.Remove("/tmp/ghost"))
		defer f.Close()
	case "generations": // writes one number after the other over all of its memory
		memory, err := syscall.Mmap(-1, 0, generationBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		check(err)
		for page := 0; page < len(memory); page += 4096 {
			copy(memory[page:], "GENERATE")
		}
		go generate(memory)
	case "exit": // ends with a status when the file is there
		done = func() error {
			if _, err := os.Stat("/tmp/end"); err == nil {
				os.Exit(7)
			}
			return nil
		}
	}
	for i := 1; ; i++ {
		check(done())
		fmt.Println("tick", i)
		time.Sleep(50 * time.Millisecond)
	}
}

const generationBytes = 32 << 20

// generate never ends.
func generate(memory []byte) {
	for n := uint64(1); ; n++ {
		for page := 0; page < len(memory); page += 4096 {
			binary.LittleEndian.PutUint64(memory[page+8:], n)
		}
	}
}

func loopback() func() error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // CRIU cannot dump Multipath TCP
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	check(err)
	c, err := net.Dial("tcp4", l.Addr().String())
	check(err)
	s, err := l.Accept()
	check(err)
	return func() error {
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(s, make([]byte, 1))
		return err
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}
