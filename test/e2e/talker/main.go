// Command talker counts over a unix socket: it sends each tick to the server whose socket is its
// argument, and prints it when it comes back. An answer that is lost or wrong ends it.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Println("lost:", err)
		os.Exit(3)
	}
}

func run(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it ends with the program
	answers := bufio.NewScanner(conn)
	for n := 1; ; n++ {
		want := fmt.Sprintf("tick %d", n)
		if _, err := fmt.Fprintln(conn, want); err != nil {
			return err
		}
		if !answers.Scan() || answers.Text() != want {
			return fmt.Errorf("answer %q, want %q: %w", answers.Text(), want, answers.Err())
		}
		fmt.Println(want)
		time.Sleep(20 * time.Millisecond)
	}
}
