package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
)

// schemas are the documents that have one, by the name of the file in docs/schemas.
func schemas() map[string]schemaOf {
	return map[string]schemaOf{
		"ckarchive.json":  {"ckarchive.json: the metadata of a checkpoint", []any{archive.Metadata{}}},
		"inspect.json":    {"What ckarchive inspect --format json prints", []any{summary{}}},
		"diff.json":       {"What ckarchive diff --format json prints", []any{diffReport{}}},
		"list.json":       {"What ckarchive --json list prints", []any{[]listed{}}},
		"containers.json": {"What ckarchive --json list --containers prints", []any{[]listedContainer{}}},
		"export.json":     {"What ckarchive --json export prints", []any{exportResult{}}},
		"transfer.json":   {"What ckarchive --json push, pull, import, convert, flatten, sign, tag and, for each name, rm print", []any{transferResult{}}},
		"restore.json":    {"What ckarchive --json restore prints, and with --count the list of them", []any{restoreResult{}, []restoreResult{}}},
		"verify.json":     {"What ckarchive --json verify prints", []any{verifyResult{}}},
		"gc.json":         {"What ckarchive --json gc prints", []any{gcResult{}}},
		"recover.json":    {"What ckarchive --json recover prints", []any{[]recoverResult{}}},
		"error.json":      {"What ckarchive --json prints of an error, as the last line on standard error", []any{errorReport{}}},
		"check.json":      {"What ckarchive --json check prints: of a host, of a container, of a checkpoint", []any{[]finding{}, containerReport{}, sourceReport{}}},
	}
}

type schemaOf struct {
	title string
	forms []any
}

// words are the values of strings that have no others.
func words() map[string][]string {
	return map[string][]string{
		"archive.Metadata.Format":    {archive.FormatCRIU, archive.FormatGVisor},
		"main.difference.Change":     {changeAdded, changeRemoved, changeChanged},
		"main.reason.Verdict":        {string(verdictOK), string(verdictWarning), string(verdictBlocker)},
		"criu.Finding.Severity":      {string(criu.Blocker), string(criu.Warning), string(criu.Info)},
		"archive.External.Kind":      {"mount", "file", "tty", "unix", "net", "pid"},
		"archive.Rootfs.Method":      {"overlay", "directory", "whole"},
		"archive.Host.CgroupVersion": {"v1", "v2", "hybrid", ""},
	}
}

// nullable are lists that are null if nothing is known.
func nullable(field string) bool {
	return field == "archive.Metadata.Members" || field == "criu.Report.Findings"
}

// schemaMaker makes schemas of types. What the comments of fields say becomes their description.
type schemaMaker struct {
	comments map[string]string // by package.Type.Field
	words    map[string][]string
	defs     map[string]any
}

// TestSchemas keeps docs/schemas what the types are.
func TestSchemas(t *testing.T) {
	comments := map[string]string{}
	for _, dir := range []string{".", "../../archive", "../../archive/capture", "../../criu"} {
		fieldComments(t, dir, comments)
	}
	formats, err := os.ReadFile(filepath.Join(repository, "docs", "formats.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range schemas() {
		m := &schemaMaker{comments: comments, words: words(), defs: map[string]any{}}
		schema := map[string]any{
			"$schema": "https://json-schema.org/draft/2020-12/schema",
			"$id":     "https://github.com/ckarchive/ckarchive/blob/main/docs/schemas/" + name,
			"title":   doc.title,
			"$defs":   m.defs,
		}
		forms := []any{}
		for _, v := range doc.forms {
			forms = append(forms, m.of(reflect.TypeOf(v), ""))
		}
		schema["oneOf"] = forms
		if len(forms) == 1 {
			delete(schema, "oneOf")
			maps.Copy(schema, forms[0].(map[string]any))
		}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(schema); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(repository, "docs", "schemas", name)
		if *update {
			if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("docs/schemas/%s is not what the types are (%v): run go generate ./cmd/ckarchive", name, err)
		}
		if !strings.Contains(string(formats), "(schemas/"+name+")") {
			t.Errorf("docs/formats.md does not name %s", name)
		}
	}
}

// of gives the schema of a type; field is package.Type.Field where it is one's.
func (m *schemaMaker) of(t reflect.Type, field string) any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case m.words[field] != nil:
		return map[string]any{"enum": m.words[field]}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return m.of(t.Elem(), field)
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Slice:
		list := map[string]any{"type": "array", "items": m.of(t.Elem(), "")}
		if nullable(field) {
			list["type"] = []string{"array", "null"}
		}
		return list
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": m.of(t.Elem(), "")}
	case reflect.Struct:
		if m.defs[t.Name()] == nil {
			def := map[string]any{"type": "object"}
			m.defs[t.Name()] = def // before its fields, which may be of the same type
			properties, required := map[string]any{}, []string{}
			m.fields(t, properties, &required)
			def["properties"] = properties
			if len(required) > 0 {
				def["required"] = required
			}
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	}
	panic(fmt.Sprintf("no schema of %s", t))
}

func (m *schemaMaker) fields(t reflect.Type, properties map[string]any, required *[]string) {
	for f := range t.Fields() {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			m.fields(f.Type, properties, required)
			continue
		}
		if tag == "" || tag == "-" {
			continue
		}
		field := t.String() + "." + f.Name
		schema := m.of(f.Type, field).(map[string]any)
		if text := m.comments[field]; text != "" {
			schema["description"] = text
		}
		properties[tag] = schema
		if options == "" {
			*required = append(*required, tag)
		}
	}
}

// fieldComments reads the comments of the fields of structs in a directory.
func fieldComments(t *testing.T, dir string, into map[string]string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					text := strings.Join(strings.Fields(f.Doc.Text()+" "+f.Comment.Text()), " ")
					for _, n := range f.Names {
						into[file.Name.Name+"."+spec.Name.Name+"."+n.Name] = text
					}
				}
			}
			return true
		})
	}
}

// validate holds a document against a schema of docs/schemas.
func validate(t *testing.T, schema string, document []byte) error {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(filepath.Join(repository, "docs", "schemas", schema))
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatalf("%v: %s", err, document)
	}
	return s.Validate(v)
}

// TestSchemasHold holds real output against the schemas.
func TestSchemasHold(t *testing.T) {
	archives := "../../archive/foreign/testdata/"
	root := t.TempDir()
	output := func(args ...string) []byte {
		t.Helper()
		var out, said bytes.Buffer
		a := &app{stdout: &out, stderr: &said, getenv: func(string) string { return "" }}
		status := a.main(t.Context(), append([]string{"--root", filepath.Join(root, "store"), "--run-dir", filepath.Join(root, "run"), "--json"}, args...))
		if out.Len() == 0 {
			t.Fatalf("ckarchive %q: status %d, %s", args, status, said.String())
		}
		return out.Bytes()
	}
	for _, tt := range []struct {
		schema string
		args   []string
	}{
		{"inspect.json", []string{"inspect", archives + "crio.tar.zst"}},
		{"inspect.json", []string{"inspect", "--tree", "--env", archives + "podman-volume.tar.zst"}},
		{"inspect.json", []string{"inspect", "--tree", "--files", archives + "containerd-cri.tar.zst"}},
		{"diff.json", []string{"diff", archives + "crio.tar.zst", archives + "crio.tar.zst"}},
		{"diff.json", []string{"diff", archives + "podman-hostnet.tar.zst", archives + "podman-volume.tar.zst"}},
		{"check.json", []string{"check", archives + "podman-volume.tar.zst"}},
		{"check.json", []string{"check"}},
		{"transfer.json", []string{"import", archives + "crio.tar.zst", "a:1"}},
		{"transfer.json", []string{"push", "a:1", "oci:" + filepath.Join(root, "layout") + ":1"}},
		{"list.json", []string{"list"}},
		{"verify.json", []string{"verify", "a:1"}},
	} {
		document := output(tt.args...)
		if err := validate(t, tt.schema, document); err != nil {
			t.Errorf("ckarchive %q: %v", tt.args, err)
		}
		// Each of them notices when something has another type.
		wrong := bytes.Replace(document, []byte(`": "`), []byte(`": 7, "x": "`), 1)
		if err := validate(t, tt.schema, wrong); err == nil {
			t.Errorf("ckarchive %q: a number instead of a string is not noticed", tt.args)
		}
	}
	for _, tt := range []struct {
		schema string
		args   []string
	}{
		{"list.json", []string{"--root", filepath.Join(root, "empty"), "list"}},
		{"containers.json", []string{"list", "--containers", "--runtime", "direct"}},
		{"gc.json", []string{"gc"}},
	} {
		if err := validate(t, tt.schema, output(tt.args...)); err != nil {
			t.Errorf("ckarchive %q: %v", tt.args, err)
		}
	}
	meta := &archive.Metadata{
		FormatVersion: archive.FormatVersion, Format: archive.FormatCRIU, Tool: "ckarchive/test", Created: time.Unix(1, 0).UTC(),
		Container: archive.Container{ID: "c", Runtime: archive.Runtime{Name: "runc"}}, Host: archive.Host{CgroupVersion: "v2"},
	}
	document, err := meta.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(t, "ckarchive.json", document); err != nil {
		t.Error(err)
	}
	meta.Format = "other"
	if document, err = meta.Marshal(); err != nil {
		t.Fatal(err)
	}
	if err := validate(t, "ckarchive.json", document); err == nil {
		t.Error("another format is taken")
	}
}
