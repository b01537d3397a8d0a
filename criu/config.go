package criu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// ConfigOptions are the choices of a [ConfigFile]: what a runtime's command line has no option for.
type ConfigOptions struct {
	// EmptyDir is an empty directory of this host, to hide directories with. It is
	// needed only for images in which a directory is hidden so.
	EmptyDir     string
	TCPClose     bool
	SkipRWXCheck bool
	// ConsumeImages is that of [RestoreOptions].
	ConsumeImages bool
	MountCompat   bool
	WeakSysctls   bool
	// External are further external objects in CRIU's notation, as "unix[77]".
	External []string
	// Inherit gives descriptors of CRIU by the keys of what they stand for ("socket:[77]").
	Inherit map[string]int
	// Lines are further options of CRIU, one each, as "ghost-limit 4194304".
	Lines []string
}

// lines are the options in CRIU's syntax, without its mounts and descriptors.
func (o ConfigOptions) lines() ([]string, error) {
	var lines []string
	for _, e := range o.External {
		lines = append(lines, "external "+e)
	}
	for _, key := range slices.Sorted(maps.Keys(o.Inherit)) {
		lines = append(lines, fmt.Sprintf("inherit-fd fd[%d]:%s", o.Inherit[key], key))
	}
	for _, f := range []struct {
		line string
		set  bool
	}{
		{"tcp-close", o.TCPClose},
		{"skip-file-rwx-check", o.SkipRWXCheck},
		{"mntns-compat-mode", o.MountCompat},
		{"weak-sysctls", o.WeakSysctls},
		{"auto-dedup", o.ConsumeImages},
	} {
		if f.set {
			lines = append(lines, f.line)
		}
	}
	lines = append(lines, o.Lines...)
	for _, l := range lines {
		if strings.ContainsFunc(l, unicode.IsControl) {
			return nil, fmt.Errorf("make criu configuration: option %q holds a control character", l)
		}
	}
	return lines, nil
}

// ConfigFile makes the file for CRIU_CONFIG_FILE with which a runtime (runc
// restore, crun restore) restores images of any other: the sources of all
// external mounts and the descriptors of external files. A value that CRIU's
// syntax cannot hold is an error: keys come from the images, and a line break
// in one would be an option of whoever made them.
func ConfigFile(ctx context.Context, imagesDir string, spec *specs.Spec, mountMap map[string]string, opts ConfigOptions) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, errors.New("make criu configuration: a spec is needed")
	}
	mounts, err := ExternalMounts(imagesDir)
	if err != nil {
		return nil, err
	}
	mapped, err := mapper{spec: spec, mountMap: mountMap, emptyDir: opts.EmptyDir}.mapAll(mounts)
	if err != nil {
		return nil, fmt.Errorf("make criu configuration: %w", err)
	}
	desc, err := ReadDescriptors(imagesDir)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, m := range mapped {
		if err := configWord(m.key); err != nil {
			return nil, err
		}
		if err := configWord(m.path); err != nil {
			return nil, err
		}
		b.WriteString(configLine("external", "mnt["+m.key+"]:", m.path))
	}
	for fd, d := range desc {
		// The runtimes look after pipes themselves.
		_, given := opts.Inherit[d]
		if fd >= stdioCount || !inherits(d) || strings.HasPrefix(d, "pipe:") || given {
			continue
		}
		if err := configWord(strings.NewReplacer("[", "", "]", "").Replace(d)); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "inherit-fd fd[%d]:%s\n", fd, d)
	}
	joined, err := joinedNamespaces(imagesDir, spec)
	if err != nil {
		return nil, err
	}
	for _, n := range joined {
		// The runtimes join all others themselves.
		if n.name != "net" || n.key != "" {
			continue
		}
		if err := configWord(n.path); err != nil {
			return nil, err
		}
		b.WriteString(configLine("join-ns", "net:", n.path))
	}
	lines, err := opts.lines()
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	return []byte(b.String()), nil
}

// CheckConfig tells whether a [ConfigFile] can hold the mounts among externals, as an archive lists them, and the paths that
// they are given. What has no path yet passes: see [CheckMapped].
func CheckConfig(spec *specs.Spec, mountMap map[string]string, externals []archive.External) error {
	mapped, err := mapper{spec: spec, mountMap: mountMap, emptyDir: "/"}.mapAll(externalsOf(externals))
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	for _, m := range mapped {
		if err := errors.Join(configWord(m.key), configWord(m.path)); err != nil {
			return err
		}
	}
	return nil
}

// configLine writes an option whose value ends with an absolute path. CRIU's parser (parse_statement of its config.c) takes a
// value in quotation marks with spaces in it, but then looks for a second value at the wrong place: as far from the beginning
// of the value as the value is from that of the line. It finds the end, and nothing, where both are of one length.
func configLine(option, prefix, path string) string {
	value := prefix + path
	if !strings.ContainsFunc(value, unicode.IsSpace) {
		return option + " " + value + "\n"
	}
	const marks = 2
	for len(value) < len(option)+1+marks {
		path = "/" + path
		value = prefix + path
	}
	return option + strings.Repeat(" ", len(value)-marks-len(option)) + `"` + value + "\"\n"
}

// configWord rejects what no value of CRIU's configuration can hold: # begins a comment even in quotation marks. Brackets end
// keys.
func configWord(s string) error {
	bad := func(r rune) bool {
		return unicode.IsControl(r) && r != '\t' || strings.ContainsRune("#\"[]", r)
	}
	if s == "" || strings.ContainsFunc(s, bad) || strings.HasSuffix(s, `\`) {
		return fmt.Errorf("make criu configuration: %s cannot be written in it; restore with the direct engine", archive.QuoteName(s))
	}
	return nil
}
