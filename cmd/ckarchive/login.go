package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// loginCmd stores credentials.
type loginCmd struct {
	Registry      string `arg:"" help:"HOST or HOST/NAMESPACE."`
	Username      string `short:"u" help:"User name; asked for on a terminal." env:"CKARCHIVE_USERNAME"`
	PasswordStdin bool   `help:"Read the password from standard input."`
	connectFlags
}

// Run implements the command.
func (c *loginCmd) Run(ctx context.Context, a *app) error {
	password, err := c.ask(a)
	if err != nil {
		return err
	}
	if c.Username == "" || password == "" {
		return usagef("user name and password must not be empty")
	}
	path, err := a.client(remoteFlags{connectFlags: c.connectFlags}).Login(ctx, c.Registry, c.Username, password)
	if err != nil {
		return cause(ctx, err)
	}
	a.say("login succeeded; credentials are in %s", path)
	return nil
}

// ask gets the password, and the user name where it was not given. A password on the command
// line would be in the process list.
func (c *loginCmd) ask(a *app) (string, error) {
	in := bufio.NewReader(a.stdin)
	if c.PasswordStdin {
		if c.Username == "" {
			return "", usagef("--password-stdin needs --username")
		}
		b, err := io.ReadAll(io.LimitReader(in, maxPasswordBytes))
		return strings.TrimRight(string(b), "\r\n"), err
	}
	fd := int(a.stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", &usageError{err: errors.New("standard input is no terminal to ask for a password"), hint: "use --password-stdin"}
	}
	if c.Username == "" {
		fmt.Fprint(a.stderr, "Username: ")
		name, err := in.ReadString('\n')
		if err != nil {
			return "", err
		}
		c.Username = strings.TrimSpace(name)
	}
	fmt.Fprint(a.stderr, "Password: ")
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(a.stderr)
	return string(b), err
}

// maxPasswordBytes is more than any token has.
const maxPasswordBytes = 64 << 10

// logoutCmd forgets credentials.
type logoutCmd struct {
	Registry string `arg:"" help:"HOST or HOST/NAMESPACE."`
	connectFlags
}

// Run implements the command.
func (c *logoutCmd) Run(ctx context.Context, a *app) error {
	if err := a.client(remoteFlags{connectFlags: c.connectFlags}).Logout(ctx, c.Registry); err != nil {
		return err
	}
	a.say("credentials for %s are removed", c.Registry)
	return nil
}
