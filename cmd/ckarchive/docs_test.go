package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
)

var update = flag.Bool("update", false, "write the pages in docs/verbs instead of comparing them")

// repository is the top of the checkout, as this package's tests see it.
const repository = "../.."

// TestVerbPages keeps docs/verbs what the command line is.
func TestVerbPages(t *testing.T) {
	dir := filepath.Join(repository, "docs", "verbs")
	pages := verbPages(testModel(t))
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range pages {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("docs/verbs/%s is not what the command line says (%v): run go generate ./cmd/ckarchive", name, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := pages[e.Name()]; ok {
			continue
		}
		if *update {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Errorf("docs/verbs/%s is of no verb: run go generate ./cmd/ckarchive", e.Name())
	}
}

func testModel(t *testing.T) *kong.Application {
	t.Helper()
	a := &app{stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	parser, err := a.newParser()
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

// documents gives the text of README.md and of everything in docs, by path from the top.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, top := range []string{"README.md", "CHANGELOG.md", "docs"} {
		err := filepath.WalkDir(filepath.Join(repository, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
				return err
			}
			b, err := os.ReadFile(path)
			name, rerr := filepath.Rel(repository, path)
			texts[name] = string(b)
			return errors.Join(err, rerr)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

// blocks gives the fenced blocks of a language.
func blocks(text, language string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

// TestDocumentedCommands keeps the examples what the command line takes: each verb and each of
// its flags exists.
func TestDocumentedCommands(t *testing.T) {
	model := testModel(t)
	command := regexp.MustCompile(`\bckarchive ([^|;)#\n]*)`)
	seen := 0
	for name, text := range documents(t) {
		for _, block := range blocks(text, "sh") {
			for _, m := range command.FindAllStringSubmatch(strings.ReplaceAll(block, "\\\n", " "), -1) {
				seen++
				if err := checkCommand(model, strings.Fields(m[1])); err != nil {
					t.Errorf("%s: ckarchive %s: %v", name, m[1], err)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d commands found, want those of README.md", seen)
	}
}

func checkCommand(model *kong.Application, words []string) error {
	flags := flagNames(model.Flags)
	verb := ""
	for _, word := range words {
		switch {
		case strings.HasPrefix(word, "-") && word != "-":
			flag, _, _ := strings.Cut(word, "=")
			if !flags[flag] {
				return fmt.Errorf("no flag %s", flag)
			}
		case verb == "":
			verb = word
			for _, node := range model.Children {
				if node.Name == verb {
					for flag := range flagNames(node.Flags) {
						flags[flag] = true
					}
				}
			}
			if len(flags) == len(flagNames(model.Flags)) && !bareVerbs(model)[verb] {
				return fmt.Errorf("no verb %s", verb)
			}
		}
	}
	return nil
}

// bareVerbs are the verbs without flags of their own.
func bareVerbs(model *kong.Application) map[string]bool {
	verbs := map[string]bool{}
	for _, node := range model.Children {
		verbs[node.Name] = len(node.Flags) == 0
	}
	return verbs
}

func flagNames(flags []*kong.Flag) map[string]bool {
	names := map[string]bool{}
	for _, f := range flags {
		names["--"+f.Name] = true
		if f.Short != 0 {
			names["-"+string(f.Short)] = true
		}
	}
	return names
}

// TestCheckCommand makes sure that TestDocumentedCommands can fail.
func TestCheckCommand(t *testing.T) {
	model := testModel(t)
	for _, tt := range []struct {
		line string
		ok   bool
	}{
		{"export --base /b web ./x.tar", true},
		{"-q export -R web -", true},
		{"recover", true},
		{"recover --base /b", false},
		{"exprt web ./x.tar", false},
		{"export --bases=/b web ./x.tar", false},
		{"--base /b export web ./x.tar", false},
	} {
		if err := checkCommand(model, strings.Fields(tt.line)); (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want ok %v", tt.line, err, tt.ok)
		}
	}
}

// TestDocumentedVerbs keeps the README's tables complete.
func TestDocumentedVerbs(t *testing.T) {
	readme := documents(t)["README.md"]
	for _, verb := range testModel(t).Children {
		if link := fmt.Sprintf("[%s](docs/verbs/%s.md)", verb.Name, verb.Name); !verb.Hidden && !strings.Contains(readme, link) {
			t.Errorf("README.md lacks %s", link)
		}
	}
	for _, status := range []int{
		exitDiffer, exitUsage, exitRejected, exitNotFound, exitEnvironment, exitDumpRunning, exitDumpLost, exitRestore, exitRegistry, exitFinalStep,
	} {
		if row := fmt.Sprintf("\n| %d | ", status); !strings.Contains(readme, row) {
			t.Errorf("README.md does not explain exit status %d", status)
		}
	}
}

// TestDocumentedLinks finds links that lead nowhere.
func TestDocumentedLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(repository, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: link %s: %v", name, m[1], err)
			}
		}
	}
}

// TestDocumentedTests finds promises whose test is gone.
func TestDocumentedTests(t *testing.T) {
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(b, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range documents(t) {
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`").FindAllStringSubmatch(text, -1) {
			if !declared[m[1]] {
				t.Errorf("%s names %s, which is no test", name, m[1])
			}
		}
	}
}

// copyProven copies a checkpoint file. The copy gets its name only if every member of the
// original was there and had its digest.
func copyProven(ctx context.Context, dst, src string) (err error) {
	in, err := archive.OpenFile(src, archive.ReaderOptions{})
	if err != nil {
		return err
	}
	proven := archive.NewVerified(in)
	defer func() { err = errors.Join(err, proven.Close()) }()
	out, err := archive.CreateFile(dst, archive.FileOptions{Compression: archive.Zstd})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := archive.Copy(ctx, out, proven, archive.CopyOptions{}); err != nil {
		return err
	}
	return out.Commit(ctx)
}

// TestReadmeProgram runs the Go example of the README, which is copyProven word for word.
func TestReadmeProgram(t *testing.T) {
	self, err := os.ReadFile("docs_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks(documents(t)["README.md"], "go") {
		if !strings.Contains(string(self), block) {
			t.Errorf("this test does not hold the README's program:\n%s", block)
		}
	}
	ctx, dir := t.Context(), t.TempDir()
	good, bad := filepath.Join(dir, "good.tar"), filepath.Join(dir, "bad.tar")
	files := archivetest.Checkpoint()
	writeCheckpoint(t, good, files)
	for i := range files {
		if files[i].Name == archive.Image(archive.Inventory) {
			files[i].Content = append([]byte("not"), files[i].Content[3:]...)
		}
	}
	writeCheckpoint(t, bad, files)
	dst := filepath.Join(dir, "copy.tar.zst")
	if err := copyProven(ctx, dst, bad); !errors.Is(err, archive.ErrRejected) {
		t.Errorf("copy of a damaged checkpoint: got %v, want %v", err, archive.ErrRejected)
	}
	if _, err := os.Stat(dst); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a failed copy: got %v, want %v", err, fs.ErrNotExist)
	}
	if err := copyProven(ctx, dst, good); err != nil {
		t.Fatal(err)
	}
	src, err := archive.OpenFile(dst, archive.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // read side
	if rep, err := archive.Verify(ctx, src, archive.CopyOptions{}); err != nil || !rep.Proven {
		t.Errorf("verify the copy: got proven %v, %v", rep.Proven, err)
	}
}

func writeCheckpoint(t *testing.T, path string, files []archivetest.File) {
	t.Helper()
	out, err := archive.CreateFile(path, archive.FileOptions{Compression: archive.Uncompressed})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() //nolint:errcheck // after Commit there is nothing left to discard
	if _, err := archive.Copy(t.Context(), out, archivetest.Source(files), archive.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := out.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}
