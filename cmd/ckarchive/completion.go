package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/posener/complete"

	"github.com/ckarchive/ckarchive/oci/runtime"
	"github.com/ckarchive/ckarchive/oci/signature"
)

// completionCmd prints shell code: source <(ckarchive completion bash).
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is the long help text.
func (completionCmd) Help() string {
	return `source <(ckarchive completion bash) completes verbs, flags and their values, names of the local store, containers and files. Registries are not asked.`
}

// fishFunction completes files where ckarchive has nothing, as the other shells do by themselves.
const fishFunction = `function __complete_ckarchive
    set -lx COMP_LINE (commandline -cp)
    set -l words (%s)
    if test (count $words) -gt 0
        printf '%%s\n' $words
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -f -c ckarchive -a "(__complete_ckarchive)"
`

// Run implements the command.
func (c *completionCmd) Run(a *app, kctx *kong.Context) error {
	if c.Shell != "fish" {
		return (&kongcompletion.Completion{Shell: c.Shell, Code: true}).Run(kctx)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, fishFunction, "'"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(program)+"'")
	return unread(err)
}

// completed prints what the word may become that is being typed, where a shell asks for it: one a line. What it cannot
// find out it leaves out, without a word.
func (a *app) completed(ctx context.Context, parser *kong.Kong) bool {
	line := a.getenv("COMP_LINE")
	if line == "" {
		return false
	}
	// Where the cursor is, in bytes. zsh counts characters, and fish gives no more than what is before it.
	var point int
	if n, err := fmt.Sscan(a.getenv("COMP_POINT"), &point); n == 1 && err == nil && point > 0 && point < len(line) {
		line = line[:point]
	}
	words := strings.Fields(line)
	if strings.TrimRightFunc(line, unicode.IsSpace) != line {
		words = append(words, "")
	}
	command, err := a.completions(ctx, parser, words)
	if err != nil || len(words) < 2 {
		return true
	}
	// bash gives as the second argument what it replaces: not more than what is behind the last of its
	// COMP_WORDBREAKS, among them = and :.
	replaced := words[len(words)-1]
	if len(os.Args) > 2 {
		replaced = os.Args[2]
	}
	for _, word := range completeWord(&command, words, replaced) {
		fmt.Fprintln(a.stdout, word)
	}
	return true
}

// completions are what there is to complete, by verb; words are those of the line.
func (a *app) completions(ctx context.Context, parser *kong.Kong, words []string) (complete.Command, error) {
	names := func(complete.Args) []string { return a.storedNames(ctx, words) }
	checkpoints := func(at complete.Args) []string { return append(names(at), archives(at.Last)...) }
	containers := func(at complete.Args) []string { return a.containerNames(words, at.Last) }
	command, err := kongcompletion.Command(parser, kongcompletion.WithPredictors(map[string]complete.Predictor{
		"name":       complete.PredictFunc(names),
		"checkpoint": complete.PredictFunc(checkpoints),
		"container":  complete.PredictFunc(containers),
		"any":        complete.PredictFunc(func(at complete.Args) []string { return append(checkpoints(at), containers(at)...) }),
		"runtime":    complete.PredictSet(runtime.Names()...),
	}))
	if err != nil {
		return command, err
	}
	for _, verb := range command.Sub {
		// The library forgets that flags of the program may follow the verb as well.
		args, ok := verb.Args.(*kongcompletion.PositionalPredictor)
		if !ok {
			continue
		}
		for _, flag := range parser.Model.Flags {
			if flag.IsBool() {
				args.BoolFlags = append(args.BoolFlags, "--"+flag.Name)
			} else {
				args.ArgFlags = append(args.ArgFlags, "--"+flag.Name)
			}
		}
	}
	// rm takes several.
	if args, ok := command.Sub["rm"].Args.(*kongcompletion.PositionalPredictor); ok {
		const most = 100
		args.Predictors = slices.Repeat(args.Predictors, most)
	}
	return command, nil
}

// completeWord gives what may stand in place of replaced, the end of the last word.
func completeWord(command *complete.Command, words []string, replaced string) []string {
	typed := words[len(words)-1]
	before, last := "", typed
	if name, value, found := strings.Cut(typed, "="); found && strings.HasPrefix(typed, "-") {
		words, before, last = append(words[:len(words)-1:len(words)-1], name, value), name+"=", value
	}
	kept, _ := strings.CutSuffix(typed, replaced)
	at := complete.Args{All: words[1:], Completed: words[1 : len(words)-1], Last: last, LastCompleted: words[len(words)-2]}
	var found []string
	for _, word := range command.Predict(at) {
		if strings.HasPrefix(word, last) && isTame(word) {
			found = append(found, strings.TrimPrefix(before+word, kept))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// isTame tells whether a word can be put on a command line as it is: shells take the words for input that was typed.
func isTame(word string) bool {
	return word != "" && !strings.ContainsFunc(word, func(r rune) bool {
		return !unicode.IsPrint(r) || r == unicode.ReplacementChar || strings.ContainsRune(" '\"`\\$&|;<>()[]{}*?!#~^", r)
	})
}

// typedFlag is the value that the line gives a flag, or "".
func typedFlag(words []string, flag string) (value string) {
	for i, word := range words {
		if v, found := strings.CutPrefix(word, flag+"="); found {
			value = v
		} else if word == flag && i+1 < len(words) {
			value = words[i+1]
		}
	}
	return value
}

// storedNames are those of the local store.
func (a *app) storedNames(ctx context.Context, words []string) []string {
	a.cli.Root = kong.ExpandPath(cmp.Or(typedFlag(words, "--root"), a.getenv("CKARCHIVE_ROOT"), defaultRoot(a.getenv)))
	store, err := a.openStore(ctx, false)
	if err != nil {
		return nil
	}
	stored, err := store.Names()
	if err != nil {
		return nil
	}
	var names []string
	for _, name := range stored {
		if ref, err := parseName(name); err == nil && !strings.HasSuffix(ref.Tag, signature.FileSuffix) {
			names = append(names, strings.TrimPrefix(name, localHost+"/"))
		}
	}
	return names
}

// archives are the files of this directory that a SRC would name by their bare names.
func archives(last string) []string {
	if strings.ContainsAny(last, "/:") {
		return nil
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		return nil
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() && isPath(e.Name()) && !strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(e.Name(), "-") {
			files = append(files, e.Name())
		}
	}
	return files
}

// containerNames are what the engines call the containers of this host, and the IDs of those without a name or whose
// ID is being typed.
func (a *app) containerNames(words []string, last string) []string {
	a.cli.RunDir = kong.ExpandPath(cmp.Or(typedFlag(words, "--run-dir"), a.getenv("CKARCHIVE_RUN"), defaultRunDir))
	flags := runtimeFlags{Runtime: typedFlag(words, "--runtime"), RuntimeRoot: typedFlag(words, "--runtime-root")}
	var names []string
	for _, c := range runtime.Sighted(flags.find(a)) {
		if c.Name != "" {
			names = append(names, c.Name)
		}
		if c.Name == "" || last != "" {
			names = append(names, c.ID)
		}
	}
	return names
}
