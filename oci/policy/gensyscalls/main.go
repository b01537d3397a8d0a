// Gensyscalls prints the numbers of system calls by name, a line each: the name, then its number
// on amd64, 386 and arm64, or "-" where there is none. Its argument is the directory of
// golang.org/x/sys/unix, which has them from the kernel's headers.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var constant = regexp.MustCompile(`(?m)^\tSYS_(\w+) += (\d+)`)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gensyscalls:", err)
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
}

func run(dir string) error {
	columns := []string{"amd64", "386", "arm64"}
	table := map[string][]string{}
	for i, arch := range columns {
		source, err := os.ReadFile(filepath.Join(dir, "zsysnum_linux_"+arch+".go"))
		if err != nil {
			return err
		}
		for _, m := range constant.FindAllStringSubmatch(string(source), -1) {
			name := strings.ToLower(m[1])
			if table[name] == nil {
				table[name] = slices.Repeat([]string{"-"}, len(columns))
			}
			table[name][i] = m[2]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		fmt.Fprintln(os.Stdout, name, strings.Join(table[name], " "))
	}
	return nil
}
