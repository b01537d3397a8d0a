package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"
)

// profile is a file of options of export: see docs/profiles.md.
type profile struct {
	Description string         `toml:"description"`
	Options     map[string]any `toml:"options"` // by flag
	path        string
}

//go:embed profiles/*.toml
var builtinProfiles embed.FS

const profileSuffix = ".toml"

// profileDirs are where profiles are looked for, before the built-in ones: the user's, then the host's.
func profileDirs(getenv func(string) string) []string {
	var dirs []string
	switch config, home := getenv("XDG_CONFIG_HOME"), getenv("HOME"); {
	case filepath.IsAbs(config):
		dirs = append(dirs, filepath.Join(config, "ckarchive", "profiles"))
	case filepath.IsAbs(home):
		dirs = append(dirs, filepath.Join(home, ".config", "ckarchive", "profiles"))
	}
	return append(dirs, "/etc/ckarchive/profiles")
}

// findProfile reads the profile called name, the first one in dirs or a built-in one.
func findProfile(name string, dirs []string) (*profile, error) {
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, usagef("--profile %q: a profile is named without a path, and is looked for in %s", name, strings.Join(dirs, ", "))
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name+profileSuffix)
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, usagef("--profile %s: %w", name, err)
		}
		return parseProfile(path, b)
	}
	path := "profiles/" + name + profileSuffix
	b, err := builtinProfiles.ReadFile(path)
	if err != nil {
		return nil, &usageError{
			err:  fmt.Errorf("--profile %s: there is no %s in %s", name, name+profileSuffix, strings.Join(dirs, " or ")),
			hint: "built in are " + strings.Join(builtinNames(), ", "),
		}
	}
	return parseProfile(path, b)
}

func builtinNames() []string {
	var names []string
	entries, _ := builtinProfiles.ReadDir("profiles") // it is part of the program
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), profileSuffix))
	}
	return names
}

// parseProfile reads a file. What is misspelled is refused: an option that is silently not there costs a container its
// connections.
func parseProfile(path string, b []byte) (*profile, error) {
	p := &profile{path: path}
	meta, err := toml.Decode(string(b), p)
	if err != nil {
		return nil, usagef("profile %q: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, usagef("profile %q: unknown key %q; it has description and options", path, unknown[0])
	}
	return p, nil
}

// fixedFlags are those that no profile sets: they are about one export.
func fixedFlags() []string {
	return []string{"help", "profile", "force", "dry-run", "delete", "name", "status-fd"}
}

// check refuses options that export does not have.
func (p *profile) check(export *kong.Node) error {
	known := map[string]bool{}
	for _, f := range export.Flags {
		known[f.Name] = !slices.Contains(fixedFlags(), f.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Options)) {
		if !known[name] {
			return usagef("profile %q: %q is no option of export that a profile may set", p.path, name)
		}
	}
	return nil
}

// profileValue gives an option as a command line would write it.
func profileValue(v any) (any, error) {
	switch v := v.(type) {
	case bool, string, int64:
		return fmt.Sprint(v), nil
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("%v is no text", item)
			}
			list[i] = text
		}
		return list, nil
	}
	return nil, fmt.Errorf("%v is neither true, false, a number, a text nor a list of texts", v)
}

// profiles gives the flags that the command line does not set the values of --profile. What is wrong with a profile is
// told by a.profileErr: kong would blame the flag that it is asked for.
func (a *app) profiles() kong.Resolver {
	loaded := map[string]*profile{}
	return kong.ResolverFunc(func(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name := profileOf(ctx)
		if name == "" || a.profileErr != nil {
			return nil, nil //nolint:nilnil // no value
		}
		p := loaded[name]
		if p == nil {
			p, a.profileErr = findProfile(name, profileDirs(a.getenv))
			if a.profileErr == nil {
				a.profileErr = p.check(exportNode(ctx.Model.Node))
			}
			if a.profileErr != nil {
				return nil, nil //nolint:nilnil // no value
			}
			loaded[name] = p
		}
		v, ok := p.Options[flag.Name]
		if !ok {
			return nil, nil //nolint:nilnil // no value
		}
		value, err := profileValue(v)
		if err != nil {
			return nil, fmt.Errorf("profile %q: %w", p.path, err)
		}
		return value, nil
	})
}

// profileOf gives the value of --profile of the command that was chosen.
func profileOf(ctx *kong.Context) string {
	command := ctx.Selected()
	if command == nil {
		return ""
	}
	i := slices.IndexFunc(command.Flags, func(f *kong.Flag) bool { return f.Name == "profile" })
	if i < 0 {
		return ""
	}
	name, _ := ctx.FlagValue(command.Flags[i]).(string)
	return name
}

func exportNode(top *kong.Node) *kong.Node {
	i := slices.IndexFunc(top.Children, func(n *kong.Node) bool { return n.Name == "export" })
	return top.Children[i]
}
