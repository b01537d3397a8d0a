package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// The pages in docs/verbs are made from the command line itself. The test that compares
// them writes them too.
//
//go:generate go test . -run "^(TestVerbPages|TestSchemas)$" -update

// pageMark begins every generated page.
const pageMark = "<!-- Made from the command line by `go generate ./cmd/ckarchive`. -->\n\n"

// verbIndex is the page that lists all verbs.
const verbIndex = "README.md"

// verbPages renders one page per verb and the index, by file name.
func verbPages(model *kong.Application) map[string]string {
	pages := map[string]string{}
	verbs := [][]string{}
	for _, verb := range model.Children {
		if verb.Hidden {
			continue
		}
		file := verb.Name + ".md"
		pages[file] = verbPage(verb)
		verbs = append(verbs, []string{fmt.Sprintf("[%s](%s)", verb.Name, file), verb.Help})
	}
	pages[verbIndex] = indexPage(model, verbs)
	return pages
}

// indexPage renders what all verbs have in common.
func indexPage(model *kong.Application, verbs [][]string) string {
	b := &strings.Builder{}
	b.WriteString(pageMark + "# The verbs of ckarchive\n\n")
	b.WriteString(strings.TrimSpace(model.Help) + "\n\n")
	writeTable(b, []string{"Verb", "Does"}, verbs)
	b.WriteString("\n## Flags of every verb\n\n")
	writeFlags(b, model.Flags)
	title, list, _ := strings.Cut(strings.TrimSpace(exitHelp), ":")
	fmt.Fprintf(b, "\n## %s\n\n%s\n", title, strings.TrimSpace(list))
	return b.String()
}

// verbPage renders one verb.
func verbPage(verb *kong.Node) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s# ckarchive %s\n\n%s\n\n", pageMark, verb.Name, verb.Help)
	fmt.Fprintf(b, "    ckarchive %s", verb.Name)
	args := [][]string{}
	for _, arg := range verb.Positional {
		name := strings.ToUpper(arg.Name)
		if arg.IsCumulative() {
			name += "..."
		}
		args = append(args, []string{"`" + name + "`", arg.Help})
		if !arg.Required {
			name = "[" + name + "]"
		}
		fmt.Fprintf(b, " %s", name)
	}
	if len(verb.Flags) > 0 {
		b.WriteString(" [flags]")
	}
	b.WriteString("\n")
	if verb.Detail != "" {
		fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(verb.Detail))
	}
	if len(args) > 0 {
		b.WriteString("\n## Arguments\n\n")
		writeTable(b, []string{"Argument", "Meaning"}, args)
	}
	if len(verb.Flags) > 0 {
		b.WriteString("\n## Flags\n\n")
		writeFlags(b, verb.Flags)
	}
	b.WriteString("\nSRC and DEST, the flags of every verb and the exit status are in [the list of verbs](" + verbIndex + ").\n")
	return b.String()
}

// writeFlags renders flags with their defaults and environment variables.
func writeFlags(b *strings.Builder, flags []*kong.Flag) {
	rows := [][]string{}
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		value := f.Default
		switch {
		case f.Name == "root":
			// It depends on who asks.
			value = "/var/lib/ckarchive; for other users than root $XDG_DATA_HOME/ckarchive"
		case f.IsBool():
			value = ""
		}
		rows = append(rows, []string{flagSyntax(f), value, code(strings.Join(f.Envs, ", ")), f.Help})
	}
	writeTable(b, []string{"Flag", "Default", "Environment", "Meaning"}, rows)
}

// flagSyntax is a flag as it is typed.
func flagSyntax(f *kong.Flag) string {
	text := "--" + f.Name
	if f.Tag.Negatable != "" {
		text = "--[no-]" + f.Name
	}
	if f.Short != 0 {
		text = "-" + string(f.Short) + ", " + text
	}
	if !f.IsBool() {
		text += " " + valueName(f)
	}
	return code(text)
}

// valueName is what stands for a flag's value: its placeholder, its choices, or its type.
func valueName(f *kong.Flag) string {
	switch {
	case f.PlaceHolder != "":
		return f.PlaceHolder
	case f.Enum != "":
		return strings.ReplaceAll(f.Enum, ",", "|")
	case f.Target.Type().String() == "time.Duration":
		return "DURATION"
	}
	return strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// writeTable renders a Markdown table and leaves out columns that are empty in every row.
func writeTable(b *strings.Builder, head []string, rows [][]string) {
	used := []int{}
	for i := range head {
		for _, row := range rows {
			if row[i] != "" {
				used = append(used, i)
				break
			}
		}
	}
	line := func(cells []string) {
		for _, i := range used {
			b.WriteString("| " + strings.ReplaceAll(cells[i], "|", `\|`) + " ")
		}
		b.WriteString("|\n")
	}
	line(head)
	b.WriteString(strings.Repeat("|---", len(used)) + "|\n")
	for _, row := range rows {
		line(row)
	}
}
