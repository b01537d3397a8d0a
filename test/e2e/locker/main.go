// Command locker counts like test/workload and holds a lock on the file /locked.
// Each tick it sees that nobody else could get the lock; when somebody can, it
// says "lost" and ends with status 3.
package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("lost:", err)
		os.Exit(3)
	}
}

func run() error {
	holder, err := os.OpenFile("/locked", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer holder.Close() //nolint:errcheck // never written
	if err := syscall.Flock(int(holder.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	for n := 1; ; n++ {
		if err := refused(); err != nil {
			return err
		}
		fmt.Printf("tick %d\n", n)
		time.Sleep(20 * time.Millisecond)
	}
}

// refused fails if the lock can be had.
func refused() error {
	other, err := os.Open("/locked")
	if err != nil {
		return err
	}
	defer other.Close() //nolint:errcheck // read only
	err = syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	return fmt.Errorf("a second lock: %w", errors.Join(errors.New("it was granted"), err))
}
