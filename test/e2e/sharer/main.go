// Command sharer counts in memory that it shares with three processes of its own: each adds to a
// slot of its own and watches those of the others. The file behind the memory is deleted. A tick
// is printed each time that all four have gone on.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	processes = 4
	size      = 1 << 20
	pause     = 10 * time.Millisecond
)

func main() {
	if err := run(); err != nil {
		fmt.Println("lost:", err)
		os.Exit(3)
	}
}

func run() error {
	slot := 0
	if len(os.Args) > 1 {
		var err error
		if slot, err = strconv.Atoi(os.Args[1]); err != nil {
			return err
		}
	}
	const path = "/dev/shm/shared"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	memory, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	counters := (*[processes]atomic.Int64)(unsafe.Pointer(&memory[0]))
	counters[slot].Store(1)
	if slot == 0 {
		for i := 1; i < processes; i++ {
			child := exec.Command("/proc/self/exe", strconv.Itoa(i))
			child.Stdout = os.Stdout
			if err := child.Start(); err != nil {
				return err
			}
		}
	}
	return count(counters, slot, path)
}

// count adds to the slot, and wants every other one to go on as well.
func count(counters *[processes]atomic.Int64, slot int, path string) error {
	for counters[1].Load()*counters[2].Load()*counters[3].Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if slot == 0 {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for tick := 1; ; tick++ {
		var before [processes]int64
		for i := range processes {
			before[i] = counters[i].Load()
		}
		counters[slot].Add(1)
		for i := range processes {
			for waited := 0; counters[i].Load() == before[i]; waited++ {
				const most = 60_000
				if waited == most {
					return fmt.Errorf("process %d does not share memory with %d any more", i, slot)
				}
				time.Sleep(time.Millisecond)
			}
		}
		if slot == 0 {
			fmt.Printf("tick %d\n", tick)
		}
		time.Sleep(pause)
	}
}
