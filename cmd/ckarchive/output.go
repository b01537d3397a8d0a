package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"text/tabwriter"
)

// unreadError is a text whose reader has seen enough, as head does. Other programs are ended by SIGPIPE then.
type unreadError struct{ err error }

func (e *unreadError) Error() string { return e.err.Error() }
func (e *unreadError) Unwrap() error { return e.err }

// unread tells a reader that has seen enough from other errors of writing a text.
func unread(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return &unreadError{err}
	}
	return err
}

// printResult prints the one line that scripts take, or v with --json.
func (a *app) printResult(line string, v any) error {
	if a.cli.JSON {
		return a.printJSON(v)
	}
	if line == "" {
		return nil
	}
	_, err := fmt.Fprintln(a.stdout, line)
	return unread(err)
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	return unread(enc.Encode(v))
}

// printTable prints names and values, or an object with --json.
func (a *app) printTable(rows [][2]string) error {
	if a.cli.JSON {
		object := map[string]string{}
		for _, r := range rows {
			object[r[0]] = r[1]
		}
		return a.printJSON(object)
	}
	return a.columns(func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s:\t%s\n", r[0], oneLine(r[1]))
		}
	})
}

// columns aligns what print writes with tabs between cells.
func (a *app) columns(print func(w io.Writer)) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	print(w)
	return unread(w.Flush())
}
