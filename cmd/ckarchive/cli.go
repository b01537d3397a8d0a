package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/ckarchive/ckarchive/archive/crypt"
	"github.com/ckarchive/ckarchive/registry"
)

// cli is the command line. Its help texts are the documentation of the verbs.
type cli struct {
	Root     string `help:"Directory of the local store." default:"${root}" env:"CKARCHIVE_ROOT" type:"path" placeholder:"DIR"`
	RunDir   string `help:"Directory of locks and of the containers restored directly." default:"${rundir}" env:"CKARCHIVE_RUN" type:"path" placeholder:"DIR"`
	CRIU     string `help:"The criu to use, instead of the one in PATH." env:"CKARCHIVE_CRIU" placeholder:"PATH"`
	Quiet    bool   `short:"q" help:"Print nothing but results and errors." env:"CKARCHIVE_QUIET"`
	JSON     bool   `name:"json" help:"Print results and errors as JSON." env:"CKARCHIVE_JSON"`
	Progress string `help:"How progress is shown: ${enum}." enum:"auto,plain,json,none" default:"auto" env:"CKARCHIVE_PROGRESS"`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version of ckarchive, and nothing else."`

	DecryptIdentity   []string `help:"Key that opens encrypted checkpoints: a file with AGE-SECRET-KEY-..., a private key of SSH, or passphrase; may be repeated." sep:"none" env:"CKARCHIVE_DECRYPT_IDENTITY" placeholder:"FILE"`
	TrustFile         string   `help:"Whose signatures checkpoints need, by repository; by default /etc/ckarchive/trust.toml." type:"path" env:"CKARCHIVE_TRUST_FILE" placeholder:"FILE"`
	RequireEncryption bool     `help:"Refuse to write a checkpoint in plain form to anything but the local store." env:"CKARCHIVE_REQUIRE_ENCRYPTION"`

	Check      checkCmd      `cmd:"" help:"Tell whether this host can dump and restore containers."`
	Export     exportCmd     `cmd:"" help:"Freeze a container and write it to an archive."`
	Import     importCmd     `cmd:"" help:"Bring an archive into the local store."`
	Convert    convertCmd    `cmd:"" help:"Write a checkpoint as another engine reads it."`
	Push       pushCmd       `cmd:"" help:"Send a checkpoint to a registry."`
	Pull       pullCmd       `cmd:"" help:"Fetch a checkpoint from a registry."`
	Restore    restoreCmd    `cmd:"" help:"Bring a checkpoint back to life."`
	Inspect    inspectCmd    `cmd:"" help:"Show what a checkpoint holds."`
	Sign       signCmd       `cmd:"" help:"Sign a checkpoint."`
	Diff       diffCmd       `cmd:"" help:"Show what differs between two checkpoints."`
	Verify     verifyCmd     `cmd:"" help:"Prove that a checkpoint is whole."`
	List       listCmd       `cmd:"" help:"List the local store."`
	Flatten    flattenCmd    `cmd:"" help:"Store a checkpoint whole that was stored as changes of another."`
	Tag        tagCmd        `cmd:"" help:"Give a checkpoint of the local store another name."`
	Rm         rmCmd         `cmd:"" help:"Remove names from the local store."`
	GC         gcCmd         `cmd:"" name:"gc" help:"Free what no name refers to."`
	Recover    recoverCmd    `cmd:"" help:"Put right what a killed ckarchive left."`
	Login      loginCmd      `cmd:"" help:"Store the credentials of a registry."`
	Logout     logoutCmd     `cmd:"" help:"Forget the credentials of a registry."`
	Completion completionCmd `cmd:"" help:"Print the code that completes commands in a shell."`
	Version    versionCmd    `cmd:"" help:"Print the versions of ckarchive, CRIU and the runtimes."`
}

// app is what the commands share.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	getenv         func(string) string
	cli            *cli
	trust          *trustFile        // nil until it is read
	identities     *crypt.Identities // nil until something is encrypted
	parser         *kong.Kong
	steps          []step // of which progress was shown, and that are over
	profileErr     error  // what is wrong with the profile that the command line names
	// confine is how this process gives up what a command that reads needs not; nil where it is not the command's alone.
	confine func(boundary) error
	clients map[remoteFlags]*registry.Client
}

const description = `Freeze a running container, carry its memory, processes and files in one archive, and bring it back to life elsewhere.

SRC and DEST are a path (./x.tar.zst, /x.tar, - for a stream), oci:DIR[:TAG], oci-archive:FILE[:TAG], dir:PATH (a plain directory of images, as runtimes make it), or a name HOST/REPO:TAG[@DIGEST], which means the local store first and then the registry.`

// exitHelp ends every help text.
const exitHelp = `
Exit status: 0 done, 1 different (diff --exit-code), 2 usage, 3 input rejected (damaged or unsafe), 4 not found, 5 preflight or environment (no CRIU, no space, not root, busy),
6 dump failed and the container is running, 7 dump failed and the container is not running (images kept), 8 restore failed (nothing left behind),
9 registry or network, 10 archive written but the final step failed, 130 or 143 interrupted, 141 nobody read the output to its end.
`

// newParser builds the parser of the command line.
func (a *app) newParser() (*kong.Kong, error) {
	a.cli = &cli{}
	return kong.New(a.cli,
		kong.Name("ckarchive"),
		kong.Description(description),
		kong.Vars{"version": "ckarchive " + versionString(), "root": defaultRoot(a.getenv), "rundir": defaultRunDir, "ghostlimit": defaultGhostLimit, "networklock": defaultNetworkLock, "cachesize": defaultCacheSize},
		kong.Writers(a.stdout, a.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Help(func(o kong.HelpOptions, ctx *kong.Context) error {
			if err := kong.DefaultHelpPrinter(o, ctx); err != nil {
				return unread(err)
			}
			_, err := io.WriteString(ctx.Stdout, exitHelp)
			return unread(err)
		}),
		kong.Exit(func(code int) { panic(exitStatus(code)) }),
		kong.NamedMapper("path", kong.MapperFunc(pathMapper)),
		kong.Resolvers(a.profiles()),
		kong.Bind(a),
	)
}

// pathMapper makes a path absolute. An empty one, as from an empty environment variable, is as
// good as none.
func pathMapper(ctx *kong.DecodeContext, target reflect.Value) error {
	var path string
	if err := ctx.Scan.PopValueInto("file", &path); err != nil {
		return err
	}
	if path != "" {
		path = kong.ExpandPath(path)
	}
	target.SetString(path)
	return nil
}

// exitStatus unwinds kong when it has printed a help text.
type exitStatus int

// main parses and runs one command line.
func (a *app) main(ctx context.Context, args []string) (status int) {
	defer func() {
		if code, ok := recover().(exitStatus); ok {
			status = int(code)
		}
	}()
	parser, err := a.newParser()
	if err != nil {
		return a.fail(err)
	}
	a.parser = parser
	if a.completed(ctx, parser) {
		return 0
	}
	kctx, err := parser.Parse(helped(args))
	if a.profileErr != nil {
		return a.fail(a.profileErr)
	}
	if err != nil {
		// Parsing stopped somewhere, maybe before the flag.
		a.cli.JSON = a.cli.JSON || slices.Contains(args, "--json")
		return a.fail(usageOf(err))
	}
	if a.cli.Root == "" {
		a.cli.Root = defaultRoot(a.getenv)
	}
	if a.cli.RunDir == "" {
		a.cli.RunDir = defaultRunDir
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	err = a.confineTo(ctx, kctx.Selected().Target.Addr().Interface())
	if err == nil {
		err = kctx.Run()
	}
	if err != nil {
		return a.fail(err)
	}
	return 0
}

// helped makes "help" and "help VERB", which other programs have, what shows the same here.
func helped(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	}
	return args
}

// confineTo confines this process to what a command needs, if that is a reader.
func (a *app) confineTo(ctx context.Context, command any) error {
	r, ok := command.(reader)
	if !ok || a.confine == nil {
		return nil
	}
	needs := r.reach()
	if needs == nil {
		return nil
	}
	return a.confine(a.bound(ctx, needs))
}

// usageOf makes kong's complaint a usage error with the command it is about.
func usageOf(err error) error {
	var pe *kong.ParseError
	command := "ckarchive"
	if errors.As(err, &pe) && pe.Context != nil && pe.Context.Selected() != nil {
		command = pe.Context.Selected().FullPath()
	}
	return &usageError{err: err, hint: fmt.Sprintf("see %s --help", command)}
}
